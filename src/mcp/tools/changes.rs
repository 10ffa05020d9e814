//! `changes`: what the sandbox changed in its copy of the user's directory.

use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::call::Work;
use crate::mcp::confirm::Reach;
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::review::report::{Changes as Report, Done, Selection};
use crate::sandbox::Sandbox;
use crate::shown;

/// How much of a diff one result has, in bytes.
const PAGE: usize = 10_000;

/// The most changes that one result lists.
const LISTED: usize = 200;

pub(crate) struct Changes;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// What to do; list without it
    action: Option<Action>,
    /// Files and directories; for apply and discard also single hunks of a file, such as "src/main.rs:1,3"
    paths: Option<Vec<String>>,
    /// For diff: the first byte, as the page before it said
    offset: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Diff,
    Apply,
    Discard,
    Sync,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// What it gave, as text
    text: String,
    /// For a diff that goes on: the offset of its next page
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
}

impl Tool for Changes {
    type Parameters = Parameters;

    const NAME: &'static str = "changes";
    const TITLE: &'static str = "Review what changed in the workspace";
    const ICON: &'static str = "<path d='M6 3v12M18 9v12M6 15a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM18 3a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM6 18h6a6 6 0 0 0 6-6'/>";
    const HINTS: Hints = Hints::CHANGES;
    const REACH: Reach = Reach::Host;

    fn description(_: &Facts) -> String {
        "/workspace is a copy of the user's directory. `list` shows which files you changed in it and how, `diff` shows the \
         changes as a unified diff: use it to check your work. `sync` brings in what the user changed meanwhile. `discard` \
         takes changes back. `apply` takes changes over into the user's directory, all or nothing, after the user has \
         agreed; the user can also do that alone, so call it only if you were asked to."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    fn question(parameters: &Parameters, _: &Facts) -> Result<Option<String>, Refusal> {
        if parameters.action != Some(Action::Apply) {
            return Ok(None);
        }
        let what = match parameters.paths.as_deref() {
            None | Some([]) => "all changes that are not flagged".to_owned(),
            Some(paths) => {
                let shown: Vec<_> = paths
                    .iter()
                    .take(20)
                    .map(|path| shown::line(path))
                    .collect();
                let more = match paths.len().saturating_sub(shown.len()) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("the changes of {}{more}", shown.join(", "))
            }
        };
        Ok(Some(format!(
            "Apply {what} of the sandbox to your directory? `snowglobe diff` shows them; `snowglobe apply --undo` takes them back."
        )))
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let sandbox = context.sandbox;
        let action = parameters.action.unwrap_or(Action::List);
        let paths = parameters.paths.unwrap_or_default();
        if action == Action::Discard && paths.is_empty() {
            return Err(Refusal::new(
                "`paths` is missing: name the files or directories whose changes are taken back",
            ));
        }
        let offset = parameters.offset.unwrap_or(0);
        let work =
            move |work: Work| async move { act(&sandbox, action, paths, offset, &work).await };
        let (text, next_offset, notes) = context.call.run(work).await??;
        let structured = Structured {
            action,
            text: text.clone(),
            next_offset,
        };
        success(vec![ContentBlock::text(text)], &structured, notes)
    }
}

type Acted = (String, Option<u64>, Notes);

async fn act(
    sandbox: &Arc<Sandbox>,
    action: Action,
    paths: Vec<String>,
    offset: u64,
    work: &Work,
) -> Result<Acted, Refusal> {
    let progress = &work.progress;
    let selection = Selection {
        paths,
        ..Selection::default()
    };
    Ok(match action {
        Action::List => {
            let (text, notes) = listed(&sandbox.review(progress).await?);
            (text, None, notes)
        }
        Action::Diff => page(&sandbox.diff(selection.paths, progress).await?, offset),
        Action::Apply => told(&sandbox.apply(selection, progress).await?, "applied"),
        Action::Discard => told(&sandbox.discard(selection, progress).await?, "taken back"),
        Action::Sync => told(&sandbox.sync(progress).await?, "brought in"),
    })
}

/// One page of a diff: whole lines.
fn page(diff: &[u8], offset: u64) -> Acted {
    let mut notes = Notes::default();
    let from = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(diff.len());
    let rest = &diff[from..];
    let end = match rest.len() > PAGE {
        true => rest[..PAGE]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(PAGE, |at| at + 1),
        false => rest.len(),
    };
    let next = (end < rest.len()).then_some((from + end) as u64);
    if let Some(next) = next {
        notes.add(format!(
            "{} more bytes; go on with offset {next}",
            rest.len() - end
        ));
    }
    let text = match diff.is_empty() {
        true => "nothing changed".to_owned(),
        false => shown::text(&String::from_utf8_lossy(&rest[..end])).into_owned(),
    };
    (text, next, notes)
}

fn listed(report: &Report) -> (String, Notes) {
    let mut notes = Notes::default();
    let mut text = String::new();
    for change in report.changes.iter().take(LISTED) {
        let lines = match (change.added_lines, change.removed_lines) {
            (Some(added), Some(removed)) => format!(" (+{added} -{removed})"),
            _ => String::new(),
        };
        let from = change
            .from
            .as_ref()
            .map_or(String::new(), |from| format!("{from} -> "));
        text += &format!("{:<8} {from}{}{lines}\n", change.kind, change.path);
        for flag in &change.flags {
            text += &format!(
                "         not applied unless it is named: {}: {}\n",
                flag.flag, flag.why
            );
        }
        if change.host_changed {
            text += "         the user changed it, too\n";
        }
    }
    if report.changes.is_empty() {
        text += "nothing changed";
    }
    let more = report.changes.len().saturating_sub(LISTED);
    if more > 0 {
        notes.add(format!("{more} more changes are not listed"));
    }
    match report.newer_on_host {
        0 => {}
        count => notes.add(format!(
            "the user's directory has newer files ({count}); `sync` brings them in"
        )),
    }
    for branch in &report.branches {
        notes.add(format!(
            "the user's repository has your commits as {}",
            branch.reference
        ));
    }
    notes.add_all(report.notes.iter().cloned());
    (shown::text(&text).into_owned(), notes)
}

fn told(done: &Done, what: &str) -> Acted {
    let mut text = String::new();
    for step in done.done.iter().take(LISTED) {
        text += &format!("{}: {}\n", step.path, step.what);
    }
    for step in done.left.iter().take(LISTED) {
        text += &format!("left: {}: {}\n", step.path, step.what);
    }
    for step in done.conflicts.iter().take(LISTED) {
        text += &format!("conflict: {}: {}\n", step.path, step.what);
    }
    let mut notes = Notes::default();
    if done.done.is_empty() {
        notes.add(format!("nothing was {what}"));
    } else {
        notes.add(format!("{} files {what}", done.done.len()));
    }
    (shown::text(&text).into_owned(), None, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_paged_by_whole_lines() {
        let line = b"+0123456789\n";
        let diff = line.repeat(2000);
        let (mut at, mut whole) = (Some(0), String::new());
        while let Some(offset) = at {
            let (text, next, _) = page(&diff, offset);
            assert!(text.len() <= PAGE && text.ends_with('\n'));
            whole += &text;
            at = next;
        }
        assert_eq!(whole.as_bytes(), diff);
        assert_eq!(page(b"", 0).0, "nothing changed");
        assert_eq!(page(&diff, u64::MAX).1, None);
    }
}
