//! Pages: some lines of a text.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::pieces::{PIECE, Send, beginning, copy};
use crate::files::content::{FileKind, file_kind};
use crate::files::encoding::{Content, Encoding, TextReader};
use crate::files::lines::{Line, LineIndex, Lines, Marks, Passed, Stamp};
use crate::wire::{ReadContent, ReadWant};

/// How many bytes of a file are inspected to tell text from other content.
const SNIFF: usize = 64 << 10;

/// The longest time for counting the lines after a page.
const COUNT: Duration = Duration::from_millis(50);

/// The longest time for counting the lines before a page.
const REACH: Duration = Duration::from_secs(10);

/// How many bytes of a file in `/proc` or `/sys` are read.
const KERNEL_FILE: usize = 4 << 20;

/// How many bytes of a UTF-16 file are decoded.
const UTF16: usize = 16 << 20;

/// How many bytes of UTF-8 stand for one byte of another encoding, at most.
const GROWTH: usize = 3;

/// The requested lines.
struct Page {
    /// The first line, from 1.
    first: u64,
    limit: u64,
    max_bytes: usize,
}

/// A page that was read.
struct PageText {
    text: Vec<u8>,
    /// The number of its lines.
    lines: u64,
    /// Whether it is a part of one long line.
    cut: bool,
    /// The number of lines in the file, if known.
    total: Option<u64>,
    /// The first line after the page, if there is one.
    next: Option<u64>,
}

/// Sends a page of a text, or an image; for other content, only names its kind.
pub(super) fn page(
    mut file: File,
    meta: &Metadata,
    index: &LineIndex,
    want: &ReadWant,
    notes: &mut Vec<String>,
    send: &mut Send<'_>,
) -> io::Result<ReadContent> {
    let ReadWant::Lines {
        offset,
        limit,
        max_bytes,
        max_image_bytes,
    } = *want
    else {
        return Err(io::Error::other("lines were expected to be asked for"));
    };
    let page = Page {
        first: offset.max(1),
        limit,
        max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX).max(1),
    };
    let size = meta.len();
    let head = beginning(&mut file, SNIFF)?;
    let binary = |description: String| Ok(ReadContent::Binary { description });
    let encoding = match file_kind(&head, head.len() < SNIFF) {
        FileKind::Text(content) => content.encoding(),
        FileKind::Image(media_type) if size <= max_image_bytes => {
            file.seek(SeekFrom::Start(0))?;
            copy(&mut file.take(size), send)?;
            return Ok(ReadContent::Image {
                media_type: media_type.into(),
            });
        }
        FileKind::Image(media_type) => {
            return binary(format!(
                "{media_type}, longer than the {} MiB that can be shown",
                max_image_bytes >> 20
            ));
        }
        FileKind::Other(description) => return binary(description.into()),
    };
    let encoding = encoding.unwrap_or(Encoding::UTF_8);
    if encoding.is_utf16() {
        return utf16_page(file, head, encoding, &page, notes, send);
    }
    let page = Page {
        // The bound is for what is sent, which is UTF-8.
        max_bytes: match encoding.is_utf8() {
            true => page.max_bytes,
            false => (page.max_bytes / GROWTH).max(1),
        },
        ..page
    };
    let again = file.try_clone()?;
    let found = page_text(file, head, meta, index, &page, notes)?;
    let encoding = match std::str::from_utf8(&found.text) {
        // The beginning is ASCII only: the first other characters decide.
        Err(_) if encoding.is_utf8() && size > 0 => later_encoding(again, size)?,
        _ => encoding,
    };
    if !encoding.is_utf8() || encoding.has_bom() {
        notes.push(in_encoding(encoding));
    }
    Ok(sent(found, encoding, page.first == 1, notes, send))
}

/// Sends a page of a UTF-16 file, which is decoded first.
fn utf16_page(
    mut file: File,
    head: Vec<u8>,
    encoding: Encoding,
    page: &Page,
    notes: &mut Vec<String>,
    send: &mut Send<'_>,
) -> io::Result<ReadContent> {
    let mut content = head;
    content.append(&mut beginning(&mut file, UTF16 - SNIFF)?);
    if content.len() >= UTF16 {
        notes.push(format!(
            "only the first {} MiB are given, since it is UTF-16; convert it with iconv to read on",
            UTF16 >> 20
        ));
    }
    notes.push(in_encoding(encoding));
    let text = encoding.decode(&content).into_owned();
    let found = lines(Cursor::new(text), &mut Marks::default(), page)?;
    Ok(sent(found, Encoding::UTF_8, true, notes, send))
}

