//! A VM that is stalled because the host can't take what it writes, and how it continues.
//!
//! ```text
//! runs --(a write failed)--> stalled --(a second later)--> trying --(no failed write for a second)--> runs
//!                               ^___________(a write failed)__|
//! ```
//!
//! Only a new attempt shows whether there is room: quotas and network file systems don't report it. Pure.

use std::time::{Duration, Instant};

/// The time before each step.
const STEP: Duration = Duration::from_secs(1);

/// Whether the VM is stalled, or tries to continue.
#[derive(Debug, Default)]
pub(crate) struct Stall(Option<Phase>);

#[derive(Debug)]
enum Phase {
    Stalled(Instant),
    Trying(Instant),
}

/// The step that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// Let the engine try to continue.
    Try,
    /// Report that the VM runs again.
    Continue,
}

impl Stall {
    /// A write failed; gives whether the VM ran before.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.0.replace(Phase::Stalled(now + STEP)).is_none()
    }

    /// The step that is due.
    pub(crate) fn due(&self, now: Instant) -> Step {
        match self.0 {
            Some(Phase::Stalled(at)) if now >= at => Step::Try,
            Some(Phase::Trying(at)) if now >= at => Step::Continue,
            Some(_) | None => Step::Wait,
        }
    }

    /// The engine tries again.
    pub(crate) fn tried(&mut self, now: Instant) {
        self.0 = Some(Phase::Trying(now + STEP));
    }

    /// The host has no room yet.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.0 = Some(Phase::Stalled(now + STEP));
    }

    /// The VM runs again.
    pub(crate) fn over(&mut self) {
        self.0 = None;
    }

    /// Whether the VM is stalled, or tries to continue.
    pub(crate) fn is_stalled(&self) -> bool {
        self.0.is_some()
    }

    /// The time until the next step.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let (Phase::Stalled(at) | Phase::Trying(at)) = self.0.as_ref()?;
        Some(at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_continues_after_an_attempt_without_a_failed_write() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let at = |steps: u32| start + STEP * steps;
        assert_eq!((stall.due(at(9)), stall.left(start)), (Step::Wait, None));
        assert!(stall.failed(start));
        assert_eq!(
            (stall.due(start), stall.due(at(1))),
            (Step::Wait, Step::Try)
        );
        stall.tried(at(1));
        assert!(!stall.failed(at(1)), "it had not run in between");
        assert_eq!(stall.due(at(2)), Step::Try);
        stall.tried(at(2));
        assert_eq!(stall.due(at(2)), Step::Wait);
        assert_eq!(
            (stall.due(at(3)), stall.left(at(2))),
            (Step::Continue, Some(STEP))
        );
        stall.over();
        assert!(!stall.is_stalled() && stall.failed(at(4)));
    }
}
