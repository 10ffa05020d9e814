//! Why a copy of the workspace can't be made or used.

use std::io;
use std::path::{Path, PathBuf};

/// Why a copy of the workspace can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Git can't say which files belong to the repository.
    #[error("ask git which files of {dir} belong to the copy: {said}")]
    Git {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The directory has more entries than a copy may have.
    #[error(
        "copy {dir}: it has more than {most} files; leave some out with a .gitignore or `hide`, or work in it with \
         workspace_mode = \"mount\""
    )]
    TooMany {
        /// The directory.
        dir: PathBuf,
        /// How many there may be.
        most: usize,
    },
    /// The files would not fit on the copy's disk.
    #[error(
        "copy {dir}: its files take {bytes} bytes, more than disk_gib allows; leave some out with a .gitignore or \
         `hide`, or work in it with workspace_mode = \"mount\""
    )]
    TooLarge {
        /// The directory.
        dir: PathBuf,
        /// What they take.
        bytes: u64,
    },
    /// Files kept changing while they were copied.
    #[error(
        "copy {dir}: its files change all the time ({said}); stop what changes them, or leave them out with a .gitignore"
    )]
    Restless {
        /// The directory.
        dir: PathBuf,
        /// What happened last.
        said: String,
    },
    /// The disk can't be written or read.
    #[error("{operation} {path}: {said}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        said: String,
    },
    /// A list of a tree can't be understood.
    #[error("understand {path}: it is no list of a tree ({said})")]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        said: String,
    },
    /// The guest sent less than it announced.
    #[error("fetch files of the sandbox: what it sent ended early")]
    Ended,
    /// Files for the guest can't be gathered.
    #[error("gather files for the sandbox")]
    Spool(#[source] io::Error),
    /// A file of the host can't be compared.
    #[error("compare a file of the host with the copy")]
    Compare(#[source] io::Error),
    /// An I/O error.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes a [`CopyError::Io`] of an I/O error.
pub(super) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io {
        operation,
        path,
        source,
    }
}
