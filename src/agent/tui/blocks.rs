//! What a conversation consists of, as lines: messages, calls and their results.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};
use serde_json::Value;

use super::lines::{self, Page, bounded, cut_span, span, wrap};
use crate::agent::message::{Call, CallResult, Content};
use crate::text;

/// How much of a part of a result is kept to be shown whole.
const KEPT: usize = 256 << 10;

/// The longest line that is kept.
const LONGEST: usize = 4_000;

/// How many rows of a person's message are shown.
const SAID: usize = 30;

/// How many of a running call's newest lines are kept.
const NEWEST: usize = 40;

/// A call that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) call: Call,
    pub(super) by_person: bool,
    since: Duration,
    newest: VecDeque<String>,
    seen: usize,
}

impl Running {
    pub(super) fn new(call: Call, by_person: bool, now: Duration) -> Self {
        Self {
            call,
            by_person,
            since: now,
            newest: VecDeque::new(),
            seen: 0,
        }
    }

    pub(super) fn progress(&mut self, line: &str) {
        self.seen += 1;
        self.newest.push_back(bounded(line, LONGEST).to_owned());
        if self.newest.len() > NEWEST {
            self.newest.pop_front();
        }
    }

    /// The call, and the newest lines of its output: few of them, or with `expanded` all that are kept.
    pub(super) fn lines(&self, page: Page, now: Duration, expanded: bool) -> Vec<Line<'static>> {
        let theme = page.theme;
        let mut lines = head(&self.call, theme.warn(), page);
        let most = if expanded { NEWEST } else { 3 };
        let shown = self.newest.len().min(most);
        for newest in self.newest.iter().skip(self.newest.len() - shown) {
            lines.push(row(newest, theme.dim(), page));
        }
        let took = text::time(now.saturating_sub(self.since).as_secs());
        let above = match self.seen - shown {
            0 => String::new(),
            above => format!(" ({above} lines above)"),
        };
        lines.push(foot(&format!("{took}{above}"), theme.dim(), page));
        lines
    }
}

/// A sign, the tool's name, and what it does to what, in few rows.
fn head(call: &Call, style: Style, page: Page) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let what = subject(call);
    let mut lines = what.trim().lines();
    let first = bounded(lines.next().unwrap_or_default(), 400);
    let mut shown = Line::from(vec![span(&call.name, bold), Span::raw(" ")]);
    shown.spans.push(span(first, Style::new()));
    let more = lines.count();
    if more > 0 {
        let more = format!(" (+{more} lines)");
        shown.spans.push(Span::styled(more, page.theme.dim()));
    }
    let sign = Span::styled(page.theme.signs().call, style);
    let mut rows = wrap(&shown, page.columns, &[sign], &[Span::raw("    ")]);
    if rows.len() > 3 {
        rows.truncate(3);
        rows[2].spans.push(Span::raw("…"));
    }
    rows
}

/// What a call is about: the arguments that matter, or all.
fn subject(call: &Call) -> Cow<'_, str> {
    let names: &[&str] = match &call.name[..] {
        "exec" => &["command"],
        "read" | "edit" | "write" => &["path"],
        "search" => &["pattern", "path", "glob"],
        "snapshot" | "job" => &["action", "name", "id"],
        _ => &[],
    };
    match &call.arguments {
        Value::Null => Cow::Borrowed(""),
        Value::String(given) => Cow::Borrowed(given),
        Value::Object(given) if given.is_empty() => Cow::Borrowed(""),
        given if names.is_empty() => Cow::Owned(given.to_string()),
        given => {
            let values = names.iter().filter_map(|name| given.get(*name));
            let words = values.flat_map(|value| match value {
                Value::Array(words) => &words[..],
                value => std::slice::from_ref(value),
            });
            let words: Vec<&str> = words.filter_map(Value::as_str).collect();
            Cow::Owned(words.join(" "))
        }
    }
}

/// A row of output, cut at the page's width.
fn row(text: &str, style: Style, page: Page) -> Line<'static> {
    signed("  ".to_owned(), text, style, page)
}

/// A row about how a call ended.
fn foot(text: &str, style: Style, page: Page) -> Line<'static> {
    let sign = format!("  {}", page.theme.signs().result);
    signed(sign, text, style, page)
}

fn signed(sign: String, text: &str, style: Style, page: Page) -> Line<'static> {
    let sign = Span::styled(sign, page.theme.dim());
    let room = page.columns.saturating_sub(sign.width());
    Line::from(vec![sign, cut_span(text, style, room)])
}

/// The text of a result; of a very long one the head and the tail.
pub(super) fn whole(result: &CallResult) -> String {
    let parts = result.content.iter().map(|part| match part {
        Content::Text(text) => text::middle_cut(text, KEPT),
        Content::Image(image) => {
            let bytes = text::size(image.data.len() as u64 / 4 * 3);
            Cow::Owned(format!("[{}, {bytes}]", bounded(&image.mime, 60)))
        }
    });
    let parts: Vec<Cow<'_, str>> = parts.take(20).collect();
    parts.join("\n")
}

