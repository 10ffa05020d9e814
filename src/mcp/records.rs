//! Jobs, snapshots and directories as clients see them: the same in the results of tools and in resources.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::mcp::outcome;
use crate::mcp::refusal::Refusal;
use crate::sandbox::{DirEntry, JobInfo, Outcome, Snapshot, User, lines};
use crate::text;

/// How much of a job's command its description shows, in characters.
const MAX_SHOWN_COMMAND: usize = 80;

/// A background job.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct JobRecord {
    /// Its name
    pub(crate) id: String,
    /// The command, shortened
    pub(crate) command: String,
    /// The user that runs it: sandbox or root
    pub(crate) user: String,
    /// running, exited, signaled, timed_out, killed or out_of_memory
    pub(crate) state: String,
    /// Exit status, if it exited by itself
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
    /// The signal that ended it, such as SIGSEGV
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// How long it has been running, or ran, in milliseconds
    pub(crate) duration_ms: u64,
    /// Bytes of output so far
    pub(crate) output_bytes: u64,
    /// File in the VM with the output, of a very long one the first 64 MiB
    pub(crate) output_file: String,
    /// Whether `input` can be sent
    pub(crate) takes_input: bool,
}

impl From<&JobInfo> for JobRecord {
    fn from(info: &JobInfo) -> Self {
        let (exit_code, signal) = info
            .outcome
            .as_ref()
            .map(outcome::exit_code_and_signal)
            .unwrap_or_default();
        let state = match &info.outcome {
            None => "running",
            Some(Outcome::Exited { .. }) => "exited",
            Some(Outcome::Signaled { .. }) => "signaled",
            Some(Outcome::TimedOut) => "timed_out",
            Some(Outcome::Cancelled) => "killed",
            Some(Outcome::OutOfMemory) => "out_of_memory",
        };
        Self {
            id: info.id.clone(),
            command: info.command.clone(),
            user: match info.user {
                User::Root => "root".to_owned(),
                User::Sandbox => "sandbox".to_owned(),
            },
            state: state.to_owned(),
            exit_code,
            signal,
            duration_ms: info.duration_ms,
            output_bytes: info.output_bytes,
            output_file: info.output_file.clone(),
            takes_input: info.takes_input,
        }
    }
}

/// One line about a job: its name, its state, the first line of its command.
pub(crate) fn describe_job(info: &JobInfo) -> String {
    let line = info.command.lines().next().unwrap_or_default();
    let mut command: String = line.chars().take(MAX_SHOWN_COMMAND).collect();
    if command.len() < info.command.len() {
        command.push('…');
    }
    let took = text::duration(Duration::from_millis(info.duration_ms));
    let state = match &info.outcome {
        None => format!("running for {took}"),
        Some(outcome @ (Outcome::TimedOut | Outcome::Cancelled)) => {
            format!("{}; {took} in all", outcome::in_words(outcome, info.killed))
        }
        Some(outcome) => format!("{} after {took}", outcome::in_words(outcome, info.killed)),
    };
    format!("job `{}`: {state}: {command}", info.id)
}

/// The entries of a directory, of which the guest sends each as a line of JSON.
pub(crate) fn directory_entries(json_lines: &[u8]) -> Result<Vec<DirEntry>, Refusal> {
    lines::decode(json_lines)
        .map_err(|error| Refusal::new(format!("failed to read the directory's listing: {error}")))
}

/// A saved snapshot.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SnapshotRecord {
    /// Its name
    pub(crate) name: String,
    /// What it takes on the host's disk, in bytes
    pub(crate) bytes: u64,
    /// When it was saved (RFC 3339)
    pub(crate) created: String,
}

impl From<&Snapshot> for SnapshotRecord {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            name: snapshot.name.to_string(),
            bytes: snapshot.bytes,
            created: format!("{:.0}", snapshot.created),
        }
    }
}
