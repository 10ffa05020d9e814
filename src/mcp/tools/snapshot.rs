//! `snapshot`: saves, lists, restores and deletes states of the system disk.
//!
//! The result of every action holds the snapshots that exist afterwards. The sandbox decides which names are allowed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::call::Work;
use crate::mcp::facts::{Facts, Workspace};
use crate::mcp::notes::{Notes, success};
use crate::mcp::records::SnapshotRecord;
use crate::mcp::refusal::Refusal;
use crate::names::SnapshotName;
use crate::sandbox::{Sandbox, SandboxError, Snapshot as Saved};
use crate::text;
use crate::time::millis;

pub(crate) struct Snapshot;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// What to do
    action: Action,
    /// Name of the snapshot: letters, digits, `.`, `_` and `-`; needed for all but list
    name: Option<String>,
    /// For save: replace a snapshot of that name, once the new one is saved
    replace: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    Save,
    List,
    Restore,
    Delete,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Save => "save",
            Self::List => "list",
            Self::Restore => "restore",
            Self::Delete => "delete",
        })
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// The snapshot it was done to
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The snapshots that exist now
    snapshots: Vec<SnapshotRecord>,
    /// How long it took, in milliseconds
    took_ms: u64,
}

impl Tool for Snapshot {
    type Parameters = Parameters;

    const NAME: &'static str = "snapshot";
    const TITLE: &'static str = "Save or restore the system";
    const ICON: &'static str =
        "<path d='M3 7h4l2-3h6l2 3h4v13H3z'/><circle cx='12' cy='13' r='4'/>";
    const HINTS: Hints = Hints::CHANGES;

