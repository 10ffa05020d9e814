//! Who uses a kept sandbox now, and since when nobody does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The uses of a sandbox.
#[derive(Debug)]
pub(super) struct Uses(Mutex<State>);

#[derive(Debug)]
struct State {
    now: usize,
    ever: bool,
    since: Instant,
    checking: bool,
}

impl Default for Uses {
    fn default() -> Self {
        Self(Mutex::new(State {
            now: 0,
            ever: false,
            since: Instant::now(),
            checking: false,
        }))
    }
}

/// A use, until it is dropped.
#[derive(Debug)]
pub(super) struct Use(Arc<Uses>);

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.now -= 1;
        state.since = Instant::now();
    }
}

/// A look at the guest's jobs, until it is dropped.
#[derive(Debug)]
pub(super) struct Check(Arc<Uses>);

impl Drop for Check {
    fn drop(&mut self) {
        self.0.state().checking = false;
    }
}

impl Uses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A use begins.
    pub(super) fn begin(self: &Arc<Self>) -> Use {
        let mut state = self.state();
        state.now += 1;
        state.ever = true;
        Use(self.clone())
    }

    /// It was used until now.
    pub(super) fn used(&self) {
        self.state().since = Instant::now();
    }

    /// A look at the guest's jobs begins, unless one is under way.
    pub(super) fn check(self: &Arc<Self>) -> Option<Check> {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.checking, true);
        first.then(|| Check(self.clone()))
    }

    /// How many uses there are.
    pub(super) fn count(&self) -> usize {
        self.state().now
    }

    /// Whether there was any use.
    pub(super) fn ever(&self) -> bool {
        self.state().ever
    }

    /// For how long there has been no use; none while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.now == 0).then(|| state.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_idle_while_there_is_no_use() {
        let uses = Arc::new(Uses::default());
        assert!(!uses.ever() && uses.idle().is_some());
        let (first, second) = (uses.begin(), uses.begin());
        assert_eq!((uses.count(), uses.ever(), uses.idle()), (2, true, None));
        drop(first);
        assert_eq!((uses.count(), uses.idle()), (1, None));
        drop(second);
        assert!(
            uses.idle()
                .is_some_and(|idle| idle < Duration::from_secs(60))
        );
    }

    #[test]
    fn one_look_at_a_time() {
        let uses = Arc::new(Uses::default());
        let look = uses.check();
        assert!(look.is_some() && uses.check().is_none());
        drop(look);
        assert!(uses.check().is_some());
    }
}
