//! `read`: a file's numbered lines, an image, a directory's entries.
//!
//! Of text, as many whole lines are given as fit [`BOUND`]; the result says where to go on. Only a first line
//! that is longer by itself is cut. An image is one that decodes ([`picture`]).

mod picture;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::sandbox::{DirEntry, Read, ReadContent, Sandbox, lines};
use crate::text;

pub(crate) const NAME: &str = "read";

/// How many lines are given where the call says nothing.
const DEFAULT_LIMIT: u64 = 2000;

/// How much text is given at most, in bytes.
const BOUND: usize = 40_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// File or directory: absolute, relative to /workspace, or below a home (~/x)
    path: String,
    /// First line (or directory entry) to give, from 1 (default 1)
    #[schemars(range(min = 1))]
    offset: Option<u64>,
    /// How many lines (or entries) at most (default 2000)
    #[schemars(range(min = 1))]
    limit: Option<u64>,
}

/// A text or directory, as structured content. An image or other file has none: some clients show the model
/// structured content only, and no image beside it. For the same reason the tool declares no schema of it.
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

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Read a file in the microVM: text as numbered lines, an image as an image, a directory as its listing. \
         Page through long files with `offset` and `limit`.",
        schema::input::<Params>(),
    )
    .with_title("Read a file")
    .with_annotations(
        ToolAnnotations::with_title("Read a file")
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
    if params.path.is_empty() {
        return Err(Refusal::new("`path` is empty: send a file or directory"));
    }
    let offset = params.offset.unwrap_or(1);
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    let path = params.path;
    call.run(|work| async move {
        let read = sandbox
            .read(&path, offset, limit, BOUND as u64, &work.progress)
            .await?;
        shown(read, offset, limit).await
    })
    .await?
}

/// The result of a call that read this.
async fn shown(mut read: Read, offset: u64, limit: u64) -> Result<CallToolResult, Refusal> {
    let mut notes = Notes::of_guest(std::mem::take(&mut read.notes));
    let done = match &read.content {
        ReadContent::Image { .. } => CallToolResult::success(pictured(read, &mut notes).await),
        ReadContent::Binary { description } => {
            CallToolResult::success(vec![ContentBlock::text(format!(
                "[{description}, {}; not shown, use exec to look into it]",
                text::size(read.size)
            ))])
        }
        _ => {
            let structured = worded(read, offset, limit, &mut notes)?;
            let text = ContentBlock::text(structured.content.clone());
            result(vec![text], &structured)?
        }
    };
    Ok(noted(done, notes))
}

/// An image, or why what seemed to be one isn't shown.
async fn pictured(read: Read, notes: &mut Notes) -> Vec<ContentBlock> {
    let size = text::size(read.size);
    let bytes = read.data;
    let found = tokio::task::spawn_blocking(move || picture::fit(bytes)).await;
    match found.unwrap_or_else(|_| Err("its decoder broke on it".to_owned())) {
        Ok(picture) => {
            for note in picture.notes {
                notes.add(note);
            }
            let head = format!(
                "[{}, {}x{} pixels, {size}]",
                picture.found, picture.width, picture.height
            );
            vec![
                ContentBlock::text(head),
                ContentBlock::image(STANDARD.encode(&picture.bytes), picture.media_type),
            ]
        }
        Err(why) => vec![ContentBlock::text(format!("[not shown, {size}: {why}]"))],
    }
}

/// A text or directory in words.
fn worded(read: Read, offset: u64, limit: u64, notes: &mut Notes) -> Result<Structured, Refusal> {
    let mut shown = Structured {
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
            shown.kind = "directory";
            let (listing, next) = listing(&read.data, entries, offset, limit)?;
            shown.content = listing;
            shown.total_lines = Some(entries);
            shown.next_offset = next;
        }
        ReadContent::Text {
            total_lines,
            next_offset,
            cut,
        } => {
            let text = String::from_utf8_lossy(&read.data);
            if let Some(ends) = line_ends(&text) {
                notes.add(ends);
            }
            let lines = numbered(&text, offset);
            shown.content = lines.text;
            shown.total_lines = total_lines;
            shown.next_offset = lines.next.or(next_offset);
            shown.line_cut = (lines.cut || (cut && lines.next.is_none())).then_some(true);
        }
        // Nobody asks the sandbox for bare bytes here; if it sends some, they are read as text.
        _ => shown.content = numbered(&String::from_utf8_lossy(&read.data), offset).text,
    }
    advise(&shown, offset, notes);
    Ok(shown)
}

