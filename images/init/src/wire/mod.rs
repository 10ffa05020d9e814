//! The requests that the host sends over the guest link, and the guest's reports.
//!
//! The link is a byte stream that first synchronizes and then carries SSH.
//!
//! **Synchronizing.** The stream may hold leftovers of a broken connection. The host sends the line
//! [`SYNC_PREFIX`]`NONCE\n` and waits for the same line; it drops everything else. A host that gets no answer sends
//! another nonce. Init answers every such line until a line starts with `SSH-`: there the SSH session begins.
//!
//! **Version.** Init's SSH identification line states the [`VERSION`] of this module. The host refuses any other.
//!
//! **Requests.** The host opens a session channel with the subsystem [`SUBSYSTEM`] for each request. It sends a length
//! (4 bytes, big endian), that many bytes of JSON (a [`Request`]), and the request's input, up to EOF. The guest sends
//! output as data and as extended data of type [`EXT_STDERR`]. At the end it sends exactly one [`Report`], as JSON in
//! extended data of type [`EXT_REPORT`] (possibly in several pieces), and closes the channel. A channel that closes
//! without a report was cut off. Closing the channel early cancels the request.
//!
//! **Ending commands.** To end a command (timeout, cancellation, a killed job), init sends SIGTERM to everything in the
//! command's cgroup; on a terminal it sends SIGHUP. Init kills the cgroup when [`STOP_GRACE`] is over.

mod error;
mod exec;
mod files;
mod jobs;
pub mod lines;
pub mod network;
mod refused;
mod search;
pub mod share;
mod status;
pub mod tree;
mod version;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::{ErrorKind, WireError};
pub use exec::{Detach, ExecReport, ExecRequest, Outcome, Program, PtySize, Stdin, Word};
pub use files::{
    DirEntry, EditReport, EditRequest, ReadContent, ReadReport, ReadRequest, ReadWant, WriteRequest,
};
pub use jobs::{JobAction, JobInfo, JobReport, JobRequest};
pub use refused::Refused;
pub use search::{FoundLine, SearchReport, SearchRequest};
pub use status::Status;
pub use version::{VERSION, Version};

/// The start of a synchronizing line.
pub const SYNC_PREFIX: &str = "SNOWGLOBE-SYNC ";

/// The SSH subsystem that takes a [`Request`].
pub const SUBSYSTEM: &str = "snowglobe";

/// The type of extended data that carries a command's standard error (as in RFC 4254).
pub const EXT_STDERR: u32 = 1;

/// The type of extended data that carries the [`Report`].
pub const EXT_REPORT: u32 = 100;

/// The path of a streamlocal channel that carries a further SSH session. The user's own `ssh` attaches through it, over
/// the host's one connection.
pub const ATTACH_SOCKET: &str = "/run/snowglobe/attach.sock";

/// The directory of complete long outputs: on the disk, not in memory, and emptied by a reboot.
pub const OUTPUT_DIRECTORY: &str = "/var/tmp/snowglobe";

/// Whether `byte`, which follows `before`, ends a control character: a character that a terminal interprets instead of
/// showing it. Line breaks and tabs count as text. C1 controls have two bytes in UTF-8.
pub fn is_control(before: u8, byte: u8) -> bool {
    match byte {
        b'\n' | b'\t' => false,
        0x80..=0x9f => before == 0xc2,
        _ => byte < 0x20 || byte == 0x7f,
    }
}

/// The time between SIGTERM and SIGKILL for a command that has to end.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// The longest JSON of a request, in bytes.
pub const MAX_REQUEST: usize = 64 << 20;

/// The longest listing of a directory, in bytes.
pub const MAX_LISTING: u64 = 4 << 20;

/// The longest freeze. It ends by itself, so that a host that disappears does not leave the guest frozen.
pub const MAX_FREEZE: Duration = Duration::from_secs(30);

/// The longest search.
pub const MAX_SEARCH_TIME: Duration = Duration::from_secs(40);

