//! Times of a command.

use std::time::{Duration, Instant};

/// Waits until `time` after `started`; for ever if there is no such time.
pub(super) async fn after(started: Instant, time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep_until((started + time).into()).await,
        None => std::future::pending().await,
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
