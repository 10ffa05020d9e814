//! The timeline of a sandbox: what was done in it and with it, by whom, as JSON lines.
//!
//! A command has a line when it begins and one when it ends, so a sandbox that ends in the middle has a record of it. What
//! the guest asked of the network is in a log of its own, since the guest decides how much of that there is and must not
//! push out the rest; a [reader](Reader) gives both in the order of their times.
//!
//! The process that keeps the sandbox writes the timeline, and so does each process that runs a command in it on the
//! user's terminal. Lines are added without waiting: a call never waits for the log.

mod actor;
mod command;
mod each;
mod event;
mod read;
mod summary;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::jsonl::{Place, Writer};
use each::Each;

pub(crate) use actor::{acting, current};
pub(crate) use event::{Answer, Event, Paths, Record, SnapshotChange, WorkspaceChange, bounded};
pub(crate) use read::{Line, Reader};
pub(crate) use summary::Summary;

/// A timeline that can't be written.
#[derive(Debug, thiserror::Error)]
#[error("open the timeline in {directory}")]
pub struct TimelineError {
    directory: PathBuf,
    source: io::Error,
}

/// A timeline, to which events are added.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    log: Arc<Writer<Record>>,
    session: Option<String>,
    by: Option<&'static str>,
}

/// The actor of what a person does on the command line.
pub(crate) const COMMAND_LINE: &str = "command line";

impl Timeline {
    /// Opens the timeline in a directory, which exists; `session` is the client's session whose events are added.
    pub(crate) fn open(directory: &Path, session: Option<String>) -> Result<Self, TimelineError> {
        let log = Writer::open(place(directory), Each).map_err(|source| TimelineError {
            directory: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            log: Arc::new(log),
            session,
            by: None,
        })
    }

    /// The same timeline, for a process that does all for one actor.
    pub(crate) fn of(self, by: &'static str) -> Self {
        let by = Some(by);
        Self { by, ..self }
    }

    /// Adds what a person was asked and said; `choice` says how far a permission goes.
    pub(crate) fn asked(&self, question: &str, answer: Answer, choice: Option<&str>) {
        self.add(Event::Asked {
            question: bounded(question),
            answer,
            choice: choice.map(str::to_owned),
        });
    }

    /// Adds what happens now, without waiting.
    pub(crate) fn add(&self, event: Event) {
        self.log.add(Record {
            time: jiff::Timestamp::now(),
            by: current().or_else(|| self.by.map(str::to_owned)),
            session: self.session.clone(),
            event,
        });
    }
}

fn place(directory: &Path) -> Place {
    Place::new(directory, "timeline")
}
