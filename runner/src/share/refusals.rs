//! The changes that the rules refused, for the runner's parent.
//!
//! They are kept here until they are asked for, so a guest that is refused all the time costs nothing else. Each is kept
//! before the guest is told: whatever a program reports after it, the refusal is in the next answer.

use std::collections::BTreeMap;
use std::sync::Mutex;

use snowglobe_runner::protection::{Refusal, TOLD};
use snowglobe_runner::rules::Finding;

use super::known::lock;

/// The changes that were refused and not told yet.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    refused: BTreeMap<(Finding, bool), u64>,
    lost: u64,
}

impl Refusals {
    /// Keeps one; `asks`: a person may allow it.
    pub(super) fn add(&self, finding: Finding, asks: bool) {
        let mut kept = lock(&self.0);
        let known = kept.refused.len();
        let key = (finding, asks);
        match kept.refused.get_mut(&key) {
            Some(count) => *count += 1,
            None if known < TOLD => {
                kept.refused.insert(key, 1);
            }
            None => kept.lost += 1,
        }
    }

    /// All that were kept since the last time, and how many others there were.
    pub(super) fn take(&self) -> (Vec<Refusal>, u64) {
        let Kept { refused, lost } = std::mem::take(&mut *lock(&self.0));
        let told = |((finding, asks), count): ((Finding, bool), u64)| Refusal {
            rule: finding.rule.to_owned(),
            what: finding.what,
            asks,
            count,
        };
        (refused.into_iter().map(told).collect(), lost)
    }
}
