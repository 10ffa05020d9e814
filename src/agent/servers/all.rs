//! All servers of a session.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rmcp::model::{GetPromptRequestParams, JsonObject, ReadResourceRequestParams};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::event::{Event, Reports, SandboxState};
use super::super::message::{Call, CallResult};
use super::super::providers::Tool;
use super::super::session::project_dir;
use super::call::Progress;
use super::connect::{Own, Target};
use super::names::exposed;
use super::server::Server;
use super::settings;
use crate::text::{did_you_mean, middle_cut};

/// The most of a tool's description, in bytes.
const DESCRIPTION: usize = 10_000;

/// The most of a server's instructions, in bytes.
const INSTRUCTIONS: usize = 20_000;

/// The most of a prompt, in bytes.
const PROMPT: usize = 100_000;

/// The most of a list of prompts, in bytes.
const KNOWN: usize = 2_000;

/// How long a question beside the conversation may take: a completion, the number of jobs, a prompt.
const ASIDE: Duration = Duration::from_secs(3);

/// Tools that answer without a machine.
const WITHOUT_MACHINE: [&str; 2] = ["job", "snapshot"];

/// The server's words for the two steps of a boot.
const BOOTS: [&str; 2] = ["starting the VM", "booting the guest"];

/// The servers of a session.
#[derive(Debug)]
pub(crate) struct Servers {
    /// Snowglobe's own is the first.
    servers: Vec<Arc<Server>>,
    /// Which tool of which server a name means.
    routes: Mutex<BTreeMap<String, (usize, String)>>,
}

impl Servers {
    /// Begins to connect to all servers, and does not wait for that.
    pub(crate) fn start(own: Own, reports: &Reports) -> Self {
        let config = &own.config;
        let (others, notices) = settings::read(config);
        for notice in notices {
            reports.send(Event::Notice(notice)).ok();
        }
        let logs = project_dir(&config.host.dirs.data, &config.sandbox.project_dir);
        let others = others.into_iter().map(|named| {
            let name = named.name.clone();
            (name, Target::Named(Box::new(named), logs.clone()))
        });
        let own = (String::new(), Target::of_own(own));
        Self::of(std::iter::once(own).chain(others), reports)
    }

    /// These servers, each with its name.
    pub(super) fn of(
        targets: impl IntoIterator<Item = (String, Target)>,
        reports: &Reports,
    ) -> Self {
        let begin = |(name, target)| Server::begin(name, target, reports.clone());
        Self {
            servers: targets.into_iter().map(begin).collect(),
            routes: Mutex::default(),
        }
    }

