//! Reading a timeline with what the guest asked of the network, in the order of their times.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::{Record, place};
use crate::jsonl::Follow;
use crate::network::audit;

/// A line of either log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// Of the timeline.
    Sandbox(Record),
    /// Of the network's log.
    Network(audit::Record),
}

impl Line {
    /// When it happened.
    pub(crate) fn time(&self) -> Timestamp {
        match self {
            Self::Sandbox(record) => record.time,
            Self::Network(record) => record.time,
        }
    }
}

/// A reader of both logs: of all that is kept, and then of what is added.
#[derive(Debug)]
pub(crate) struct Reader {
    timeline: Follow<Record>,
    network: audit::Follow,
}

impl Reader {
    /// Reads the logs in these directories. They need not exist yet.
    pub(crate) fn new(timeline: &Path, network: &Path) -> io::Result<Self> {
        Ok(Self {
            timeline: Follow::new(place(timeline))?,
            network: audit::follow(network)?,
        })
    }

    /// All lines that are written and were not read yet.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut lines: Vec<Line> = Vec::new();
        lines.extend(self.timeline.read_all()?.into_iter().map(Line::Sandbox));
        lines.extend(self.network.read_all()?.into_iter().map(Line::Network));
        // Stable: lines of one log with the same time keep their order.
        lines.sort_by_key(Line::time);
        Ok(lines)
    }
}
