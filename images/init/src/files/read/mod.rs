//! Reading files: a page of a text's lines, an image, bytes as they are; the entries of a directory.
//!
//! A page comes at once, even of a very long or growing file: only what was there when the file was opened is read. The
//! time for counting lines is bounded. The number of lines is reported only if it is known soon, and a page that can't be
//! reached in time is refused; the next request continues from there.
//!
//! Text is shown as UTF-8, with a note that names another encoding. In all encodings but UTF-16 a line break is the byte
//! LF and nothing else is, so a page is found in the bytes and decoded by itself. UTF-16 is decoded first.

mod page;
mod pieces;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::lines::LineIndex;
use super::path::Places;
use super::{file_error, kind, list, names};
use crate::wire::{
    self, ErrorKind, MAX_LISTING, ReadContent, ReadReport, ReadRequest, ReadWant, Report, WireError,
};
use page::page;
pub(super) use pieces::Send;
use pieces::{beginning, copy};

/// Reads a file or a directory. Runs on the user's thread.
pub(crate) fn read(
    places: &Places,
    index: &LineIndex,
    request: &ReadRequest,
    send: &mut Send<'_>,
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
        // Reading it may wait forever or change something.
        let description = format!("special file ({})", kind(meta.file_type()));
        (meta, ReadContent::Binary { description })
    } else {
        let (file, meta) = open(&path).map_err(|e| failed(&e))?;
        let content = match request.want {
            ReadWant::Bytes { offset, limit } => {
                bytes(file, offset, limit, send).map_err(|e| failed(&e))?
            }
            ReadWant::Lines { .. } => {
                page(file, &meta, index, &request.want, &mut notes, send).map_err(|e| failed(&e))?
            }
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

/// The path without links. In a directory like `/tmp` the kernel follows no link of another user, not even for root, as
/// which the host reads.
fn followed(path: PathBuf) -> Result<PathBuf, WireError> {
    match path.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(unread("read", &path, &e))
        }
        // Some links in `/proc` name no path, but can be opened.
        Err(_) => Ok(path),
    }
}

/// The content of an ordinary file that is edited; `None` if it is longer than `most` bytes.
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

/// The error of a file that can't be read, with similar names if it does not exist.
fn unread(operation: &str, path: &Path, e: &io::Error) -> WireError {
    let mut error = file_error(operation, path, e);
    if error.kind == ErrorKind::NotFound {
        error.message.push_str(&names::near(path));
    }
    error
}

/// Opens an ordinary file. Fails without waiting if it was exchanged for a pipe.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let meta = file.metadata()?;
    match meta.is_file() {
        true => Ok((file, meta)),
        false => Err(io::Error::other("it is no longer an ordinary file")),
    }
}

/// Sends a directory's entries, or those that the request asks for.
fn entries(path: &Path, want: &ReadWant, send: &mut Send<'_>) -> io::Result<ReadContent> {
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

fn bytes(mut file: File, offset: u64, limit: u64, send: &mut Send<'_>) -> io::Result<ReadContent> {
    file.seek(SeekFrom::Start(offset))?;
    copy(&mut file.take(limit), send)?;
    Ok(ReadContent::Bytes)
}
