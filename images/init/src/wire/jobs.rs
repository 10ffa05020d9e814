//! Jobs: commands that run in the background.

use serde::{Deserialize, Serialize};

use super::{Outcome, User};

/// An action on a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// The job's id.
    pub id: String,
    /// The action.
    pub action: JobAction,
}

/// What a request does with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAction {
    /// Send its output: both streams, in the order in which they were written.
    Output {
        /// The first byte; absent: `limit` bytes before the end.
        offset: Option<u64>,
        /// The most bytes to send.
        limit: u64,
    },
    /// Wait until it ends.
    Wait {
        /// The longest wait, in milliseconds.
        timeout_ms: u64,
    },
    /// End it and wait until it has ended.
    Kill,
    /// Send the request's input to its standard input, which must be [`super::Stdin::Open`].
    Input {
        /// Whether to close its standard input after that.
        end: bool,
    },
}

/// A job after an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// The job as it is now.
    pub job: JobInfo,
    /// The offset of the output that was sent.
    pub offset: u64,
    /// The offset of the output after it.
    pub next_offset: u64,
}

/// A job, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its id. No other job has the same one, not even in an earlier boot.
    pub id: String,
    /// The command, shortened.
    pub command: String,
    /// The user that it runs as.
    pub user: User,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Its run time so far, in milliseconds.
    pub duration_ms: u64,
    /// How many bytes both streams together have written.
    pub output_bytes: u64,
    /// How many of those bytes were kept.
    pub kept_bytes: u64,
    /// The guest file with its output.
    pub output_file: String,
    /// Whether it accepts more input.
    pub takes_input: bool,
    /// How it ended; absent while it runs.
    pub outcome: Option<Outcome>,
    /// Whether processes that it started still ran when it ended; they are left running.
    pub left_running: bool,
    /// Whether some of its processes did not end within [`super::STOP_GRACE`] and were killed.
    #[serde(default)]
    pub killed: bool,
}
