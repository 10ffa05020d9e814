//! Finding, reading and writing files for the host, on a thread that has the user's permissions.
//!
//! - [`path`]: which file a path means, and [`names`]: names that look the same;
//! - [`read`]: a file's lines or bytes, and [`lines`]: where lines begin, remembered;
//! - [`list`]: a directory's entries;
//! - [`write`]: new content, and additions.

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

use crate::command::enter::plain;
use crate::wire::{ErrorKind, WireError};

pub(crate) use lines::Index;
pub(crate) use path::Places;
pub(crate) use read::{read, whole};
pub(crate) use write::{replace, write};

fn wire(operation: &str, path: &Path, e: &io::Error) -> WireError {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::PermissionDenied
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => ErrorKind::WrongKind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Other,
    };
    WireError {
        kind,
        message: format!("{operation} {}: {}", path.display(), plain(e)),
    }
}

fn invalid(message: String) -> WireError {
    WireError {
        kind: ErrorKind::InvalidRequest,
        message,
    }
}

/// A word for what kind of file it is.
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
