//! Writing files.
//!
//! Nothing is changed before the complete content has come, so content that ends early changes nothing. There are two
//! ways, the first of which is preferred:
//!
//! 1. [`beside`]: a new file beside the old one is renamed over it. That is atomic: a reader sees the old or the new
//!    content. The new file takes over the old file's owner, mode, extended attributes and ACL.
//! 2. [`in_place`]: used if the first way would change more than the content (other hard links, an owner or attributes
//!    that the user can't set), or is impossible (a directory that the user may not write, a mount point). A reader may
//!    see parts of both contents, so the result has a note. Room on the disk is reserved first, and after an error the
//!    old content is restored.
//!
//! Appending is one `O_APPEND` write. So concurrent additions are all kept, nothing is copied, and a program that has the
//! file open sees the addition.

mod attributes;
mod beside;
mod in_place;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::path::Places;
use super::{file_error, kind};
use crate::wire::{ErrorKind, Report, WireError, WriteRequest};
use beside::{Old, Unfit, beside};
use in_place::{append, in_place};

/// The most room that is reserved in memory before the content comes, in bytes.
const FORESEEN: u64 = 16 << 20;

/// Writes `input` to a file. Runs on the user's thread.
pub(crate) fn write(
    places: &Places,
    turn: &Mutex<()>,
    request: &WriteRequest,
    input: &mut dyn Read,
) -> Result<Report, WireError> {
    let mut notes = Vec::new();
    let path = places.find(&request.path, &mut notes)?;
    if request.path.ends_with('/') {
        return Err(WireError::invalid(format!(
            "write {}: the path names a directory; add a file name",
            path.display()
        )));
    }
    if let Some(mode) = request.mode.filter(|mode| *mode > 0o7777) {
        return Err(WireError::invalid(format!(
            "write {}: the mode {mode:o} is out of range; expected 0 to 7777 (octal)",
            path.display()
        )));
    }
    let failed = |e: &io::Error| file_error("write", &path, e);
    let content = whole(request.bytes, input).map_err(|e| failed(&e))?;
    // An addition between an edit's reading and its renaming would be lost, so both take turns.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let target = follow(&path).map_err(|e| failed(&e))?;
    let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(|e| file_error("make the directory", &parent, &e))?;
    let note = if request.append {
        check_kind(&target)?;
        append(&target, &content, request.mode)
            .map(|()| None)
            .map_err(|e| failed(&e))?
    } else {
        replace(&target, &content, request.mode)?
    };
    notes.extend(note);
    let resolved = target.canonicalize().unwrap_or(target);
    Ok(Report::Write {
        path: resolved.to_string_lossy().into_owned(),
        bytes: request.bytes,
        notes,
    })
}

/// The complete input.
fn whole(bytes: u64, input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(bytes.min(FORESEEN)).unwrap_or(0));
    input.take(bytes).read_to_end(&mut content)?;
    if content.len() as u64 != bytes {
        let message = format!(
            "the content ended after {} of {bytes} bytes; the old file is as it was",
            content.len()
        );
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(content)
}

/// The target of a path's symlinks, which need not exist.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Refuses a path at which there is something other than an ordinary file.
fn check_kind(target: &Path) -> Result<(), WireError> {
    match fs::metadata(target) {
        Ok(meta) if meta.is_dir() => Err(file_error(
            "write",
            target,
            &io::Error::from(io::ErrorKind::IsADirectory),
        )),
        Ok(meta) if !meta.is_file() => Err(WireError::new(
            ErrorKind::WrongKind,
            format!(
                "write {}: it is a special file ({}); use exec",
                target.display(),
                kind(meta.file_type())
            ),
        )),
        _ => Ok(()),
    }
}

/// Replaces the content of a file, or makes the file; `target` is no symlink. Returns a note if that was not atomic.
pub(crate) fn replace(
    target: &Path,
    content: &[u8],
    mode: Option<u32>,
) -> Result<Option<String>, WireError> {
    check_kind(target)?;
    let failed = |e: io::Error| file_error("write", target, &e);
    let Some(old) = Old::open(target).map_err(failed)? else {
        return match beside(target, content, mode, None) {
            Ok(()) => Ok(None),
            Err(Unfit::Failed(e) | Unfit::Because(_, e)) => Err(failed(e)),
        };
    };
    let because = match old.why_not_beside() {
        Some(because) => because,
        None => match beside(target, content, mode, Some(&old)) {
            Ok(()) => return Ok(None),
            Err(Unfit::Failed(e)) => return Err(failed(e)),
            // A running program can't be written in place.
            Err(Unfit::Because(_, e)) if old.file.is_none() => return Err(failed(e)),
            Err(Unfit::Because(because, _)) => because.to_owned(),
        },
    };
    let Some(file) = &old.file else {
        return Err(failed(Errno::TXTBSY.into()));
    };
    in_place(file, &old.meta, content, mode).map_err(failed)?;
    Ok(Some(format!(
        "written in place, not atomically, since {because}"
    )))
}

#[cfg(test)]
mod tests;
