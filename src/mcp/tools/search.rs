//! `search`: finds lines of files that match a pattern.
//!
//! The guest searches with the libraries of ripgrep, so no image has to bring the program. The text form is ripgrep's:
//! `path:line:text`, `path-line-text` for lines around a match, `--` between groups.

use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::sandbox::{FoundLine, SearchReport, SearchRequest, User};

/// How many matching lines a call gets that sets no limit.
const DEFAULT_LIMIT: u64 = 100;

/// How much the guest sends at most, in bytes of JSON.
const MAX_BYTES: u64 = 40_000;

/// The most lines around a match.
const MAX_CONTEXT: u64 = 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// Regular expression in ripgrep's syntax; with \\n or the flag (?s) in it, it matches over several lines
    pattern: String,
    /// File or directory to search, absolute or relative to /workspace (default /workspace)
    path: Option<String>,
    /// Which files, such as "*.rs", "src/**/*.ts" or "!tests/**"; several separated by commas or line breaks
    glob: Option<String>,
    /// Lines to show around each match (default 0, at most 20)
    #[schemars(range(min = 0))]
    context: Option<u64>,
    /// How many matching lines at most (default 100)
    #[schemars(range(min = 1))]
    limit: Option<u64>,
    /// Take upper and lower case as the same (default false)
    ignore_case: Option<bool>,
    /// Take the pattern as plain text (default false)
    literal: Option<bool>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// The lines found, and those around them, by path
    lines: Vec<Line>,
    /// How many lines matched
    matches: u64,
    /// How many files they are in
    files: u64,
    /// How many files were searched
    searched: u64,
    /// Files and directories that could not be read
    unreadable: u64,
    /// Whether there are more matches than these
    truncated: bool,
    /// Whether the search was ended because it took too long
    timed_out: bool,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Line {
    /// The file
    path: String,
    /// Number of the line, from 1
    line: u64,
    /// The line; of a very long one the text around the match, and how much is left out
    text: String,
    /// Whether it does not match but is near a match
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    context: bool,
}

impl From<FoundLine> for Line {
    fn from(found: FoundLine) -> Self {
        Self {
            path: found.path,
            line: found.line,
            text: found.text,
            context: found.context,
        }
    }
}

pub(crate) struct Search;

impl Tool for Search {
    type Parameters = Parameters;

    const NAME: &'static str = "search";
    const TITLE: &'static str = "Search files";
    const ICON: &'static str = "<circle cx='10' cy='10' r='6'/><path d='M15 15l6 6'/>";
    const HINTS: Hints = Hints::READS;

    fn description(_: &Facts) -> String {
        "Search files in the microVM for a regular expression, as ripgrep does: recursively, leaving out hidden, \
         binary and git-ignored files. Gives path, line number and line of each match."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        if parameters.pattern.is_empty() {
            return Err(Refusal::new(
                "`pattern` is empty: it would match every line",
            ));
        }
        let request = SearchRequest {
            pattern: parameters.pattern,
            literal: parameters.literal.unwrap_or(false),
            ignore_case: parameters.ignore_case.unwrap_or(false),
            path: parameters.path.unwrap_or_default(),
            user: User::Root,
            globs: parameters.glob.into_iter().collect(),
            context: parameters.context.unwrap_or(0).min(MAX_CONTEXT),
            limit: parameters.limit.unwrap_or(DEFAULT_LIMIT),
            max_bytes: MAX_BYTES,
        };
        let with_context = request.context > 0;
        let sandbox = context.sandbox;
        let (mut report, lines) = context
            .call
            .run(|work| async move { sandbox.search(request, &work.progress).await })
            .await??;
        let notes = notes(&mut report);
        let text = as_text(&report, &lines, with_context);
        let structured = Structured {
            lines: lines.into_iter().map(Line::from).collect(),
            matches: report.lines,
            files: report.files,
            searched: report.searched,
            unreadable: report.unreadable,
            truncated: report.truncated,
            timed_out: report.timed_out,
        };
        success(vec![ContentBlock::text(text)], &structured, notes)
    }
}

/// How to get what is missing, and the notes of the guest.
fn notes(report: &mut SearchReport) -> Notes {
    let mut notes = Vec::new();
    if report.truncated {
        notes.push("there are more: narrow the pattern, path or glob, or raise limit".to_owned());
    }
    if report.timed_out {
        notes.push("ended because it took too long: narrow the path or glob".to_owned());
    }
    notes.append(&mut report.notes);
    Notes::from_guest(notes)
}

fn as_text(report: &SearchReport, lines: &[FoundLine], with_context: bool) -> String {
    let mut text = String::new();
    let mut before: Option<&FoundLine> = None;
    for line in lines {
        let follows =
            before.is_some_and(|before| before.path == line.path && before.line + 1 == line.line);
        if with_context && before.is_some() && !follows {
            text.push_str("--\n");
        }
        let mark = if line.context { '-' } else { ':' };
        let FoundLine {
            path,
            line: number,
            text: found,
            ..
        } = line;
        text += &format!("{path}{mark}{number}{mark}{found}\n");
        before = Some(line);
    }
    text += &format!(
        "[{} in {}, of {} searched",
        counted(report.lines, "matching line", "matching lines"),
        counted(report.files, "file", "files"),
        report.searched
    );
    if report.unreadable > 0 {
        text += &format!("; {} could not be read", report.unreadable);
    }
    text.push(']');
    text
}

fn counted(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, line: u64, context: bool) -> FoundLine {
        FoundLine {
            path: path.to_owned(),
            line,
            text: format!("text {line}"),
            context,
        }
    }

    #[test]
    fn the_text_is_as_ripgrep_has_it() {
        let lines = [
            found("/a", 1, true),
            found("/a", 2, false),
            found("/a", 9, false),
            found("/b", 10, false),
        ];
        let mut report = SearchReport {
            lines: 3,
            files: 2,
            searched: 7,
            truncated: true,
            notes: vec!["/a is in UTF-16LE".to_owned()],
            ..SearchReport::default()
        };
        assert_eq!(
            as_text(&report, &lines, true),
            "/a-1-text 1\n/a:2:text 2\n--\n/a:9:text 9\n--\n/b:10:text 10\n\
             [3 matching lines in 2 files, of 7 searched]"
        );
        assert_eq!(
            notes(&mut report).all(),
            [
                "there are more: narrow the pattern, path or glob, or raise limit",
                "/a is in UTF-16LE"
            ]
        );
        let none = SearchReport {
            searched: 1,
            ..SearchReport::default()
        };
        assert_eq!(
            as_text(&none, &[], false),
            "[0 matching lines in 0 files, of 1 searched]"
        );
    }
}
