//! Blocking work (disk access, hashing, decompression) of asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs blocking work on a thread of its own, and waits for it. If the work panics, so does this.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down, so this future is not polled again.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs blocking work on this thread: for destructors, which can't wait. The other tasks of a runtime's thread go on
/// elsewhere meanwhile.
pub(crate) fn blocking_here<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn work_runs_from_any_thread_and_panics_through() {
        assert_eq!(blocking(|| blocking_here(|| 1)).await, 1);
        assert_eq!(blocking_here(|| 2), 2);
        assert_eq!(
            std::thread::spawn(|| blocking_here(|| 3)).join().unwrap(),
            3
        );
        let panics = tokio::spawn(blocking(|| panic!("the work's own")));
        assert!(panics.await.unwrap_err().is_panic());
    }
}
