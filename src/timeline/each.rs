//! How events are gathered: each is a line.

use std::time::Instant;

use super::{Event, Record};
use crate::jsonl::Gather;

/// Writes each event as it is.
pub(super) struct Each;

impl Gather<Record> for Each {
    fn take(&mut self, record: Record, _: Instant) -> Option<Record> {
        Some(record)
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn take_due(&mut self, _: Instant, _: bool) -> Vec<Record> {
        Vec::new()
    }

    fn lost(&self, count: u64) -> Record {
        Record {
            time: jiff::Timestamp::now(),
            by: None,
            session: None,
            event: Event::Lost { count },
        }
    }
}
