//! An operation on a file that failed, with the path of the file.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// The kind of the system's error.
    pub(crate) fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Adds operation and path to an error of the system: for `map_err`.
pub(crate) fn file_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        operation,
        path,
        source,
    }
}
