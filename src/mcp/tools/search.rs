//! `search`: lines of files that match a pattern.
//!
//! The guest searches with ripgrep's own parts, so every image can. The text form is ripgrep's: `path:line:text`,
//! `path-line-text` for lines around a match, `--` between groups.

use std::fmt::Write as _;
use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::sandbox::{FoundLine, Sandbox, SearchReport, SearchRequest, User};

pub(crate) const NAME: &str = "search";

/// How many matching lines are given where the call says nothing.
const DEFAULT_LIMIT: u64 = 100;

/// How much is taken from the guest, in bytes of JSON.
const BOUND: u64 = 40_000;

/// The most lines of context.
const CONTEXT: u64 = 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
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
    /// Whether the search was ended for taking too long
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
    /// Whether it is only near a match
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    context: bool,
}

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Search files in the microVM for a regular expression, as ripgrep does: recursively, leaving out hidden, \
         binary and git-ignored files. Gives path, line number and line of each match.",
        schema::input::<Params>(),
    )
    .with_title("Search files")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Search files")
            .read_only(true)
            .destructive(false)
            .idempotent(true)
            .open_world(false),
    )
}

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let params: Params = arguments::parse(tool, arguments)?;
    if params.pattern.is_empty() {
        return Err(Refusal::new(
            "`pattern` is empty: it would match every line",
        ));
    }
    let search = SearchRequest {
        pattern: params.pattern,
        literal: params.literal.unwrap_or(false),
        ignore_case: params.ignore_case.unwrap_or(false),
        path: params.path.unwrap_or_default(),
        user: User::Root,
        globs: params.glob.into_iter().collect(),
        context: params.context.unwrap_or(0).min(CONTEXT),
        limit: params.limit.unwrap_or(DEFAULT_LIMIT),
        max_bytes: BOUND,
    };
    let around = search.context > 0;
    let (mut report, lines) = call
        .run(|work| async move { sandbox.search(search, &work.progress).await })
        .await??;
    let notes = notes(&mut report);
    let text = as_text(&report, &lines, around);
    let structured = Structured {
        lines: lines.into_iter().map(line).collect(),
        matches: report.lines,
        files: report.files,
        searched: report.searched,
        unreadable: report.unreadable,
        truncated: report.truncated,
        timed_out: report.timed_out,
    };
    let result = result(vec![ContentBlock::text(text)], &structured)?;
    Ok(noted(result, notes))
}

/// What there is to do about what is missing, and what the guest says.
fn notes(report: &mut SearchReport) -> Notes {
    let mut notes = Vec::new();
    if report.truncated {
        notes.push("there are more: narrow the pattern, path or glob, or raise limit".to_owned());
    }
    if report.timed_out {
        notes.push("ended for taking too long: narrow the path or glob".to_owned());
    }
    notes.append(&mut report.notes);
    Notes::of_guest(notes)
}

fn line(found: FoundLine) -> Line {
    Line {
        path: found.path,
        line: found.line,
        text: found.text,
        context: found.context,
    }
}

fn as_text(report: &SearchReport, lines: &[FoundLine], around: bool) -> String {
    let mut text = String::new();
    let mut before: Option<&FoundLine> = None;
    for line in lines {
        let follows =
            before.is_some_and(|before| before.path == line.path && before.line + 1 == line.line);
        if around && before.is_some() && !follows {
            text.push_str("--\n");
        }
        let mark = if line.context { '-' } else { ':' };
        let _ = writeln!(text, "{}{mark}{}{mark}{}", line.path, line.line, line.text);
        before = Some(line);
    }
    let _ = write!(
        text,
        "[{} in {}, of {} searched",
        counted(report.lines, "matching line", "matching lines"),
        counted(report.files, "file", "files"),
        report.searched
    );
    if report.unreadable > 0 {
        let _ = write!(text, "; {} could not be read", report.unreadable);
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
