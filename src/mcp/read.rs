//! `read`: a file's numbered lines, an image, a directory's entries.
//!
//! Of text, as many whole lines are given as fit [`BOUND`]; the result says where to go on. Only a first line
//! that is longer by itself is cut.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::call::{Call, Refusal, result};
use super::{args, schema, text};
use crate::sandbox::{DirEntry, Read, ReadContent, Sandbox};

pub(super) const NAME: &str = "read";

/// How many lines are given where the call says nothing.
const DEFAULT_LIMIT: u64 = 2000;

/// How much text is given at most, in bytes.
const BOUND: usize = 40_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// File or directory, absolute or relative to /workspace
    path: String,
    /// First line (or directory entry) to give, from 1 (default 1)
    #[schemars(range(min = 1))]
    offset: Option<u64>,
    /// How many lines (or entries) at most (default 2000)
    #[schemars(range(min = 1))]
    limit: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// Absolute path of what was read
    path: String,
    /// What it is: text, image, binary or directory
    kind: String,
    /// Size of the file in bytes
    size: u64,
    /// The lines, each as number, tab, text; a directory's listing; for other files a description
    content: String,
    /// Lines of the text (entries of the directory) in all
    #[serde(skip_serializing_if = "Option::is_none")]
    total_lines: Option<u64>,
    /// Where to go on reading; absent at the end
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// Whether a very long line was cut
    #[serde(skip_serializing_if = "Option::is_none")]
    line_cut: Option<bool>,
    /// Media type of an image
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
}

pub(super) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Read a file in the microVM: text as numbered lines, an image as an image, a directory as its listing. \
         Page through long files with `offset` and `limit`.",
        schema::input::<Params>(),
    )
    .with_title("Read a file")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Read a file")
            .read_only(true)
            .destructive(false)
            .idempotent(true)
            .open_world(false),
    )
}

pub(super) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let params: Params = args::parse(tool, arguments)?;
    if params.path.is_empty() {
        return Err(Refusal::new("`path` is empty: send a file or directory"));
    }
    let offset = params.offset.unwrap_or(1);
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    let path = params.path;
    let read = call
        .run(|work| async move { sandbox.read(&path, offset, limit, &work.progress).await })
        .await??;
    let (content, structured) = shown(read, offset, limit)?;
    result(content, &structured)
}

