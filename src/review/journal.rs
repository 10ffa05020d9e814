//! The journal of a step that changes the host's directory: what is there before and after, and how far the step is.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snowglobe_init::wire::tree::unescape;

use super::entry::Entry;
use crate::copy::{Contents, CopyError};
use crate::files;

/// The version of the journals written here.
pub const VERSION: u32 = 1;

/// Why changes could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host changed a file while the changes were being applied. Nothing was changed.
    #[error(
        "apply the changes: {0} was changed on the host meanwhile, so nothing was; look at the changes again"
    )]
    Meanwhile(String),
    /// A change could not be made; what was done before it was taken back.
    #[error("apply the changes: change {path}; nothing was changed")]
    Change {
        /// The path.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// An interrupted step could not be taken back. It is tried again before any other step.
    #[error(
        "take back an interrupted apply: restore {path}; until that works nothing else is applied"
    )]
    TakeBack {
        /// The path.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to undo.
    #[error("undo: nothing was applied, or all of it was undone")]
    Nothing,
    /// A path changed since.
    #[error(
        "undo: {0} was changed on the host since, so nothing was undone; with --skip-conflicts the rest is"
    )]
    Since(String),
    /// A content can't be kept.
    #[error(transparent)]
    Content(#[from] CopyError),
    /// The journal.
    #[error("{operation} {path}")]
    Journal {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Says on what file of the journal something failed.
pub fn journal_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ApplyError {
    let path = path.to_owned();
    move |source| ApplyError::Journal {
        operation,
        path,
        source,
    }
}

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The path, escaped.
    pub path: String,
    /// What is there now; `None`: nothing.
    pub old: Option<Entry>,
    /// What is there afterwards; `None`: nothing.
    pub new: Option<Entry>,
}

impl Operation {
    /// The bytes of its path.
    pub fn bytes(&self) -> Vec<u8> {
        unescape(&self.path)
    }

    /// Whether the path has a file or a link before and after: one takes the other's place, and something always has it.
    pub fn replaces_file(&self) -> bool {
        let is_file =
            |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| !entry.is_directory());
        is_file(&self.old) && is_file(&self.new)
    }

    /// Whether a file or a link takes the place of a directory.
    pub fn replaces_directory(&self) -> bool {
        let was_directory = self.old.as_ref().is_some_and(Entry::is_directory);
        was_directory && self.new.as_ref().is_some_and(|new| !new.is_directory())
    }

    /// Says that a change of the path failed.
    pub fn failed(&self) -> impl FnOnce(io::Error) -> ApplyError {
        let path = self.path.clone();
        move |source| ApplyError::Change { path, source }
    }

    /// Says that the path could not be restored.
    pub fn stuck(&self) -> impl FnOnce(io::Error) -> ApplyError {
        let path = self.path.clone();
        move |source| ApplyError::TakeBack { path, source }
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It may have begun.
    Begun,
    /// It is done, and can be undone.
    Done,
    /// It was undone.
    Undone,
}

/// What is kept of a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Of which release it is.
    pub version: u32,
    /// How far the step is.
    pub progress: Progress,
    /// The number of the step that this one undoes.
    pub undoes: Option<u64>,
    /// What the step changes.
    pub operations: Vec<Operation>,
    /// The temporary name of each operation's new file.
    pub temporary: Vec<String>,
}

/// A step.
#[derive(Debug)]
pub struct Step {
    /// Its number.
    pub number: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// Its journal.
    pub journal: Journal,
}

impl Step {
    /// How many bytes its contents have, at most: equal ones are kept once.
    pub fn bytes(&self) -> u64 {
        let operations = self.journal.operations.iter();
        let sides = operations.flat_map(|one| [&one.old, &one.new]).flatten();
        sides.filter_map(Entry::size).fold(0, u64::saturating_add)
    }

    /// The contents of both sides.
    pub fn contents(&self) -> Contents {
        Contents::at(self.dir.join("contents"))
    }

    /// Writes the journal, onto the disk.
    pub fn write(&self) -> Result<(), ApplyError> {
        let path = self.dir.join("journal.json");
        let text = serde_json::to_vec(&self.journal).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(journal_error("write", &path))
    }
}

impl Step {
    /// Its operations, each with its temporary name.
    pub fn operations(&self) -> impl Iterator<Item = (&Operation, &String)> {
        self.journal.operations.iter().zip(&self.journal.temporary)
    }
}
