//! The id and the log of a command that may become a job.

use std::path::PathBuf;
use std::sync::Arc;

use crate::command::pump::Log;

/// The id and the log of a command that is or may become a job. Dropping it removes the log.
#[derive(Debug)]
pub(in crate::command) struct Reserved {
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(in crate::command) log: Arc<Log>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}
