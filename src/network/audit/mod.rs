//! The audit log: what the guest asked of the network, and what came of it, as JSON lines.
//!
//! Equal lines within a minute become one with a count, so a guest can't push out what it did before by doing it again.

mod fold;
mod record;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::Path;

use fold::Fold;

use crate::jsonl::{self, Place, Writer};

pub use record::{Decision, Event, Record};

/// A reader of the log.
pub type Follow = jsonl::Follow<Record>;

/// The log, to which lines are added. The last lines are written when it is dropped.
#[derive(Debug)]
pub struct Audit(Writer<Record>);

impl Audit {
    /// Opens the log in a directory, which exists. Fails if the newest file can't be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self(Writer::open(place(directory), Fold::default())?))
    }

    /// Adds a line, without waiting.
    pub fn add(&self, record: Record) {
        self.0.add(record);
    }
}

/// Reads the log in a directory from its oldest line on. The log need not exist yet.
pub fn follow(directory: &Path) -> io::Result<Follow> {
    Follow::new(place(directory))
}

fn place(directory: &Path) -> Place {
    Place::new(directory, "network")
}
