//! Logs of JSON lines that are only appended to.
//!
//! The newest lines of a log `NAME` are in `NAME.jsonl`; at its limit that file becomes `NAME.1.jsonl`, and of the older
//! files three are kept. Several processes may write one log: a line is written under a lock of the newest file. A reader
//! can [follow](Follow) the log while it is written. A thread of its own writes the lines of a process; lines that it
//! can't keep up with are counted, and the count is a line, too.

mod files;
mod follow;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

#[cfg(test)]
use files::{Files, KEPT, MOST};
pub use follow::Follow;
pub use writer::{Gather, Writer};

/// Where a log is: its directory, and its name there.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
    name: &'static str,
}

impl Place {
    /// The log of this name in a directory.
    pub fn new(directory: &Path, name: &'static str) -> Self {
        Self {
            directory: directory.to_owned(),
            name,
        }
    }

    /// The file that has so many newer ones.
    fn file(&self, newer: usize) -> PathBuf {
        self.directory.join(match newer {
            0 => format!("{}.jsonl", self.name),
            newer => format!("{}.{newer}.jsonl", self.name),
        })
    }
}
