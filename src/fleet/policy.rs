//! When a sandbox is stopped and a slot removed. Pure.

use std::time::{Duration, Instant};

/// What matters of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotState {
    pub(super) has_sandbox: bool,
    /// How many calls use the sandbox now.
    pub(super) uses: usize,
    /// When the last use ended, or the sandbox was stopped.
    pub(super) since: Instant,
    /// Whether the sandbox is about to be stopped.
    pub(super) checking: bool,
}

/// Whether a sandbox has been unused for so long that it may be stopped.
pub(super) fn is_idle(slot: SlotState, now: Instant, idle: Duration) -> bool {
    slot.has_sandbox && slot.uses == 0 && !slot.checking && now.duration_since(slot.since) >= idle
}

/// The slots to remove: those that have been empty for `kept`, and the oldest of more than `most` empty ones.
pub(super) fn expired<'a>(
    slots: impl Iterator<Item = (&'a str, SlotState)>,
    now: Instant,
    kept: Duration,
    most: usize,
) -> Vec<String> {
    let mut empty: Vec<(Instant, &str)> = slots
        .filter(|(_, slot)| !slot.has_sandbox && slot.uses == 0)
        .map(|(handle, slot)| (slot.since, handle))
        .collect();
    empty.sort_unstable();
    let surplus = empty.len().saturating_sub(most);
    empty
        .into_iter()
        .enumerate()
        .filter(|(at, (since, _))| *at < surplus || now.duration_since(*since) >= kept)
        .map(|(_, (_, handle))| handle.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: Duration = Duration::from_secs(100);

    prop_compose! {
        fn slot()(has_sandbox: bool, uses in 0..3_usize, age in 0..200_u64, checking: bool) -> (u64, SlotState) {
            let since = Instant::now().checked_sub(Duration::from_secs(age)).unwrap();
            (age, SlotState { has_sandbox, uses, since, checking })
        }
    }

    proptest! {
        #[test]
        fn only_unused_sandboxes_are_idle((age, slot) in slot(), idle in 1..200_u64) {
            // Time goes on between the making of the slot and now, but not for a second.
            prop_assume!(age != idle);
            let found = is_idle(slot, Instant::now(), Duration::from_secs(idle));
            let expected = slot.has_sandbox && slot.uses == 0 && !slot.checking && age > idle;
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn slots_with_a_sandbox_or_a_call_stay_and_the_oldest_empty_ones_go(
            slots in prop::collection::vec(slot(), 0..20),
            most in 0..10_usize,
        ) {
            let names: Vec<String> = (0..slots.len()).map(|n| n.to_string()).collect();
            let states = names.iter().map(String::as_str).zip(slots.iter().map(|(_, slot)| *slot));
            let removed = expired(states, Instant::now(), KEPT, most);
            let empty = |slot: &SlotState| !slot.has_sandbox && slot.uses == 0;
            let mut left = 0;
            let mut youngest_removed = None;
            for (name, (_, slot)) in names.iter().zip(&slots) {
                if removed.contains(name) {
                    prop_assert!(empty(slot));
                    youngest_removed = youngest_removed.max(Some(slot.since));
                } else if empty(slot) {
                    left += 1;
                    prop_assert!(slot.since.elapsed() < KEPT + Duration::from_secs(1));
                }
            }
            prop_assert!(left <= most);
            for (name, (_, slot)) in names.iter().zip(&slots) {
                if empty(slot) && !removed.contains(name) {
                    prop_assert!(Some(slot.since) >= youngest_removed);
                }
            }
        }
    }
}
