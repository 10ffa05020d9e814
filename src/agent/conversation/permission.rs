//! What crosses the sandbox's border is asked about; what stays inside never is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use crate::agent::event::{Event, Lasting, Question, Reply, Reports};
use crate::agent::message::Call;
use crate::agent::servers::Servers;
use crate::config::Config;
use crate::{files, private};

/// What a call does that a person must have allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Crossing {
    /// Throws away the machine's present state, and what was done in it.
    Restore,
    /// Calls a tool of a server that is not the sandbox's.
    Server(String),
    /// Changes the sandbox by this tool, where a person wants to be asked about that, too.
    Inside(String),
}

/// What was allowed.
#[derive(Debug)]
pub(super) struct Permissions {
    /// Whether what stays inside the sandbox needs no question.
    yes_inside: bool,
    /// Where what was allowed for ever is kept.
    file: PathBuf,
    /// Without a question in this session. Locked while a person is asked: the answer may be one to the next question.
    allowed: Mutex<BTreeSet<Crossing>>,
}

/// What a call crosses, if anything. `foreign`: the tool is one of another server than the sandbox's.
fn crossing(call: &Call, foreign: bool, yes_inside: bool) -> Option<Crossing> {
    if foreign {
        return Some(Crossing::Server(call.name.clone()));
    }
    let action = call.arguments.get("action").and_then(Value::as_str);
    match (call.name.as_str(), action) {
        ("snapshot", Some("restore")) | ("reboot", _) => Some(Crossing::Restore),
        (tool, _) if !yes_inside && changes_machine(tool) => {
            Some(Crossing::Inside(tool.to_owned()))
        }
        _ => None,
    }
}

/// Whether a tool of the sandbox's server may change the machine.
pub(super) fn changes_machine(tool: &str) -> bool {
    matches!(tool, "exec" | "write" | "edit" | "job" | "reboot")
}

impl Permissions {
    /// What was allowed for this project for ever.
    pub(super) fn load(config: &Config, yes_inside: bool) -> Self {
        let (data_dir, project) = (&config.host.dirs.data, &config.sandbox.project_dir);
        let file = crate::agent::session::project_dir(data_dir, project).join("allowed.json");
        let allowed = always(&file).unwrap_or_default();
        Self {
            yes_inside,
            file,
            allowed: Mutex::new(allowed),
        }
    }

    /// Asks about a call if that is necessary. An error is what the model is told.
    pub(super) async fn check(
        &self,
        call: &Call,
        servers: &Servers,
        reports: &Reports,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let foreign = servers.is_foreign(&call.name);
        let Some(crossing) = crossing(call, foreign, self.yes_inside) else {
            return Ok(());
        };
        let mut allowed = self.allowed.lock().await;
        if allowed.contains(&crossing) {
            return Ok(());
        }
        let (answer, reply) = oneshot::channel();
        let question = Question {
            from: "snowglobe".into(),
            text: question(call, &crossing),
            fields: Vec::new(),
            lasting: true,
            answer,
        };
        reports.send(Event::Ask(question)).ok();
        let Some(Ok(Reply::Accept(_, lasting))) = cancel.run_until_cancelled(reply).await else {
            return Err("the person did not allow this: nothing was done".to_owned());
        };
        if lasting == Lasting::Always
            && let Err(error) = self.keep(crossing.clone())
        {
            let notice = format!(
                "the permission holds for this session only: failed to write {}: {error}",
                self.file.display()
            );
            reports.send(Event::Notice(notice)).ok();
        }
        if lasting != Lasting::Once {
            allowed.insert(crossing);
        }
        Ok(())
    }

    /// Adds to the file. Only what was allowed for ever is in it.
    fn keep(&self, crossing: Crossing) -> std::io::Result<()> {
        let mut always = always(&self.file)?;
        always.insert(crossing);
        if let Some(parent) = self.file.parent() {
            private::dir(parent)?;
        }
        files::replace(&self.file, &serde_json::to_vec_pretty(&always)?)
    }
}

/// What was allowed for ever.
fn always(file: &Path) -> std::io::Result<BTreeSet<Crossing>> {
    match std::fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// What a person is asked.
fn question(call: &Call, crossing: &Crossing) -> String {
    let arguments = call.arguments.to_string();
    let arguments = crate::text::middle_cut(&arguments, 600);
    match crossing {
        Crossing::Restore => format!(
            "Let the model call `{}` {arguments}? What was done in the machine since is lost, outside of a shared /workspace.",
            call.name
        ),
        Crossing::Server(tool) => format!(
            "Let the model call `{tool}` {arguments}? It is a tool of another server, outside of the sandbox."
        ),
        Crossing::Inside(tool) => format!("Let the model call `{tool}` {arguments}?"),
    }
}
