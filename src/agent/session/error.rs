//! What goes wrong with a session's file.

use std::io;
use std::path::{Path, PathBuf};

use super::entry::EntryId;

/// A session can't be read or written. Its text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The file system refused.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A later release wrote it.
    #[error(
        "read the session {}: it has format {format}, written by snowglobe {program}; this is snowglobe {}, which reads formats up to {}. \
         Update snowglobe to continue it",
        path.display(), env!("CARGO_PKG_VERSION"), super::entry::FORMAT
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
        /// The release.
        program: String,
    },
    /// Another process has it.
    #[error("open the session {}: another process has it open; end that one, or begin another session", .0.display())]
    Busy(PathBuf),
    /// Nothing in it can be read.
    #[error("read the session {}: nothing in it can be read", .0.display())]
    Damaged(PathBuf),
    /// It was removed.
    #[error("write the session {}: it was removed meanwhile", .0.display())]
    Removed(PathBuf),
    /// There is no such entry.
    #[error("go back to entry {} of the session: there is no such entry", .0.0)]
    NoEntry(EntryId),
}

/// An error of the file system, with what was tried.
pub(super) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SessionError {
    let path = path.to_owned();
    move |source| SessionError::File {
        operation,
        path,
        source,
    }
}