/// The user whose permissions a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// The ordinary user, uid 1000.
    #[default]
    Sandbox,
    /// The guest's root.
    Root,
}

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Run a command; input: its standard input; answer: [`Report::Exec`], or [`Report::Job`] if it becomes a job.
    Exec(ExecRequest),
    /// Read, await, kill a job or send it input; answer: [`Report::Job`].
    Job(JobRequest),
    /// List all jobs; answer: [`Report::Jobs`].
    Jobs,
    /// Read a file or a directory; output: the bytes; answer: [`Report::Read`].
    Read(ReadRequest),
    /// Write a file, atomically where possible, or append to it; input: its bytes; answer: [`Report::Write`].
    Write(WriteRequest),
    /// Replace text in a file atomically; answer: [`Report::Edit`].
    Edit(EditRequest),
    /// Search files; output: one JSON [`FoundLine`] per line; answer: [`Report::Search`].
    Search(SearchRequest),
    /// List the workspace; output: [`tree::TreeEntry`] records, at most [`tree::MAX_TREE`] bytes; answer:
    /// [`Report::Done`]. What is called `.git` is left out.
    Tree {
        /// Leave out what git ignores.
        ignore: bool,
        /// More patterns of what git ignores, as in a `.gitignore` file.
        excludes: String,
        /// Instead list only these paths ([`tree::escape`]), whether they exist or not; at most [`tree::MAX_PATHS`].
        only: Option<Vec<String>>,
    },
    /// Send contents of regular files of the workspace, as [`tree`] says; answer: [`Report::Done`].
    Fetch {
        /// The paths ([`tree::escape`]), at most [`tree::MAX_PATHS`].
        paths: Vec<String>,
        /// The most bytes of all contents. A file that would exceed it can't be read.
        max_bytes: u64,
    },
    /// Change the workspace; input: the contents of files, one after the other; answer: [`Report::Placed`].
    Place {
        /// The changes, at most [`tree::MAX_PATHS`], in their order.
        changes: Vec<tree::Placed>,
    },
    /// Freeze every command (cgroup freezer) and flush all written data to the disk; answer: [`Report::Done`]. Commands
    /// stay frozen until [`Request::Thaw`], at most for [`MAX_FREEZE`].
    Freeze,
    /// Unfreeze the commands.
    Thaw,
    /// End every command and job before the machine ends. Commands that start later end at once.
    End,
    /// Set the clock (nanoseconds since the Unix epoch) and mix in fresh entropy (base64).
    Renew {
        /// Nanoseconds since the Unix epoch.
        clock_ns: u64,
        /// Random bytes, base64.
        entropy: String,
    },
    /// Describe the guest's state; answer: [`Report::Status`].
    Status,
    /// Building guests only: apply a layer to the new root. The layer is an uncompressed tar archive on the second disk;
    /// answer: [`Report::Layer`].
    ApplyLayer {
        /// Whether names like `.wh.NAME` and `.wh..wh..opq` are whiteouts, as in OCI layers; a plain archive has none.
        whiteouts: bool,
        /// The archive's offset on the disk, in bytes.
        offset: u64,
        /// The archive's length, in bytes.
        bytes: u64,
    },
    /// Building guests only: add what every root needs (mount points, user `sandbox`), flush the root and unmount it.
    FinishRoot,
    /// Flush all written data to the disk and power off.
    PowerOff,
}

/// How a request ended. Each request has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// The command's outcome.
    Exec(ExecReport),
    /// The job, after the action.
    Job(JobReport),
    /// Every job, the oldest first.
    Jobs {
        /// The jobs.
        jobs: Vec<JobInfo>,
    },
    /// What was read.
    Read(ReadReport),
    /// What was written.
    Write {
        /// The file's resolved, absolute path.
        path: String,
        /// How many bytes were written.
        bytes: u64,
        /// Remarks for the reader, such as a write that was not atomic.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// What was replaced.
    Edit(EditReport),
    /// How the search went.
    Search(SearchReport),
    /// What became of the changes, in their order.
    Placed {
        /// The results.
        results: Vec<tree::PlacedResult>,
    },
    /// What a layer contained.
    Layer {
        /// Entries applied.
        entries: u64,
        /// Bytes of file contents.
        bytes: u64,
    },
    /// The guest's state.
    Status(Status),
    /// The request was carried out and has no other result.
    Done,
    /// The request failed.
    Error(WireError),
}