/// What the line numbers don't show, but an exact text has to match.
fn line_ends(text: &str) -> Option<String> {
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

/// Says what there is besides what was given, and how to get it.
fn advise(shown: &Structured, offset: u64, notes: &mut Notes) {
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

/// Lines with their numbers, as `cat -n` gives them, as many as fit.
fn numbered(lines: &str, first: u64) -> Numbered {
    let mut numbered = Numbered::default();
    for (number, line) in (first..).zip(lines.lines()) {
        let mut line = line;
        if numbered.text.len() + line.len() > BOUND {
            if number > first {
                numbered.next = Some(number);
                break;
            }
            let end = (0..=BOUND).rev().find(|end| line.is_char_boundary(*end));
            line = &line[..end.unwrap_or(0)];
            numbered.cut = true;
        }
        let _ = writeln!(numbered.text, "{number:>6}\t{line}");
    }
    numbered
}

/// A directory's entries for a reader, and where the next ones start. The sandbox may send all of them or
/// those asked for.
fn listing(
    json_lines: &[u8],
    total: u64,
    offset: u64,
    limit: u64,
) -> Result<(String, Option<u64>), Refusal> {
    let entries: Vec<DirEntry> = lines::decode(json_lines).map_err(|error| {
        Refusal::new(format!("failed to read the directory's listing: {error}"))
    })?;
    let sent_all = entries.len() as u64 == total;
    let skip = if sent_all { offset - 1 } else { 0 };
    let mut text = String::new();
    let mut given = 0;
    for entry in entries
        .iter()
        .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
    {
        if text.len() > BOUND {
            break;
        }
        let _ = writeln!(text, "{}", listed(entry));
        given += 1;
    }
    let next = offset.saturating_add(given);
    Ok((text, (given > 0 && next <= total).then_some(next)))
}

fn listed(entry: &DirEntry) -> String {
    let kind = match entry.kind.as_str() {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char" => 'c',
        "block" => 'b',
        _ => '-',
    };
    let mode: String = (0..9)
        .map(|bit| {
            if entry.mode & (0o400 >> bit) == 0 {
                '-'
            } else {
                ['r', 'w', 'x'][bit % 3]
            }
        })
        .collect();
    let slash = if kind == 'd' { "/" } else { "" };
    let target = entry
        .target
        .as_ref()
        .map(|target| format!(" -> {}", on_a_line(target)))
        .unwrap_or_default();
    format!(
        "{kind}{mode} {:>10}  {}{slash}{target}",
        entry.size,
        on_a_line(&entry.name)
    )
}

/// A name that stays on its line, whatever is in it.
fn on_a_line(name: &str) -> Cow<'_, str> {
    match name.contains(char::is_control) {
        true => name
            .chars()
            .map(|char| match char.is_control() {
                true => char.escape_default().to_string(),
                false => char.to_string(),
            })
            .collect::<String>()
            .into(),
        false => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn read(content: ReadContent, data: impl Into<Bytes>) -> Read {
        Read {
            path: "/workspace/it".to_owned(),
            size: 1234,
            content,
            data: data.into(),
            notes: Vec::new(),
        }
    }

    fn lines(data: &'static str, total_lines: Option<u64>, next_offset: Option<u64>) -> Read {
        let content = ReadContent::Text {
            total_lines,
            next_offset,
            cut: false,
        };
        read(content, data)
    }

    /// The text form and the structured one.
    async fn both(read: Read, offset: u64, limit: u64) -> (String, serde_json::Value) {
        let done = shown(read, offset, limit).await.unwrap();
        let text = done.content[0].as_text().unwrap().text.clone();
        (text, done.structured_content.unwrap_or_default())
    }

    async fn text_of(read: Read, offset: u64) -> String {
        both(read, offset, 10).await.0
    }

    #[tokio::test]
    async fn lines_are_numbered_from_the_offset_and_both_forms_say_the_same() {
        let (text, structured) = both(lines("a\n\nb", Some(12), Some(12)), 9, 3).await;
        assert_eq!(
            text,
            "     9\ta\n    10\t\n    11\tb\n[lines 9 to 11 of 12; go on with offset 12]"
        );
        assert_eq!(
            structured,
            json!({"path": "/workspace/it", "kind": "text", "size": 1234,
                   "content": "     9\ta\n    10\t\n    11\tb\n", "total_lines": 12, "next_offset": 12,
                   "notes": ["lines 9 to 11 of 12; go on with offset 12"]})
        );
    }

    #[tokio::test]
    async fn what_is_not_known_is_left_out_and_said() {
        let (text, structured) = both(lines("a\n", None, Some(2)), 1, 1).await;
        assert_eq!(structured.get("total_lines"), None);
        assert_eq!(
            text,
            "     1\ta\n[lines 1 to 1 of a file of 1,234 bytes, whose lines were not all counted; go on with offset 2]"
        );
        let ends = async |data| text_of(lines(data, Some(2), None), 1).await;
        assert!(
            ends("a\r\nb\r\n")
                .await
                .ends_with("\n[these lines end in CRLF]")
        );
        assert!(ends("a\r\nb\n").await.contains("others in LF"));
        assert!(
            ends("a\rb\n")
                .await
                .starts_with("     1\ta\rb\n[some have lone CRs")
        );
    }

    #[test]
    fn what_does_not_fit_is_for_the_next_page() {
        let line = "é".repeat(700);
        let numbered = numbered(&vec![line.as_str(); 100].join("\n"), 5);
        let given = numbered.text.lines().count() as u64;
        assert!(numbered.text.len() <= BOUND + 1500 && given > 20);
        assert_eq!(numbered.next, Some(5 + given));
        assert!(!numbered.cut);

        let long = format!("a{}\nb", "é".repeat(BOUND));
        let numbered = super::numbered(&long, 1);
        assert!(numbered.cut && numbered.text.len() <= BOUND + 8);
        assert_eq!(numbered.next, Some(2));
    }

    #[tokio::test]
    async fn nothing_is_said_to_be_nothing() {
        assert_eq!(text_of(lines("", Some(0), None), 1).await, "[empty file]");
        assert_eq!(
            text_of(lines("", Some(3), None), 9).await,
            "[there is nothing at offset 9: 3 lines in all]"
        );
    }

    #[tokio::test]
    async fn an_image_is_an_image_and_no_structured_content() {
        let image = || ReadContent::Image {
            media_type: "image/png".to_owned(),
        };
        let png = picture::tests::png(3, 2);
        let result = shown(read(image(), png.clone()), 1, 10).await.unwrap();
        let said = |result: &CallToolResult| result.content[0].as_text().unwrap().text.clone();
        assert_eq!(said(&result), "[image/png, 3x2 pixels, 1,234 bytes]");
        let block = result.content[1].as_image().unwrap();
        assert_eq!(
            (block.data.as_str(), block.mime_type.as_str()),
            (STANDARD.encode(&png).as_str(), "image/png")
        );
        assert_eq!(result.structured_content, None);
        let bad = shown(read(image(), "\u{89}PNG\r\n\u{1a}\nno"), 1, 10)
            .await
            .unwrap();
        assert_eq!(bad.content.len(), 1);
        assert!(
            said(&bad).starts_with("[not shown, 1,234 bytes: "),
            "{bad:?}"
        );
        let binary = ReadContent::Binary {
            description: "ELF executable".to_owned(),
        };
        let binary = shown(read(binary, ""), 1, 10).await.unwrap();
        assert!(said(&binary).starts_with("[ELF executable, 1,234 bytes;"));
        assert_eq!(binary.structured_content, None);
    }

    #[tokio::test]
    async fn directories_are_listed_in_pages() {
        let entry = |name: &str, kind: &str, mode, target| {
            let entry = DirEntry {
                name: name.to_owned(),
                kind: kind.to_owned(),
                size: 7,
                mode,
                target,
            };
            serde_json::to_string(&entry).unwrap()
        };
        let data = [
            entry("a", "symlink", 0o777, Some("b".to_owned())),
            entry("b", "file", 0o640, None),
            entry("c", "dir", 0o755, None),
        ]
        .join("\n");
        let directory = || ReadContent::Directory { entries: 3 };
        let (_, structured) = both(read(directory(), data.clone()), 1, 10).await;
        assert_eq!(
            structured["content"],
            "lrwxrwxrwx          7  a -> b\n-rw-r-----          7  b\ndrwxr-xr-x          7  c/\n"
        );
        assert_eq!(structured.get("next_offset"), None);
        let (text, structured) = both(read(directory(), data), 2, 1).await;
        assert_eq!(structured["next_offset"], 3);
        assert_eq!(
            text,
            "-rw-r-----          7  b\n[entries 2 to 2 of 3; go on with offset 3]"
        );
    }
}
