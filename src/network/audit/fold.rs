//! Which lines become one: equal ones within a minute, beyond the first few. Pure but for the clock, which is given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Decision, Event, Record};
use crate::jsonl::Gather;

/// For how long equal lines become one.
const WINDOW: Duration = Duration::from_secs(60);

/// How many equal lines are written before others become one.
const ALLOWED: u64 = 20;
const REFUSED: u64 = 1;

/// How many different lines are told apart at a time. All others become one.
const KINDS: usize = 512;

/// What makes lines equal.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    event: Event,
    decision: Decision,
    host: String,
    port: Option<u16>,
    program: Option<String>,
    request: Option<String>,
}

#[derive(Debug)]
struct Folded {
    since: Instant,
    written: u64,
    /// The sum of those that were not written.
    sum: Option<Record>,
}

/// Lines that wait to become one.
#[derive(Debug, Default)]
pub(super) struct Fold {
    kinds: HashMap<Kind, Folded>,
    /// Lines beyond [`KINDS`].
    others: Option<(Instant, Record)>,
}

impl Gather<Record> for Fold {
    fn take(&mut self, record: Record, now: Instant) -> Option<Record> {
        let kind = Kind::of(&record);
        let full = self.kinds.len() >= KINDS;
        let Some(folded) = self.kinds.get_mut(&kind) else {
            if full {
                return self.take_other(record, now);
            }
            self.kinds.insert(
                kind,
                Folded {
                    since: now,
                    written: 1,
                    sum: None,
                },
            );
            return Some(record);
        };
        let most = match record.decision {
            Decision::Allowed => ALLOWED,
            Decision::Refused | Decision::Failed => REFUSED,
        };
        if folded.written < most {
            folded.written += 1;
            return Some(record);
        }
        add(&mut folded.sum, record);
        None
    }

    fn due(&self) -> Option<Instant> {
        let kinds = self.kinds.values().map(|folded| folded.since);
        kinds
            .chain(self.others.iter().map(|(since, _)| *since))
            .min()
            .map(|since| since + WINDOW)
    }

    fn take_due(&mut self, now: Instant, all: bool) -> Vec<Record> {
        let is_due = |since: Instant| all || now.saturating_duration_since(since) >= WINDOW;
        let mut due: Vec<Record> = self
            .kinds
            .extract_if(|_, folded| is_due(folded.since))
            .filter_map(|(_, folded)| folded.sum)
            .collect();
        due.extend(
            self.others
                .take_if(|(since, _)| is_due(*since))
                .map(|(_, sum)| sum),
        );
        due.sort_by_key(|record| record.time);
        due
    }

    fn lost(&self, count: u64) -> Record {
        Record::lost(count)
    }
}

impl Fold {
    fn take_other(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        record.host = "(many others)".into();
        record.port = None;
        record.address = None;
        record.request = None;
        let (since, sum) = match self.others.take() {
            Some((since, sum)) => (since, Some(sum)),
            None => (now, None),
        };
        let mut sum = sum;
        add(&mut sum, record);
        self.others = sum.map(|sum| (since, sum));
        None
    }
}

impl Kind {
    fn of(record: &Record) -> Self {
        Self {
            event: record.event,
            decision: record.decision,
            host: record.host.clone(),
            port: record.port,
            program: record.program.as_ref().map(|program| program.name.clone()),
            request: record.request.clone(),
        }
    }
}

fn add(sum: &mut Option<Record>, record: Record) {
    let sum = match sum {
        None => return *sum = Some(record),
        Some(sum) => sum,
    };
    let (up, down) = (
        sum.up.saturating_add(record.up),
        sum.down.saturating_add(record.down),
    );
    let (seconds, count) = (sum.seconds + record.seconds, sum.count + record.count);
    *sum = Record {
        up,
        down,
        seconds,
        count,
        ..record
    };
}
