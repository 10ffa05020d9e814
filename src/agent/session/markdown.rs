//! A session for a reader, as Markdown.
//!
//! Texts of people and models are Markdown themselves. One that would take hold of what comes after it (by a block of code
//! without an end, say) is shown as a quotation, which ends whatever is in it.

use pulldown_cmark::{Event, Parser, Tag};
use serde_json::Value;

use super::super::message::{Assistant, CallResult, Content, Image, Message};
use super::entry::Body;
use super::file::Session;
use crate::{shown, text};

/// A paragraph that no text has.
const AFTER: &str = "after\u{e000}the\u{e000}text";

impl Session {
    /// The present branch as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut page = format!("# Session {}\n", self.id());
        for (_, body) in self.branch() {
            page.push_str(&match body {
                Body::Message(Message::User(user)) => {
                    let images: String = user.images.iter().map(of_image).collect();
                    format!("\n## You\n{}{images}", prose(&user.text))
                }
                Body::Message(Message::Assistant(answer)) => of_answer(answer),
                Body::Message(Message::Results(results)) => results.iter().map(of_result).collect(),
                Body::Summary(summary) => {
                    format!("\n## Summary of what came before\n{}", prose(summary))
                }
                Body::Snapshot(name) => format!("\nThe sandbox was saved as {}.\n", code(name)),
                // The messages and headings say all that a reader needs of these.
                Body::Partial(_) | Body::Model(_) | Body::Plan(_) | Body::Rewind(_) => continue,
            });
        }
        page
    }
}

fn of_answer(answer: &Assistant) -> String {
    let mut part = format!("\n## {}\n", code(&answer.model));
    if !answer.reasoning.trim().is_empty() {
        part.push_str(&folded("Reasoning", &fenced(&answer.reasoning, "")));
    }
    part.push_str(&prose(&answer.text));
    for call in &answer.calls {
        let arguments = match &call.arguments {
            Value::String(text) => fenced(text, ""),
            arguments => fenced(&format!("{arguments:#}"), "json"),
        };
        part.push_str(&format!("\nCall of {}\n{arguments}", code(&call.name)));
    }
    part
}

fn of_result(result: &CallResult) -> String {
    let parts = result.content.iter().map(|content| match content {
        Content::Text(text) => fenced(text, ""),
        Content::Image(image) => of_image(image),
    });
    let what = match result.is_error {
        true => "Error of",
        false => "Result of",
    };
    folded(
        &format!("{what} {}", result.name),
        &parts.collect::<String>(),
    )
}

fn of_image(image: &Image) -> String {
    let bytes = image.data.len() as u64 / 4 * 3;
    format!("\nImage: {}, {}\n", code(&image.mime), text::size(bytes))
}

/// Text on one line, as code.
fn code(text: &str) -> String {
    let text = shown::line(text);
    let ticks = "`".repeat(longest_run(&text) + 1);
    format!("{ticks} {text} {ticks}")
}

/// A block that a reader opens.
fn folded(title: &str, inner: &str) -> String {
    let title = shown::line(title)
        .replace('&', "&amp;")
        .replace('<', "&lt;");
    format!("\n<details><summary>{title}</summary>\n{inner}\n</details>\n")
}

/// Text as a block of code, whose fence is longer than any in the text.
fn fenced(text: &str, kind: &str) -> String {
    let text = shown::text(text);
    let fence = "`".repeat((longest_run(&text) + 1).max(3));
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("\n{fence}{kind}\n{text}{end}{fence}\n")
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// The Markdown of a person or a model.
fn prose(text: &str) -> String {
    let text = shown::text(text.trim());
    if text.is_empty() {
        String::new()
    } else if is_contained(&text) {
        format!("\n{text}\n")
    } else {
        let lines = text.lines().map(|line| format!("\n> {line}"));
        lines.collect::<String>() + "\n"
    }
}

/// Whether a text says nothing about what comes after it, and has no headings that look like the page's own.
fn is_contained(text: &str) -> bool {
    let page = format!("{text}\n\n{AFTER}");
    let (mut depth, mut begins, mut stands_alone) = (0, false, false);
    for event in Parser::new(&page) {
        match &event {
            Event::Html(_) | Event::InlineHtml(_) => return false,
            Event::Start(Tag::Heading { level, .. }) if (*level as usize) < 3 => return false,
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Text(text) => stands_alone = begins && depth == 1 && **text == *AFTER,
            _ => {}
        }
        begins = matches!(event, Event::Start(Tag::Paragraph));
    }
    stands_alone
}