/// A result's output, how it ended, and what is said about it. How a command ended is near the end of the text; other
/// tools sum up in the last line.
fn parts<'a>(tool: &str, text: &'a str) -> (&'a str, Option<&'a str>, &'a str) {
    const ENDS: [&str; 6] = [
        "[exit code",
        "[killed",
        "[timed out",
        "[cancelled",
        "[ended by",
        "[its time",
    ];
    let text = text.trim_end();
    let (most, ends) = match tool {
        "exec" => (30, &ENDS[..]),
        _ => (1, &["["][..]),
    };
    let mut end = text.len();
    for line in text.rsplit('\n').take(most) {
        let start = end - line.len();
        if ends.iter().any(|begin| line.starts_with(begin)) && line.ends_with(']') {
            let status = line.trim_matches(['[', ']']);
            return (&text[..start], Some(status), text[end..].trim_start());
        }
        end = start.saturating_sub(1);
    }
    (text, None, "")
}

/// How many lines of a result are shown.
fn most(tool: &str, by_person: bool, is_error: bool) -> usize {
    match tool {
        _ if by_person => 60,
        _ if is_error => 12,
        "exec" => 6,
        "edit" => 60,
        "write" => 12,
        "read" | "search" => 0,
        _ => 4,
    }
}

/// A call that has ended, as lines, and its whole text if that is not all there.
pub(super) fn ended(
    call: &Call,
    result: &CallResult,
    took: Option<Duration>,
    by_person: bool,
    page: Page,
) -> (Vec<Line<'static>>, Option<String>) {
    let theme = page.theme;
    let tool = &call.name[..];
    let mut text = whole(result);
    if tool == "write" && !result.is_error {
        text = format!("{}{text}", written(call));
    }
    let (body, status, notes) = parts(tool, &text);
    let is_command = tool == "exec";
    let has_failed = is_command && status.is_some_and(|status| !status.contains("exit code 0"));
    let style = match result.is_error || has_failed {
        true => (theme.bad(), theme.bad()),
        false => (theme.good(), theme.dim()),
    };
    let mut lines = head(call, style.0, page);
    let body = body.trim_end();
    let all: Vec<&str> = match body {
        "[no output]" => Vec::new(),
        body => body.lines().collect(),
    };
    // A command's end matters most, else the beginning.
    let left_out = all
        .len()
        .saturating_sub(most(tool, by_person, result.is_error));
    let (shown, more) = match (left_out, is_command) {
        (0, _) => (&all[..], ""),
        (_, true) => (&all[left_out..], "; ctrl-O shows all"),
        (_, false) => (&all[..all.len() - left_out], "; ctrl-O shows more"),
    };
    if is_command && left_out > 0 {
        let above = format!("… {left_out} lines above");
        lines.push(row(&above, theme.dim(), page));
    }
    for text in shown {
        let style = match tool {
            _ if result.is_error => theme.bad(),
            "edit" | "write" => diff_style(text, page),
            _ => theme.dim(),
        };
        lines.push(row(text, style, page));
    }
    let count = || format!("{} lines", all.len());
    let said = status.map(str::to_owned);
    let said = said.or_else(|| (shown.is_empty() && !all.is_empty()).then(count));
    let took = took
        .filter(|_| !is_command || status.is_none())
        .map(text::duration);
    let said: Vec<String> = [said, took].into_iter().flatten().collect();
    if !said.is_empty() {
        lines.push(foot(&format!("{}{more}", said.join(", ")), style.1, page));
    }
    for note in notes.lines().take(5) {
        lines.push(row(note, theme.dim(), page));
    }
    (lines, (left_out > 0).then_some(text))
}

/// What a file was written with, as lines that were added.
fn written(call: &Call) -> String {
    let content = call.arguments.get("content").and_then(Value::as_str);
    let content = text::middle_cut(content.unwrap_or_default(), KEPT);
    content.lines().map(|line| format!("+{line}\n")).collect()
}

fn diff_style(text: &str, page: Page) -> Style {
    let theme = page.theme;
    match text.as_bytes() {
        [b'-', b'-', b'-', ..] | [b'+', b'+', b'+', ..] => theme.dim(),
        [b'+', ..] => theme.good(),
        [b'-', ..] => theme.bad(),
        [b'@', ..] => theme.accent(),
        _ => theme.dim(),
    }
}

/// What a person said.
pub(super) fn said(text: &str, page: Page) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let sign = Span::styled(page.theme.signs().prompt, page.theme.accent());
    let mut rows = lines::text(text, bold, sign, page);
    let mut shown: Vec<_> = rows.by_ref().take(SAID).collect();
    if rows.next().is_some() {
        shown.push(Line::styled("  …", page.theme.dim()));
    }
    shown
}

#[cfg(test)]
mod tests;
