//! The tasks of one connection.

use std::future::Future;

use tokio_util::sync::{CancellationToken, DropGuard};

/// Starts tasks that end with the connection.
#[derive(Debug, Clone)]
pub(super) struct Tasks(CancellationToken);

impl Tasks {
    /// Tasks that end when the guard is dropped.
    pub(super) fn new() -> (Self, DropGuard) {
        let ending = CancellationToken::new();
        (Self(ending.clone()), ending.drop_guard())
    }

    /// Runs something until it ends, or the connection does.
    pub(super) fn spawn(&self, work: impl Future<Output: Send> + Send + 'static) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(work));
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        self.spawn(work);
    }
}
