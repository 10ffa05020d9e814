//! A VM that stands still because the host can't take what it writes, and how it is let go on.
//!
//! ```text
//! runs --(a write failed)--> stands still --(a second later)--> tries again --(quiet for a second)--> runs
//!                                 ^______________(a write failed)_____|
//! ```
//!
//! Trying is the only test there is: quotas and file systems of networks don't show the room they have. Pure.

use std::time::{Duration, Instant};

/// How long to wait before each step.
const STEP: Duration = Duration::from_secs(1);

/// Where a VM is that stands still, or tries to go on.
#[derive(Debug, Default)]
pub(crate) struct Stall(Option<Phase>);

#[derive(Debug)]
enum Phase {
    Still(Instant),
    Trying(Instant),
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// Have the engine try again.
    Try,
    /// Say that the VM goes on.
    GoesOn,
}

impl Stall {
    /// A write failed; gives whether that is news.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.0.replace(Phase::Still(now + STEP)).is_none()
    }

    /// What is due.
    pub(crate) fn due(&self, now: Instant) -> Step {
        match self.0 {
            Some(Phase::Still(at)) if now >= at => Step::Try,
            Some(Phase::Trying(at)) if now >= at => Step::GoesOn,
            Some(_) | None => Step::Wait,
        }
    }

    /// The engine tries again.
    pub(crate) fn tried(&mut self, now: Instant) {
        self.0 = Some(Phase::Trying(now + STEP));
    }

    /// Trying is of no use yet.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.0 = Some(Phase::Still(now + STEP));
    }

    /// The VM goes on.
    pub(crate) fn over(&mut self) {
        self.0 = None;
    }

    /// Whether the VM stands still, or may soon again.
    pub(crate) fn is(&self) -> bool {
        self.0.is_some()
    }

    /// How long until something is due.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let (Phase::Still(at) | Phase::Trying(at)) = self.0.as_ref()?;
        Some(at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_once_a_try_was_quiet() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let at = |steps: u32| start + STEP * steps;
        assert_eq!((stall.due(at(9)), stall.left(start)), (Step::Wait, None));
        assert!(stall.failed(start));
        assert_eq!(
            (stall.due(start), stall.due(at(1))),
            (Step::Wait, Step::Try)
        );
        stall.tried(at(1));
        assert!(!stall.failed(at(1)), "it had not gone on");
        assert_eq!(stall.due(at(2)), Step::Try);
        stall.tried(at(2));
        assert_eq!(stall.due(at(2)), Step::Wait);
        assert_eq!(
            (stall.due(at(3)), stall.left(at(2))),
            (Step::GoesOn, Some(STEP))
        );
        stall.over();
        assert!(!stall.is() && stall.failed(at(4)));
    }
}
