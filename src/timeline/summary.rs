//! What a timeline comes to: what was done, what left the sandbox, and what can be taken back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use snowglobe_init::wire::Outcome;
use snowglobe_init::wire::share::WORKSPACE;

use super::read::Line;
use super::{Event, WorkspaceChange};
use crate::network::audit::{self, Decision};

/// How many hosts are told apart; all others count as one.
const HOSTS: usize = 1000;

/// How many files are told apart.
const FILES: usize = 100_000;

/// What lines come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many commands began.
    pub(crate) commands: u64,
    /// How many of them did not end well.
    pub(crate) failed: u64,
    /// How many files were changed, as far as it is known: by tools anywhere, by commands in a shared workspace.
    pub(crate) files: usize,
    /// How many changes there were at files that are not counted.
    pub(crate) more_changes: u64,
    /// How many changes of protected files were refused.
    pub(crate) refused_changes: u64,
    /// How often a person was asked.
    pub(crate) questions: u64,
    /// The hosts that were reached, with the bytes that were sent there.
    pub(crate) sent: BTreeMap<String, u64>,
    /// How many connections, names and requests were refused.
    pub(crate) refused_network: u64,
    /// How many changes each apply brought to the host that was not undone, the oldest first.
    pub(crate) applied: Vec<usize>,
    #[serde(skip)]
    written: BTreeSet<String>,
}

impl Summary {
    /// Takes a line into account.
    pub(crate) fn add(&mut self, line: &Line) {
        match line {
            Line::Network(record) => self.add_network(record),
            Line::Sandbox(record) => self.add_event(&record.event),
        }
    }

    pub(super) fn add_event(&mut self, event: &Event) {
        match event {
            Event::Command { .. } => self.commands += 1,
            Event::CommandEnded { outcome, .. } => {
                self.failed += u64::from(*outcome != Outcome::Exited { code: 0 });
            }
            Event::CommandLost { .. } => self.failed += 1,
            Event::JobEnded { outcome, .. } => {
                self.failed += u64::from(*outcome != Outcome::Exited { code: 0 });
            }
            Event::Wrote { path, .. } | Event::Edited { path, .. } => self.write(path),
            Event::Changed { paths, more } => {
                for step in &paths.paths {
                    self.write(&format!("{WORKSPACE}/{}", step.path));
                }
                self.more_changes = self.more_changes.saturating_add(*more);
            }
            Event::Refused { count, .. } => self.refused_changes += count,
            Event::Asked { .. } => self.questions += 1,
            Event::Workspace { change, paths, .. } => match change {
                WorkspaceChange::Applied if paths.count > 0 => self.applied.push(paths.count),
                WorkspaceChange::Undone if paths.count > 0 => drop(self.applied.pop()),
                _ => {}
            },
            _ => {}
        }
    }

    fn write(&mut self, path: &str) {
        if self.written.len() < FILES {
            self.written.insert(path.to_owned());
        }
        self.files = self.written.len();
    }

    fn add_network(&mut self, record: &audit::Record) {
        match (record.event, record.decision) {
            (audit::Event::Lost, _) => {}
            (_, Decision::Refused) => self.refused_network += record.count,
            (audit::Event::Close, _) => {
                let port = record.port.map(|port| format!(":{port}"));
                let host = format!("{}{}", record.host, port.unwrap_or_default());
                let host = match self.sent.len() < HOSTS || self.sent.contains_key(&host) {
                    true => host,
                    false => "(others)".to_owned(),
                };
                *self.sent.entry(host).or_default() += record.up;
            }
            _ => {}
        }
    }
}
