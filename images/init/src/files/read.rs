//! Reading files: a page of a text's lines, an image, bytes as they are; of a directory, its entries.
//!
//! A page comes at once, however long the file is and whether or not it grows meanwhile: what is read is what was
//! there when the file was opened. Counting is bounded in time: how many lines there are is told only if that is
//! known soon, and a page that is too far to be reached is refused, with what was learnt kept for the next try.
//!
//! Text is shown as UTF-8 whatever it is in, with a note that names the encoding. In all encodings but UTF-16 a line break
//! is the byte LF and nothing else is, so a page is found in the bytes and decoded by itself; UTF-16 is decoded first.

use std::fs::{self, File, Metadata};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::lines::{Line, LineIndex, Lines, Marks, Passed, Stamp};
use super::path::Places;
use super::{file_error, kind, list, names};
use crate::files::encoding::{Content, Encoding, TextReader, detect, detect_whole};
use crate::wire::{
    self, ErrorKind, MAX_LISTING, ReadContent, ReadReport, ReadRequest, ReadWant, Report, WireError,
};

/// How much of a file is looked at to tell text from other content, in bytes.
const SNIFF: usize = 64 << 10;

/// How much is sent at once, in bytes.
const PIECE: usize = 64 << 10;

/// How long the lines after a page are counted.
const COUNT: Duration = Duration::from_millis(50);

/// How long the lines before a page are counted.
const REACH: Duration = Duration::from_secs(10);

/// How much of a file of the kernel's own is read, in bytes.
const KERNELS: usize = 4 << 20;

/// How much of a UTF-16 file is decoded, in bytes.
const UTF16: usize = 16 << 20;

/// How many bytes of UTF-8 one byte of another encoding may become.
const GROWTH: usize = 3;

/// The images that clients take.
const IMAGES: &[&str] = &["image/png", "image/jpeg", "image/gif", "image/webp"];

/// Reads; `send` takes the bytes. Runs on the user's thread.
pub(crate) fn read(
    places: &Places,
    index: &LineIndex,
    request: &ReadRequest,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    let mut notes = Vec::new();
    let path = places.find(&request.path, &mut notes)?;
    let path = followed(path)?;
    let failed = |e: &io::Error| unread("read", &path, e);
    let meta = fs::metadata(&path).map_err(|e| failed(&e))?;
    let (meta, content) = if meta.is_dir() {
        let content = entries(&path, &request.want, send).map_err(|e| failed(&e))?;
        (meta, content)
    } else if !meta.is_file() {
        // Reading one of these may wait forever or change something.
        let description = format!("special file ({})", kind(meta.file_type()));
        (meta, ReadContent::Binary { description })
    } else {
        let (file, meta) = open(&path).map_err(|e| failed(&e))?;
        let content = match request.want {
            ReadWant::Bytes { offset, limit } => {
                bytes(file, offset, limit, send).map_err(|e| failed(&e))?
            }
            ReadWant::Lines { .. } => shown(file, &meta, index, &request.want, &mut notes, send)
                .map_err(|e| failed(&e))?,
        };
        (meta, content)
    };
    Ok(Report::Read(ReadReport {
        path: path.to_string_lossy().into_owned(),
        size: meta.len(),
        content,
        notes,
    }))
}

/// Where the links of a path lead. The kernel follows no link of another user's in a directory like `/tmp`, not even for
/// root, who reads.
fn followed(path: PathBuf) -> Result<PathBuf, WireError> {
    match path.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(unread("read", &path, &e))
        }
        // What is not there may be named after all, as what `/proc` links to.
        Err(_) => Ok(path),
    }
}

/// The whole of an ordinary file that is to be edited; nothing if it is longer than `most` bytes.
pub(crate) fn whole(path: &Path, most: u64) -> Result<Option<Vec<u8>>, WireError> {
    let failed = |e: &io::Error| unread("edit", path, e);
    let meta = fs::metadata(path).map_err(|e| failed(&e))?;
    if !meta.is_file() {
        return Err(WireError::new(
            ErrorKind::WrongKind,
            format!(
                "edit {}: it is not an ordinary file ({})",
                path.display(),
                kind(meta.file_type())
            ),
        ));
    }
    let content = open(path).and_then(|(mut file, _)| {
        beginning(
            &mut file,
            usize::try_from(most)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        )
    });
    let content = content.map_err(|e| failed(&e))?;
    Ok((content.len() as u64 <= most).then_some(content))
}