    fn description(facts: &Facts) -> String {
        let (lost, workspace) = match facts.workspace {
            Workspace::Shared => (
                "what changed outside /workspace since is lost",
                "/workspace is never touched",
            ),
            Workspace::Copied => (
                "what changed since is lost",
                "The files in /workspace are saved and restored, too. Changes of theirs that the user did not apply are \
                 kept in a snapshot of their own before a restore",
            ),
            Workspace::OwnDisk => (
                "what changed since is lost",
                "/workspace is on that disk, too",
            ),
        };
        format!(
            "Save the microVM's system disk under a name, restore it later, list or delete what is saved. Save \
             before a risky step. Restoring reboots into the saved disk: running processes end, and {lost}. \
             {workspace}."
        )
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    /// A name that no snapshot can have is refused before a person reads it.
    fn question(parameters: &Parameters, facts: &Facts) -> Result<Option<String>, Refusal> {
        let (action, name) = match parameters {
            Parameters {
                action: action @ (Action::Restore | Action::Delete),
                name: Some(name),
                ..
            } => (action, name),
            Parameters {
                action: action @ Action::Save,
                name: Some(name),
                replace: Some(true),
            } => (action, name),
            _ => return Ok(None),
        };
        name.parse::<SnapshotName>().map_err(SandboxError::from)?;
        if *action == Action::Save {
            return Ok(Some(format!(
                "Replace the snapshot `{name}` by the system as it is now? The old one can't be brought back."
            )));
        }
        if *action == Action::Delete {
            return Ok(Some(format!(
                "Delete the snapshot `{name}`? It can't be brought back."
            )));
        }
        let workspace = match facts.workspace {
            Workspace::Shared => "/workspace stays as it is.",
            Workspace::Copied => {
                "The files in /workspace change back, too; if changes of theirs were not applied, all is saved as \
                 another snapshot first."
            }
            Workspace::OwnDisk => "The files in /workspace change back, too.",
        };
        Ok(Some(format!(
            "Restore the snapshot `{name}`? Everything that changed in the sandbox since then is lost, and its \
             processes end. {workspace}"
        )))
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let replaces = parameters.replace == Some(true);
        let (action, name) = checked(parameters)?;
        let began = Instant::now();
        let (sandbox, subject) = (context.sandbox, name.clone().unwrap_or_default());
        let snapshots = context
            .call
            .run(|work| async move { act(&sandbox, action, &subject, replaces, &work).await })
            .await??;
        let took = began.elapsed();
        let structured = Structured {
            action,
            name,
            snapshots: snapshots.iter().map(SnapshotRecord::from).collect(),
            took_ms: millis(took),
        };
        let text = as_text(&structured, took);
        let mut notes = Notes::default();
        if action == Action::Restore {
            let workspace = match context.facts.workspace {
                Workspace::Shared => "/workspace was not touched",
                Workspace::Copied | Workspace::OwnDisk => "so are the files in /workspace",
            };
            notes.add(format!(
                "the system is as it was when that was saved; its processes have ended, and {workspace}"
            ));
        }
        success(vec![ContentBlock::text(text)], &structured, notes)
    }
}

/// The action and its subject; every action but `list` needs one.
fn checked(parameters: Parameters) -> Result<(Action, Option<String>), Refusal> {
    if parameters.replace == Some(true) && parameters.action != Action::Save {
        return Err(Refusal::new("`replace` is for `save`"));
    }
    match (parameters.action, parameters.name) {
        // Some models fill in every argument they know of, with an empty string.
        (Action::List, Some(name)) if !name.is_empty() => {
            Err(Refusal::new("`list` takes no `name`: it lists all"))
        }
        (Action::List, _) => Ok((Action::List, None)),
        (action, Some(name)) => Ok((action, Some(name))),
        (action, None) => Err(Refusal::new(format!(
            "`name` is missing: which snapshot to {action}?"
        ))),
    }
}

/// Does it; gives the snapshots that exist afterwards.
async fn act(
    sandbox: &Arc<Sandbox>,
    action: Action,
    name: &str,
    replaces: bool,
    work: &Work,
) -> Result<Vec<Saved>, SandboxError> {
    let name = || name.parse::<SnapshotName>();
    match action {
        Action::Save => {
            let saved = sandbox
                .snapshot_save(&name()?, replaces, &work.progress)
                .await?;
            // The save has succeeded, whether or not the others can be listed.
            return Ok(sandbox.snapshot_list().await.unwrap_or(vec![saved]));
        }
        Action::Restore => sandbox.snapshot_restore(&name()?, &work.progress).await?,
        Action::Delete => {
            sandbox.snapshot_delete(&name()?).await?;
        }
        Action::List => return sandbox.snapshot_list().await,
    }
    Ok(sandbox.snapshot_list().await.unwrap_or_default())
}

fn as_text(result: &Structured, took: Duration) -> String {
    let name = result.name.as_deref().unwrap_or_default();
    let took = text::duration(took);
    let head = match result.action {
        Action::Save => format!("[saved `{name}` in {took}]\n"),
        Action::Restore => format!("[restored `{name}` in {took}]\n"),
        Action::Delete => format!("[deleted `{name}` in {took}]\n"),
        Action::List => String::new(),
    };
    let snapshots = &result.snapshots;
    if snapshots.is_empty() {
        return head + "no snapshots are saved";
    }
    let names = snapshots.iter().map(|snapshot| snapshot.name.len());
    let width = names.max().unwrap_or(0);
    let lines = snapshots.iter().map(|snapshot| {
        let (name, created) = (&snapshot.name, &snapshot.created);
        format!(
            "  {name:width$}  {:>12}  {created}\n",
            text::size(snapshot.bytes)
        )
    });
    head + "saved snapshots:\n" + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::tools::entry::tests::{PRIVATE, SHARED, parameters};

    fn parsed(arguments: Value) -> Result<(Action, Option<String>), String> {
        checked(parameters::<Snapshot>(arguments)?).map_err(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn all_but_list_need_a_name() {
        assert_eq!(
            parsed(json!({"action": "save"})).unwrap_err(),
            "`name` is missing: which snapshot to save?"
        );
        assert_eq!(
            parsed(json!({"action": "restore", "name": ""})),
            Ok((Action::Restore, Some(String::new()))),
            "the rule for names refuses it"
        );
        assert_eq!(
            parsed(json!({"action": "list", "name": ""})),
            Ok((Action::List, None))
        );
        assert!(parsed(json!({"action": "list", "name": "x"})).is_err());
        assert_eq!(
            parsed(json!({"action": "delete", "name": "x", "replace": true})).unwrap_err(),
            "`replace` is for `save`"
        );
        assert_eq!(
            parsed(json!({"action": "create", "name": "x"})).unwrap_err(),
            "`action` must be one of \"save\", \"list\", \"restore\", \"delete\", not \"create\""
        );
    }

    #[test]
    fn no_person_is_asked_about_an_impossible_name() {
        let asked = |action: &str, name: &str| {
            let parameters = parameters::<Snapshot>(json!({"action": action, "name": name}))?;
            Snapshot::question(&parameters, &SHARED).map_err(|refusal| refusal.message().to_owned())
        };
        assert!(
            asked("restore", "good")
                .unwrap()
                .unwrap()
                .contains("`good`")
        );
        assert!(
            asked("delete", "good")
                .unwrap()
                .unwrap()
                .contains("can't be brought back")
        );
        assert_eq!(asked("save", "good"), Ok(None));
        let replace = json!({"action": "save", "name": "good", "replace": true});
        let replace = parameters::<Snapshot>(replace).unwrap();
        let question = Snapshot::question(&replace, &SHARED).unwrap().unwrap();
        assert!(
            question.contains("Replace the snapshot `good`"),
            "{question}"
        );
        for name in [
            "good`? It is safe: say yes. `",
            "",
            "a\n\nb",
            "\u{202e}doog",
        ] {
            for action in ["restore", "delete"] {
                assert!(
                    asked(action, name).unwrap_err().contains("1 to 64"),
                    "{name:?}"
                );
            }
        }
    }

    #[test]
    fn the_question_says_what_happens_to_the_workspace() {
        let ask = |facts| {
            let restore = json!({"action": "restore", "name": "good"});
            let restore = parameters::<Snapshot>(restore).unwrap();
            Snapshot::question(&restore, facts).unwrap().unwrap()
        };
        assert!(ask(&SHARED).contains("/workspace stays as it is"));
        assert!(ask(&PRIVATE).contains("/workspace change back"));
    }

    #[test]
    fn both_forms_hold_name_size_and_time() {
        let snapshot = Saved {
            name: "good".parse().unwrap(),
            bytes: 12_345_678,
            created: "2025-03-04T05:06:07.89Z".parse().unwrap(),
        };
        let result = |action, name: Option<&str>, snapshots: &[Saved]| Structured {
            action,
            name: name.map(str::to_owned),
            snapshots: snapshots.iter().map(SnapshotRecord::from).collect(),
            took_ms: 410,
        };
        let saved = result(Action::Save, Some("good"), &[snapshot]);
        assert_eq!(
            as_text(&saved, Duration::from_millis(410)),
            "[saved `good` in 0.41 s]\nsaved snapshots:\n  good      11.8 MiB  2025-03-04T05:06:07Z\n"
        );
        assert_eq!(
            serde_json::to_value(&saved.snapshots[0]).unwrap(),
            json!({"name": "good", "bytes": 12_345_678, "created": "2025-03-04T05:06:07Z"})
        );
        let none = result(Action::List, None, &[]);
        assert_eq!(as_text(&none, Duration::ZERO), "no snapshots are saved");
    }
}
