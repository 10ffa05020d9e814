//! The jobs of a sandbox, for lists that must not wait long.

use std::sync::Arc;
use std::time::Duration;

use crate::progress::Progress;
use crate::sandbox::{JobInfo, Sandbox};

/// How long a list waits for a guest that is busy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The jobs; none if no guest runs or it does not answer in time.
pub(super) async fn jobs(sandbox: &Arc<Sandbox>) -> Vec<JobInfo> {
    let progress = Progress::none();
    let jobs = tokio::time::timeout(TIMEOUT, sandbox.jobs(&progress)).await;
    jobs.map(Result::unwrap_or_default).unwrap_or_default()
}