/// Reads a page's bytes. `head` is the beginning of the file, which was read already.
fn page_text(
    mut file: File,
    head: Vec<u8>,
    meta: &Metadata,
    index: &LineIndex,
    page: &Page,
    notes: &mut Vec<String>,
) -> io::Result<PageText> {
    if meta.len() > 0 {
        file.seek(SeekFrom::Start(0))?;
        let stamp = Stamp::of(meta);
        let mut marks = index.get(&stamp);
        let found = lines(file.take(meta.len()), &mut marks, page);
        index.put(stamp, marks);
        return found;
    }
    // Files in `/proc` and `/sys` have no size, and some can be read only once.
    let mut content = head;
    content.append(&mut beginning(&mut file, KERNEL_FILE)?);
    if content.len() >= KERNEL_FILE {
        notes.push(format!(
            "only the first {} MiB are given",
            KERNEL_FILE >> 20
        ));
    }
    lines(Cursor::new(content), &mut Marks::default(), page)
}

fn in_encoding(encoding: Encoding) -> String {
    format!("shown as UTF-8; the file is in {}", encoding.name())
}

/// The encoding of a file whose beginning is ASCII only.
fn later_encoding(mut file: File, size: u64) -> io::Result<Encoding> {
    file.seek(SeekFrom::Start(0))?;
    let mut text = TextReader::new(file.take(size))?;
    let until = Instant::now() + REACH;
    let mut buffer = vec![0; PIECE];
    while text.content() == Content::Ascii && Instant::now() < until && text.read(&mut buffer)? > 0
    {
    }
    Ok(text.content().encoding().unwrap_or(Encoding::UTF_8))
}

/// Sends a page; `starts` means that it begins where the file begins.
fn sent(
    found: PageText,
    encoding: Encoding,
    starts: bool,
    notes: &mut Vec<String>,
    send: &mut Send<'_>,
) -> ReadContent {
    let text = decoded(&found.text, found.cut, encoding, starts, notes);
    for piece in text.as_bytes().chunks(PIECE) {
        if !send(piece.to_vec()) {
            break;
        }
    }
    ReadContent::Text {
        total_lines: found.total,
        next_offset: found.next,
        cut: found.cut,
    }
}

/// Reads a page; notes in `marks` where lines begin.
fn lines(source: impl Read + Seek, marks: &mut Marks, page: &Page) -> io::Result<PageText> {
    let before = page.first - 1;
    let mut lines = Lines::new(source, std::mem::take(marks), before)?;
    let found = page_of(&mut lines, page);
    *marks = lines.marks;
    found
}

fn page_of(lines: &mut Lines<impl Read + Seek>, page: &Page) -> io::Result<PageText> {
    let mut found = PageText {
        text: Vec::new(),
        lines: 0,
        cut: false,
        total: lines.marks.total,
        next: None,
    };
    if found.total.is_some_and(|total| page.first > total) {
        return Ok(found);
    }
    if lines.pass(page.first - 1, Instant::now() + REACH)? == Passed::OutOfTime {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "line {} was not reached within {} s, line {} was; ask again, which goes on from there, or use exec",
                page.first,
                REACH.as_secs(),
                lines.line + 1
            ),
        ));
    }
    while found.lines < page.limit {
        let before = found.text.len();
        match lines.next(page.max_bytes - before, &mut found.text)? {
            Line::Whole => found.lines += 1,
            Line::End => break,
            Line::Longer if found.lines == 0 => {
                (found.lines, found.cut) = (1, true);
                break;
            }
            Line::Longer => {
                found.text.truncate(before);
                break;
            }
        }
    }
    let more = found.cut || lines.more()?;
    found.total = lines.count(Instant::now() + COUNT)?;
    let next = page.first + found.lines;
    found.next = found
        .total
        .map_or(more, |total| next <= total)
        .then_some(next);
    Ok(found)
}

/// A page's bytes as text.
fn decoded(
    bytes: &[u8],
    cut: bool,
    encoding: Encoding,
    starts: bool,
    notes: &mut Vec<String>,
) -> String {
    let encoding = match starts {
        true => encoding,
        false => encoding.after_bom(),
    };
    let mut text = encoding.decode(bytes).into_owned();
    if cut {
        // The last character may be incomplete.
        text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        text.push('\n');
    }
    let damaged = text.contains(char::REPLACEMENT_CHARACTER)
        && std::str::from_utf8(bytes).map_or(true, |text| !text.contains('\u{fffd}'));
    if damaged {
        notes.push(format!(
            "some bytes are not {}; they are shown as \u{fffd}",
            encoding.label()
        ));
    }
    text
}