    /// All tools, once every server has answered or failed. A server whose connection ended is connected anew.
    pub(crate) async fn tools(&self) -> Vec<Tool> {
        let listed = join_all(self.servers.iter().map(|server| server.tools())).await;
        let (mut tools, mut routes) = (Vec::new(), BTreeMap::new());
        for (index, (server, listed)) in self.servers.iter().zip(listed).enumerate() {
            for tool in listed.iter() {
                let name = exposed(&server.name, &tool.name, |name| routes.contains_key(name));
                let description = tool.description.as_deref().unwrap_or_default();
                routes.insert(name.clone(), (index, tool.name.to_string()));
                tools.push(Tool {
                    name,
                    description: middle_cut(description, DESCRIPTION).into_owned(),
                    schema: Value::Object((*tool.input_schema).clone()),
                });
            }
        }
        *self.routes() = routes;
        tools
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<String, (usize, String)>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the servers tell a model about themselves.
    pub(crate) async fn instructions(&self) -> String {
        let connections = join_all(self.servers.iter().map(|server| server.connected(false))).await;
        let told = self
            .servers
            .iter()
            .zip(connections)
            .filter_map(|(server, connection)| {
                let text = connection.ok()?.info()?.instructions.clone()?;
                let text = middle_cut(text.trim(), INSTRUCTIONS);
                match (text.is_empty(), server.is_own()) {
                    (true, _) => None,
                    (false, true) => Some(text.into_owned()),
                    (false, false) => Some(format!("# The server {}\n\n{text}", server.name)),
                }
            });
        told.collect::<Vec<_>>().join("\n\n")
    }

    /// Makes a call. What goes wrong is in the result. A cancelled call is cancelled at its server.
    pub(crate) async fn call(
        &self,
        call: &Call,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> CallResult {
        let arguments = match arguments(&call.arguments) {
            Ok(arguments) => arguments,
            Err(why) => return CallResult::text(call, why, true),
        };
        let mut route = self.routes().get(&call.name).cloned();
        if route.is_none() {
            // A server may have been connected since, or never been asked.
            cancel.run_until_cancelled(self.tools()).await;
            route = self.routes().get(&call.name).cloned();
        }
        let Some((index, tool)) = route else {
            return CallResult::text(call, self.unknown(&call.name), true);
        };
        let server = &self.servers[index];
        let booting = AtomicBool::new(false);
        let seen = |line: String| {
            let boots = BOOTS.iter().any(|step| line.starts_with(step));
            if boots && !booting.swap(true, Ordering::Relaxed) {
                server.sandbox(SandboxState::Booting);
            }
            progress(line);
        };
        let result = server.call(call, &tool, arguments, &seen, cancel).await;
        let booted = booting.into_inner();
        match result.is_error {
            false if booted || !WITHOUT_MACHINE.contains(&tool.as_str()) => {
                server.sandbox(SandboxState::Running);
            }
            true if booted => server.sandbox(SandboxState::Off),
            _ => {}
        }
        result
    }

    fn unknown(&self, name: &str) -> String {
        let routes = self.routes();
        let name: String = name.chars().take(100).collect();
        let known: Vec<&str> = routes.keys().map(String::as_str).collect();
        format!(
            "there is no tool {name:?}; {}the tools are: {}",
            did_you_mean(&name, known.iter().copied()),
            known.join(", ")
        )
    }

    /// Ends all connections, and the servers that were started as programs.
    pub(crate) async fn close(&self) {
        join_all(self.servers.iter().map(|server| server.close())).await;
    }

    /// Whether a tool is one of a server that is not Snowglobe's own.
    pub(crate) fn is_foreign(&self, tool: &str) -> bool {
        let routes = self.routes();
        routes.get(tool).is_some_and(|(index, _)| *index != 0)
    }

    /// The text of a server's prompt. What a person wrote after its name is its first argument. The error is a fragment that
    /// reads well after "failed to".
    pub(crate) async fn prompt(&self, name: &str, argument: &str) -> Result<String, String> {
        let mut known = BTreeMap::new();
        for server in &self.servers {
            let Some(connection) = server.present() else {
                continue;
            };
            let listed = tokio::time::timeout(ASIDE, connection.peer.list_prompts(None)).await;
            for prompt in listed.into_iter().flatten().flat_map(|all| all.prompts) {
                let name = exposed(&server.name, &prompt.name, |name| known.contains_key(name));
                known.insert(name, (connection.clone(), prompt));
            }
        }
        let Some((connection, prompt)) = known.remove(name) else {
            let known: Vec<String> = known.into_keys().collect();
            return Err(format!(
                "use /{name}: there is no such command, nor such a prompt of a server. `/help` shows the commands; the prompts \
                 are: {}",
                middle_cut(&known.join(", "), KNOWN)
            ));
        };
        let fail = |why: &str| format!("get the prompt {name}: {why}");
        let first = prompt.arguments.into_iter().flatten().next();
        let given = first.filter(|_| !argument.is_empty());
        let given = given.map(|first| (first.name, argument.into()));
        let request = GetPromptRequestParams::new(prompt.name)
            .with_arguments(given.into_iter().collect::<JsonObject>());
        let answer = tokio::time::timeout(ASIDE, connection.peer.get_prompt(request)).await;
        let answer = answer.map_err(|_| fail("the server does not answer"))?;
        let answer = answer.map_err(|error| fail(&crate::describe(&error)))?;
        let texts = answer.messages.iter();
        let texts = texts.filter_map(|one| Some(one.content.as_text()?.text.as_str()));
        let text = texts.collect::<Vec<_>>().join("\n\n");
        Ok(middle_cut(&text, PROMPT).into_owned())
    }

    /// Paths of the workspace for a completion, relative to it; directories end with `/`. Asks the server to complete the
    /// template `snowglobe://workspace/{path}`, which boots nothing.
    pub(crate) async fn paths(&self, begun: &str) -> Vec<String> {
        let Some(connection) = self.servers[0].present() else {
            return Vec::new();
        };
        let template = "snowglobe://workspace/{+path}{?offset,limit}";
        let asked = connection
            .peer
            .complete_resource_simple(template, "path", begun);
        let found = tokio::time::timeout(ASIDE, asked).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// How many jobs run in the guest, if that can be told without a boot.
    pub(crate) async fn jobs(&self) -> Option<usize> {
        let connection = self.servers[0].present()?;
        let request = ReadResourceRequestParams::new("snowglobe://jobs");
        let read = tokio::time::timeout(ASIDE, connection.peer.read_resource(request)).await;
        let read = serde_json::to_value(read.ok()?.ok()?).ok()?;
        let jobs: Vec<Value> = serde_json::from_str(read["contents"][0]["text"].as_str()?).ok()?;
        let runs = |job: &&Value| job["state"] == "running";
        Some(jobs.iter().filter(runs).count())
    }
}

/// The arguments of a call, or what the model is told of others.
fn arguments(given: &Value) -> Result<JsonObject, String> {
    let sent = match given {
        Value::Object(arguments) => return Ok(arguments.clone()),
        // Some models send nothing for a tool without arguments.
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match sent.trim().is_empty() {
        true => Ok(JsonObject::new()),
        false => Err(format!(
            "the arguments are no JSON object, so nothing was done. They were:\n{}",
            middle_cut(&sent, 2000)
        )),
    }
}
