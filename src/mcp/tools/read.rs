//! `read`: gives a file's numbered lines, an image, or a directory's entries.
//!
//! A call gets as many whole lines of a text as fit into [`MAX_TEXT`]; the result says where the next ones start. Only a
//! first line that is longer by itself is cut. An image is a file that decodes as one ([`picture`]).

mod listing;
mod picture;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::sandbox::{Read as FileRead, ReadContent};
use crate::text;

/// How many lines a call gets that sets no limit.
const DEFAULT_LIMIT: u64 = 2000;

/// How much text a call gets at most, in bytes.
const MAX_TEXT: usize = 40_000;

pub(crate) struct Read;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// File or directory: absolute, relative to /workspace, or below a home (~/x)
    path: String,
    /// First line (or directory entry) to give, from 1 (default 1)
    #[schemars(range(min = 1))]
    offset: Option<u64>,
    /// How many lines (or entries) at most (default 2000)
    #[schemars(range(min = 1))]
    limit: Option<u64>,
}

/// The structured form of a text or directory. An image or other file has none: some clients show the model only
/// structured content, and no image beside it. For the same reason the tool declares no schema of it.
#[derive(Debug, PartialEq, Serialize)]
struct Structured {
    /// Absolute path of what was read
    path: String,
    /// What it is: text or directory
    kind: &'static str,
    /// Size of the file in bytes
    size: u64,
    /// The lines, each as number, tab, text; a directory's listing
    content: String,
    /// Lines of the text (entries of the directory) in all, if known
    #[serde(skip_serializing_if = "Option::is_none")]
    total_lines: Option<u64>,
    /// Where to go on reading; absent at the end
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// Whether a very long line was cut
    #[serde(skip_serializing_if = "Option::is_none")]
    line_cut: Option<bool>,
}

impl Tool for Read {
    type Parameters = Parameters;

    const NAME: &'static str = "read";
    const TITLE: &'static str = "Read a file";
    const ICON: &'static str = "<path d='M6 2h9l4 4v16H6zM9 10h7M9 14h7M9 18h4'/>";
    const HINTS: Hints = Hints::READS;

    fn description(_: &Facts) -> String {
        "Read a file in the microVM: text as numbered lines, an image as an image, a directory as its listing. \
         Page through long files with `offset` and `limit`."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        None
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let path = parameters.path;
        if path.is_empty() {
            return Err(Refusal::new("`path` is empty: send a file or directory"));
        }
        let offset = parameters.offset.unwrap_or(1);
        let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT);
        let sandbox = context.sandbox;
        let work = |work: crate::mcp::call::Work| async move {
            let read = sandbox
                .read(&path, offset, limit, MAX_TEXT as u64, &work.progress)
                .await?;
            result(read, offset, limit).await
        };
        context.call.run(work).await?
    }
}

/// The result of a call that read this.
async fn result(mut read: FileRead, offset: u64, limit: u64) -> Result<CallToolResult, Refusal> {
    let mut notes = Notes::from_guest(std::mem::take(&mut read.notes));
    match &read.content {
        ReadContent::Image { .. } => {
            let content = image_blocks(read, &mut notes).await;
            Ok(notes.append_to(CallToolResult::success(content)))
        }
        ReadContent::Binary { description } => {
            let text = format!(
                "[{description}, {}; not shown, use exec to look into it]",
                text::size(read.size)
            );
            let result = CallToolResult::success(vec![ContentBlock::text(text)]);
            Ok(notes.append_to(result))
        }
        _ => {
            let structured = structured(read, offset, limit, &mut notes)?;
            let text = ContentBlock::text(structured.content.clone());
            success(vec![text], &structured, notes)
        }
    }
}

/// An image, or why a file that begins as an image is not shown.
async fn image_blocks(read: FileRead, notes: &mut Notes) -> Vec<ContentBlock> {
    let size = text::size(read.size);
    let bytes = read.data;
    let fitted = tokio::task::spawn_blocking(move || picture::fit(bytes)).await;
    let fitted = fitted.unwrap_or_else(|_| Err(picture::Unfit::Panicked));
    match fitted {
        Ok(picture) => {
            for note in picture.notes {
                notes.add(note);
            }
            let head = format!(
                "[{}, {}x{} pixels, {size}]",
                picture.original, picture.width, picture.height
            );
            vec![
                ContentBlock::text(head),
                ContentBlock::image(STANDARD.encode(&picture.bytes), picture.media_type),
            ]
        }
        Err(why) => vec![ContentBlock::text(format!("[not shown, {size}: {why}]"))],
    }
}