/// Both forms of what was read.
fn shown(read: Read, offset: u64, limit: u64) -> Result<(Vec<ContentBlock>, Structured), Refusal> {
    let mut shown = Structured {
        path: read.path,
        kind: "text".to_owned(),
        size: read.size,
        content: String::new(),
        total_lines: None,
        next_offset: None,
        line_cut: None,
        media_type: None,
    };
    let mut image = None;
    match read.content {
        ReadContent::Text {
            total_lines,
            next_offset,
            cut,
        } => {
            let lines = numbered(&String::from_utf8_lossy(&read.data), offset);
            shown.content = lines.text;
            shown.total_lines = Some(total_lines);
            shown.next_offset = lines.next.or(next_offset);
            shown.line_cut = (lines.cut || (cut && lines.next.is_none())).then_some(true);
        }
        // Nobody asks the sandbox for bare bytes here; if it sends some, they are read as text.
        ReadContent::Bytes => {
            shown.content = numbered(&String::from_utf8_lossy(&read.data), offset).text;
        }
        ReadContent::Image { media_type } => {
            shown.kind = "image".to_owned();
            shown.content = format!("[{media_type}, {}]", text::size(shown.size));
            image = Some(ContentBlock::image(
                STANDARD.encode(&read.data),
                media_type.clone(),
            ));
            shown.media_type = Some(media_type);
        }
        ReadContent::Binary { description } => {
            shown.kind = "binary".to_owned();
            shown.content = format!(
                "[{description}, {}; not shown, use exec to look into it]",
                text::size(shown.size)
            );
        }
        ReadContent::Directory { entries } => {
            shown.kind = "directory".to_owned();
            let (listing, next) = listing(&read.data, entries, offset, limit)?;
            shown.content = listing;
            shown.total_lines = Some(entries);
            shown.next_offset = next;
        }
    }
    let mut content = vec![ContentBlock::text(as_text(&shown, offset))];
    content.extend(image);
    Ok((content, shown))
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

fn as_text(shown: &Structured, offset: u64) -> String {
    let mut text = shown.content.clone();
    let total = shown.total_lines.unwrap_or(0);
    let (things, empty) = match shown.kind.as_str() {
        "directory" => ("entries", "[empty directory]"),
        _ => ("lines", "[empty file]"),
    };
    if shown.total_lines.is_some() && shown.content.is_empty() {
        if total == 0 {
            return empty.to_owned();
        }
        return format!("[there is nothing at offset {offset}: {total} {things} in all]");
    }
    if shown.line_cut.is_some() {
        text.push_str("[a very long line was cut; use exec to see all of it]\n");
    }
    if let Some(next) = shown.next_offset {
        let last = next.saturating_sub(1);
        let _ = writeln!(
            text,
            "[{things} {offset} to {last} of {total}; go on with offset {next}]"
        );
    }
    text
}

/// A directory's entries for a reader, and where the next ones start. The sandbox may send all of them or
/// those asked for.
fn listing(
    json_lines: &[u8],
    total: u64,
    offset: u64,
    limit: u64,
) -> Result<(String, Option<u64>), Refusal> {
    let entries: Vec<DirEntry> = json_lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()
        .map_err(|error| {
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
        .map(|target| format!(" -> {target}"))
        .unwrap_or_default();
    format!(
        "{kind}{mode} {:>10}  {}{slash}{target}",
        entry.size, entry.name
    )
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
        }
    }

    fn lines(data: &'static str, total_lines: u64, next_offset: Option<u64>) -> Read {
        let content = ReadContent::Text {
            total_lines,
            next_offset,
            cut: false,
        };
        read(content, data)
    }

    fn text_of(content: &[ContentBlock]) -> &str {
        &content[0].as_text().unwrap().text
    }

    #[test]
    fn lines_are_numbered_from_the_offset() {
        let (content, structured) = shown(lines("a\n\nb", 12, Some(12)), 9, 3).unwrap();
        assert_eq!(structured.content, "     9\ta\n    10\t\n    11\tb\n");
        assert_eq!(
            text_of(&content),
            "     9\ta\n    10\t\n    11\tb\n[lines 9 to 11 of 12; go on with offset 12]\n"
        );
        assert_eq!(
            serde_json::to_value(&structured).unwrap(),
            json!({"path": "/workspace/it", "kind": "text", "size": 1234, "content": structured.content,
                   "total_lines": 12, "next_offset": 12})
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

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let (content, _) = shown(lines("", 0, None), 1, 10).unwrap();
        assert_eq!(text_of(&content), "[empty file]");
        let (content, _) = shown(lines("", 3, None), 9, 10).unwrap();
        assert_eq!(
            text_of(&content),
            "[there is nothing at offset 9: 3 lines in all]"
        );
    }

    #[test]
    fn an_image_is_an_image() {
        let image = ReadContent::Image {
            media_type: "image/png".to_owned(),
        };
        let (content, structured) = shown(read(image, "png"), 1, 10).unwrap();
        assert_eq!(text_of(&content), "[image/png, 1,234 bytes]");
        let image = content[1].as_image().unwrap();
        assert_eq!(
            (image.data.as_str(), image.mime_type.as_str()),
            ("cG5n", "image/png")
        );
        assert_eq!(structured.media_type.as_deref(), Some("image/png"));
    }

    #[test]
    fn other_binaries_are_described() {
        let binary = ReadContent::Binary {
            description: "ELF executable".to_owned(),
        };
        let (content, structured) = shown(read(binary, ""), 1, 10).unwrap();
        assert!(text_of(&content).starts_with("[ELF executable, 1,234 bytes;"));
        assert_eq!(structured.kind, "binary");
    }

    #[test]
    fn directories_are_listed_in_pages() {
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
        let (_, structured) = shown(read(directory(), data.clone()), 1, 10).unwrap();
        assert_eq!(
            structured.content,
            "lrwxrwxrwx          7  a -> b\n-rw-r-----          7  b\ndrwxr-xr-x          7  c/\n"
        );
        assert_eq!(structured.next_offset, None);
        let (content, structured) = shown(read(directory(), data), 2, 1).unwrap();
        assert_eq!(structured.next_offset, Some(3));
        assert_eq!(
            text_of(&content),
            "-rw-r-----          7  b\n[entries 2 to 2 of 3; go on with offset 3]\n"
        );
    }
}
