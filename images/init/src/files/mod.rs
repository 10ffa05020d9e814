//! Files: reading, writing, editing and searching them for the host, on a thread with the user's permissions.
//!
//! - [`path`]: the file that a path stands for, and [`names`]: names that look the same;
//! - [`read`]: lines or bytes of a file, [`lines`]: where lines begin, and [`content`]: the kind of a file's content;
//! - [`list`]: the entries of a directory;
//! - [`write`]: new content, and appending;
//! - [`edit`]: replacing text, and [`search`]: finding it;
//! - [`encoding`]: the encodings of text, and [`excerpt`]: the shown part of long lines.

mod content;
pub(crate) mod edit;
mod encoding;
mod excerpt;
mod lines;
mod list;
mod names;
mod path;
mod read;
pub(crate) mod search;
mod write;

use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::reason::plain;
use crate::wire::{ErrorKind, WireError};

pub(crate) use lines::LineIndex;
pub(crate) use path::Places;
pub(crate) use read::{read, whole};
pub(crate) use write::{replace, write};

/// The error of an operation on a file.
fn file_error(operation: &str, path: &Path, e: &io::Error) -> WireError {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::PermissionDenied
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => ErrorKind::WrongKind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Other,
    };
    WireError::new(
        kind,
        format!("{operation} {}: {}", path.display(), plain(e)),
    )
}

/// The word for a kind of file.
fn kind(kind: FileType) -> &'static str {
    match kind {
        k if k.is_file() => "file",
        k if k.is_dir() => "dir",
        k if k.is_symlink() => "symlink",
        k if k.is_fifo() => "fifo",
        k if k.is_socket() => "socket",
        k if k.is_char_device() => "char",
        _ => "block",
    }
}