/// A text or directory in structured form.
fn structured(
    read: FileRead,
    offset: u64,
    limit: u64,
    notes: &mut Notes,
) -> Result<Structured, Refusal> {
    let mut structured = Structured {
        path: read.path,
        kind: "text",
        size: read.size,
        content: String::new(),
        total_lines: None,
        next_offset: None,
        line_cut: None,
    };
    match read.content {
        ReadContent::Directory { entries } => {
            structured.kind = "directory";
            let (listing, next) = listing::listing(&read.data, entries, offset, limit)?;
            structured.content = listing;
            structured.total_lines = Some(entries);
            structured.next_offset = next;
        }
        ReadContent::Text {
            total_lines,
            next_offset,
            cut,
        } => {
            let text = String::from_utf8_lossy(&read.data);
            if let Some(note) = line_ends_note(&text) {
                notes.add(note);
            }
            let lines = numbered(&text, offset);
            structured.content = lines.text;
            structured.total_lines = total_lines;
            structured.next_offset = lines.next.or(next_offset);
            structured.line_cut = (lines.cut || (cut && lines.next.is_none())).then_some(true);
        }
        // This tool asks for no bare bytes; a guest that sends some has them shown as text.
        _ => structured.content = numbered(&String::from_utf8_lossy(&read.data), offset).text,
    }
    add_notes(&structured, offset, notes);
    Ok(structured)
}

/// A note about line ends other than LF: numbered lines do not show them, but `edit` has to match them.
fn line_ends_note(text: &str) -> Option<String> {
    let (mut crlf, mut lf, mut cr) = (false, false, false);
    for line in text.split_inclusive('\n') {
        crlf |= line.ends_with("\r\n");
        lf |= line.ends_with('\n') && !line.ends_with("\r\n");
        cr |= line.trim_end_matches(['\r', '\n']).contains('\r');
    }
    let cr = match cr {
        true => "some have lone CRs in them, which `edit` takes for line ends, too",
        false => "",
    };
    let ends = match (crlf, lf) {
        (true, true) => "some of these lines end in CRLF, others in LF",
        (true, false) => "these lines end in CRLF",
        _ => "",
    };
    let parts: Vec<&str> = [ends, cr]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Adds notes about the rest of the file or directory, and how to get it.
fn add_notes(shown: &Structured, offset: u64, notes: &mut Notes) {
    let (things, empty) = match shown.kind {
        "directory" => ("entries", "empty directory"),
        _ => ("lines", "empty file"),
    };
    if shown.content.is_empty()
        && let Some(total) = shown.total_lines
    {
        return notes.add(match total {
            0 => empty.to_owned(),
            _ => format!("there is nothing at offset {offset}: {total} {things} in all"),
        });
    }
    if shown.line_cut.is_some() {
        notes.add("a very long line was cut; use exec to see all of it");
    }
    if let Some(next) = shown.next_offset {
        let last = next.saturating_sub(1);
        notes.add(match shown.total_lines {
            Some(total) => {
                format!("{things} {offset} to {last} of {total}; go on with offset {next}")
            }
            None => format!(
                "{things} {offset} to {last} of a file of {}, whose lines were not all counted; go on with offset {next}",
                text::size(shown.size)
            ),
        });
    }
}

/// Numbered lines.
#[derive(Debug, Default)]
struct Numbered {
    text: String,
    /// The first line that did not fit.
    next: Option<u64>,
    /// Whether the first line was too long by itself.
    cut: bool,
}

/// As many lines as fit, numbered as `cat -n` numbers them.
fn numbered(lines: &str, first: u64) -> Numbered {
    let mut numbered = Numbered::default();
    for (number, line) in (first..).zip(lines.lines()) {
        let mut line = line;
        if numbered.text.len() + line.len() > MAX_TEXT {
            if number > first {
                numbered.next = Some(number);
                break;
            }
            let end = (0..=MAX_TEXT).rev().find(|end| line.is_char_boundary(*end));
            line = &line[..end.unwrap_or(0)];
            numbered.cut = true;
        }
        numbered.text += &format!("{number:>6}\t{line}\n");
    }
    numbered
}

#[cfg(test)]
mod tests;
