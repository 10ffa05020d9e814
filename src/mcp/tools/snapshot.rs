//! `snapshot`: saves, lists, restores and deletes states of the system disk.
//!
//! Whatever was done, the result holds the snapshots that there are afterwards. Which names are allowed is
//! the sandbox's to say.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mcp::call::{Call, Notes, Refusal, Work, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::names::SnapshotName;
use crate::sandbox::{Sandbox, SandboxError, Snapshot};
use crate::text;

pub(crate) const NAME: &str = "snapshot";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// What to do
    action: Action,
    /// Name of the snapshot: letters, digits, `.`, `_` and `-`; needed for all but list
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    Save,
    List,
    Restore,
    Delete,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// The snapshot it was done to
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The snapshots there are now
    snapshots: Vec<Saved>,
    /// How long it took, in milliseconds
    took_ms: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Saved {
    /// Its name
    name: String,
    /// What it takes on the host's disk, in bytes
    bytes: u64,
    /// When it was saved (RFC 3339)
    created: String,
}

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Save the microVM's system disk under a name, restore it later, list or delete what is saved. Save \
         before a risky step. Restoring reboots into the saved disk: running processes end, and what changed \
         outside /workspace since is lost. /workspace is never touched.",
        schema::input::<Params>(),
    )
    .with_title("Save or restore the system")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Save or restore the system")
            .read_only(false)
            .destructive(true)
            .idempotent(false)
            .open_world(false),
    )
}

/// What a person is asked before a call with these arguments, if it can't be undone. A name that no snapshot can have
/// is refused before anybody reads it.
pub(crate) fn question(arguments: &JsonObject) -> Result<Option<String>, Refusal> {
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let (Some(action @ ("restore" | "delete")), Some(name)) = (text("action"), text("name")) else {
        return Ok(None);
    };
    name.parse::<SnapshotName>().map_err(SandboxError::from)?;
    Ok(Some(match action {
        "restore" => format!(
            "Restore the snapshot `{name}`? Everything that changed in the sandbox since then is lost, and what runs \
             there ends. /workspace stays as it is."
        ),
        _ => format!("Delete the snapshot `{name}`? It can't be brought back."),
    }))
}

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let (action, name) = checked(arguments::parse(tool, arguments)?)?;
    let began = Instant::now();
    let subject = name.clone().unwrap_or_default();
    let snapshots = call
        .run(|work| async move { act(&sandbox, action, &subject, &work).await })
        .await??;
    let took = began.elapsed();
    let text = as_text(action, name.as_deref(), &snapshots, took);
    let structured = Structured {
        action,
        name,
        snapshots: snapshots.iter().map(saved).collect(),
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    };
    let mut notes = Notes::default();
    if action == Action::Restore {
        notes.add(
            "the system is as it was when that was saved; what ran has ended, and /workspace was not touched",
        );
    }
    Ok(noted(
        result(vec![ContentBlock::text(text)], &structured)?,
        notes,
    ))
}

fn checked(params: Params) -> Result<(Action, Option<String>), Refusal> {
    match (params.action, params.name) {
        // Some models fill in every argument they know of.
        (Action::List, Some(name)) if !name.is_empty() => {
            Err(Refusal::new("`list` takes no `name`: it lists all"))
        }
        (Action::List, _) => Ok((Action::List, None)),
        (action, Some(name)) => Ok((action, Some(name))),
        (action, None) => Err(Refusal::new(format!(
            "`name` is missing: which snapshot to {}?",
            word(action)
        ))),
    }
}

async fn act(
    sandbox: &Arc<Sandbox>,
    action: Action,
    name: &str,
    work: &Work,
) -> Result<Vec<Snapshot>, SandboxError> {
    let name = || name.parse::<SnapshotName>();
    match action {
        Action::Save => {
            let saved = sandbox.snapshot_save(&name()?, &work.progress).await?;
            // What was saved is saved, whether or not the others can be listed.
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

fn word(action: Action) -> &'static str {
    match action {
        Action::Save => "save",
        Action::List => "list",
        Action::Restore => "restore",
        Action::Delete => "delete",
    }
}

/// A snapshot as results show it.
pub(crate) fn saved(snapshot: &Snapshot) -> Saved {
    Saved {
        name: snapshot.name.to_string(),
        bytes: snapshot.bytes,
        created: format!("{:.0}", snapshot.created),
    }
}

fn as_text(action: Action, name: Option<&str>, snapshots: &[Snapshot], took: Duration) -> String {
    let name = name.unwrap_or_default();
    let took = text::duration(took);
    let mut text = match action {
        Action::Save => format!("[saved `{name}` in {took}]\n"),
        Action::Restore => {
            format!("[restored `{name}` in {took}]\n")
        }
        Action::Delete => format!("[deleted `{name}` in {took}]\n"),
        Action::List => String::new(),
    };
    if snapshots.is_empty() {
        text.push_str("no snapshots are saved");
        return text;
    }
    text.push_str("saved snapshots:\n");
    let width = snapshots
        .iter()
        .map(|snapshot| snapshot.name.as_str().len())
        .max()
        .unwrap_or(0);
    for snapshot in snapshots {
        let _ = writeln!(
            text,
            "  {:width$}  {:>12}  {:.0}",
            snapshot.name,
            text::size(snapshot.bytes),
            snapshot.created
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(arguments: Value) -> Result<(Action, Option<String>), String> {
        arguments::parse(&tool(), arguments.as_object().cloned())
            .and_then(checked)
            .map_err(|refusal| refusal.message().to_owned())
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
            parsed(json!({"action": "create", "name": "x"})).unwrap_err(),
            "`action` must be one of \"save\", \"list\", \"restore\", \"delete\", not \"create\""
        );
    }

    #[test]
    fn nobody_is_asked_about_a_name_that_can_not_be() {
        let asked = |action: &str, name: &str| {
            let arguments = json!({"action": action, "name": name});
            question(arguments.as_object().unwrap()).map_err(|refusal| refusal.message().to_owned())
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
    fn both_forms_hold_name_size_and_time() {
        let snapshot = Snapshot {
            name: "good".parse().unwrap(),
            bytes: 12_345_678,
            created: "2025-03-04T05:06:07.89Z".parse().unwrap(),
        };
        let text = as_text(
            Action::Save,
            Some("good"),
            std::slice::from_ref(&snapshot),
            Duration::from_millis(410),
        );
        assert_eq!(
            text,
            "[saved `good` in 0.41 s]\nsaved snapshots:\n  good       12.3 MB  2025-03-04T05:06:07Z\n"
        );
        assert_eq!(
            serde_json::to_value(saved(&snapshot)).unwrap(),
            json!({"name": "good", "bytes": 12_345_678, "created": "2025-03-04T05:06:07Z"})
        );
        assert_eq!(
            as_text(Action::List, None, &[], Duration::ZERO),
            "no snapshots are saved"
        );
    }
}
