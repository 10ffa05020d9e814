//! How events are gathered: each is a line.

use super::{Event, Record};
use crate::jsonl::Gather;

/// Writes each event as it is.
pub(super) struct Each;

impl Gather<Record> for Each {
    fn lost(&self, count: u64) -> Record {
        Record {
            time: jiff::Timestamp::now(),
            by: None,
            session: None,
            event: Event::Lost { count },
        }
    }
}