/// Why a file could not be read, and what may have been meant.
fn unread(operation: &str, path: &Path, e: &io::Error) -> WireError {
    let mut error = file_error(operation, path, e);
    if error.kind == ErrorKind::NotFound {
        error.message.push_str(&names::near(path));
    }
    error
}

/// Opens an ordinary file, and nothing that was put in its place meanwhile and makes one wait.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    let meta = file.metadata()?;
    match meta.is_file() {
        true => Ok((file, meta)),
        false => Err(io::Error::other("it is no longer an ordinary file")),
    }
}

/// Sends a directory's entries; of a page, only those.
fn entries(
    path: &Path,
    want: &ReadWant,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> io::Result<ReadContent> {
    let entries = list::list(path)?;
    let (skip, take) = match *want {
        ReadWant::Lines { offset, limit, .. } => (offset.saturating_sub(1), limit),
        ReadWant::Bytes { .. } => (0, u64::MAX),
    };
    let as_usize = |number| usize::try_from(number).unwrap_or(usize::MAX);
    let mut room = MAX_LISTING;
    for entry in entries.iter().skip(as_usize(skip)).take(as_usize(take)) {
        let line = wire::lines::encode(entry)?;
        let Some(left) = room.checked_sub(line.len() as u64) else {
            break;
        };
        room = left;
        if !send(line) {
            break;
        }
    }
    Ok(ReadContent::Directory {
        entries: entries.len() as u64,
    })
}

fn bytes(
    mut file: File,
    offset: u64,
    limit: u64,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> io::Result<ReadContent> {
    file.seek(SeekFrom::Start(offset))?;
    copy(&mut file.take(limit), send)?;
    Ok(ReadContent::Bytes)
}

fn copy(from: &mut dyn Read, send: &mut dyn FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    loop {
        let mut buffer = vec![0; PIECE];
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                buffer.truncate(read);
                if !send(buffer) {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Which lines are wanted.
struct Page {
    /// The first, from 1.
    first: u64,
    limit: u64,
    max_bytes: usize,
}

/// A page that was read.
struct Found {
    text: Vec<u8>,
    /// How many lines it has.
    lines: u64,
    /// Whether the only line is longer.
    cut: bool,
    total: Option<u64>,
    next: Option<u64>,
}

/// What a file is, and what is wanted of it.
fn shown(
    mut file: File,
    meta: &Metadata,
    index: &LineIndex,
    want: &ReadWant,
    notes: &mut Vec<String>,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
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
    let encoding = match what(&head, head.len() < SNIFF) {
        What::Text(content) => content.encoding(),
        What::Image(media_type) if size <= max_image_bytes => {
            file.seek(SeekFrom::Start(0))?;
            copy(&mut file.take(size), send)?;
            return Ok(ReadContent::Image {
                media_type: media_type.into(),
            });
        }
        What::Image(media_type) => {
            return binary(format!(
                "{media_type}, longer than the {} MiB that can be shown",
                max_image_bytes >> 20
            ));
        }
        What::Other(description) => return binary(description.into()),
    };
    let encoding = encoding.unwrap_or(Encoding::UTF_8);
    if encoding.is_utf16() {
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
        let found = lines(Cursor::new(text), &mut Marks::default(), &page)?;
        return Ok(sent(found, Encoding::UTF_8, true, notes, send));
    }
    let page = Page {
        // What is sent is bounded, not what is read.
        max_bytes: match encoding.is_utf8() {
            true => page.max_bytes,
            false => (page.max_bytes / GROWTH).max(1),
        },
        ..page
    };
    let again = file.try_clone()?;
    let found = if size == 0 {
        // The kernel's own files have no size, and some can be read only once.
        let mut content = head;
        content.append(&mut beginning(&mut file, KERNELS)?);
        if content.len() >= KERNELS {
            notes.push(format!("only the first {} MiB are given", KERNELS >> 20));
        }
        lines(Cursor::new(content), &mut Marks::default(), &page)?
    } else {
        file.seek(SeekFrom::Start(0))?;
        let stamp = Stamp::of(meta);
        let mut marks = index.get(&stamp);
        let found = lines(file.take(size), &mut marks, &page);
        index.put(stamp, marks);
        found?
    };
    let encoding = match std::str::from_utf8(&found.text) {
        // The beginning was ASCII only: what comes first after it decides.
        Err(_) if encoding.is_utf8() && size > 0 => verdict(again, size)?,
        _ => encoding,
    };
    if !encoding.is_utf8() || encoding.has_bom() {
        notes.push(in_encoding(encoding));
    }
    Ok(sent(found, encoding, page.first == 1, notes, send))
}

fn in_encoding(encoding: Encoding) -> String {
    format!("shown as UTF-8; the file is in {}", encoding.name())
}

/// The encoding of a file whose beginning does not tell it.
fn verdict(mut file: File, size: u64) -> io::Result<Encoding> {
    file.seek(SeekFrom::Start(0))?;
    let mut text = TextReader::new(file.take(size))?;
    let until = Instant::now() + REACH;
    let mut buffer = vec![0; PIECE];
    while text.content() == Content::Ascii && Instant::now() < until && text.read(&mut buffer)? > 0
    {
    }
    Ok(text.content().encoding().unwrap_or(Encoding::UTF_8))
}

/// Sends a page that was found; `starts` says that it begins with the file.
fn sent(
    found: Found,
    encoding: Encoding,
    starts: bool,
    notes: &mut Vec<String>,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
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

/// So many bytes at most of what is there now.
fn beginning(file: &mut File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match file.take(most as u64).read_to_end(&mut bytes) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(bytes),
    }
}

/// A page of a content's lines; what is learnt on the way goes into `marks`.
fn lines(source: impl Read + Seek, marks: &mut Marks, page: &Page) -> io::Result<Found> {
    let before = page.first - 1;
    let mut lines = Lines::new(source, std::mem::take(marks), before)?;
    let found = page_of(&mut lines, page);
    *marks = lines.marks;
    found
}

fn page_of(lines: &mut Lines<impl Read + Seek>, page: &Page) -> io::Result<Found> {
    let mut found = Found {
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

/// The page's bytes as text.
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
        // The last character may be cut, too.
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

/// What content is.
#[derive(Debug, PartialEq, Eq)]
enum What {
    Text(Content),
    /// An image of this media type, by its first bytes only.
    Image(&'static str),
    /// Something else, in a word.
    Other(&'static str),
}

/// Tells by its beginning what content is; `whole` says that there is no more of it. Text is text, whatever it begins
/// with. Only where it is neither UTF-8 nor UTF-16, the first bytes of a known format count for more, unless
/// they are printable themselves.
fn what(head: &[u8], whole: bool) -> What {
    let content = match whole {
        true => detect_whole(head),
        false => detect(head, false),
    };
    let unicode = content
        .encoding()
        .is_some_and(|encoding| encoding.is_utf16() || encoding.is_utf8());
    let printable = head.iter().take(4).all(|byte| (b' '..=b'~').contains(byte));
    if content != Content::Binary && (unicode || printable) {
        return What::Text(content);
    }
    match infer::get(head).map(|kind| kind.mime_type()) {
        Some(kind) if IMAGES.contains(&kind) => What::Image(kind),
        Some(kind) => What::Other(kind),
        None if content != Content::Binary => What::Text(content),
        None => What::Other("binary data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_whatever_it_begins_with() {
        for text in [
            "GIF89a is how such a file begins",
            "BZhang wrote",
            "BM",
            "%PDF-1.4 is a header",
            "PK\u{3}\u{4}",
            "RIFF of the week",
            "\u{7f}ELF",
            "II*",
            "",
        ] {
            let ascii = What::Text(Content::Ascii);
            assert_eq!(what(text.as_bytes(), true), ascii, "{text:?}");
            let western = [text.as_bytes(), b" caf\xe9\n"].concat();
            if !text.contains(char::is_control) {
                assert!(matches!(what(&western, true), What::Text(_)), "{text:?}");
            }
        }
        let mut cut = vec![b'a'; SNIFF - 1];
        cut.push(0xc3);
        assert!(matches!(what(&cut, false), What::Text(_)));
    }

    #[test]
    fn other_content_is_named() {
        for (content, kind) in [
            (
                b"\x89PNG\r\n\x1a\nnot an image".as_slice(),
                What::Image("image/png"),
            ),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", What::Image("image/jpeg")),
            (b"GIF89a\x01\0\x01\0", What::Image("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", What::Image("image/webp")),
            (b"\x1f\x8b\x08\0\0\0\0\0", What::Other("application/gzip")),
            (
                b"\x7fELF\x02\x01\x01\0".repeat(8).as_slice(),
                What::Other("application/x-executable"),
            ),
            (b"a\0b", What::Other("binary data")),
        ] {
            assert_eq!(what(content, true), kind);
        }
    }
}
