//! Requests the host sends over the guest link.
//!
//! The link is a byte stream that first synchronizes and then carries SSH.
//!
//! **Synchronizing.** The stream may hold leftovers of a connection that broke. The host sends the line
//! [`SYNC_PREFIX`]`NONCE\n` and waits for the same line back, dropping all else; a host that gets no
//! answer sends another nonce. Init answers every such line until a line starts with `SSH-`: from there
//! the bytes are an SSH session's.
//!
//! **Version.** Init's SSH identification line states the [`VERSION`] of all that follows; the host refuses any other.
//!
//! **Requests.** A session channel on which the host asks for the subsystem [`SUBSYSTEM`] carries one
//! request: a length (4 bytes, big endian) and that many bytes of JSON, a [`Request`]; what follows is
//! the request's input, up to EOF. The guest answers with data, with extended data of type
//! [`EXT_STDERR`], and at the end with exactly one [`Report`] as JSON in extended data of type
//! [`EXT_REPORT`] (which may come in several pieces), then closes the channel. A channel that closes
//! without a report was cut off. Closing the channel early cancels the request.
//!
//! **Ending commands.** A command that is to end (its time is up, it is cancelled, its job is killed) gets SIGTERM, with
//! everything in its cgroup; on a terminal SIGHUP, as when one is closed. Once all have ended, or after [`STOP_GRACE`],
//! the cgroup is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod version;

pub use version::{VERSION, Version};

/// The start of a synchronizing line.
pub const SYNC_PREFIX: &str = "SNOWGLOBE-SYNC ";

/// The SSH subsystem that takes a [`Request`].
pub const SUBSYSTEM: &str = "snowglobe";

/// Extended data of a command's standard error (as in RFC 4254).
pub const EXT_STDERR: u32 = 1;

/// Extended data that carries the [`Report`].
pub const EXT_REPORT: u32 = 100;

/// The path of the streamlocal channel behind which a further SSH session is served:
/// how the user's own `ssh` attaches through the host's one connection.
pub const ATTACH_SOCKET: &str = "/run/snowglobe/attach.sock";

/// Where the whole of long outputs is: on the disk, not in memory, and gone with a reboot.
pub const OUTPUT_DIRECTORY: &str = "/var/tmp/snowglobe";

/// Whether `byte`, which comes after `before`, is a control character or ends one: what a terminal does something
/// with instead of showing it. Line breaks and tabs are text; C1 controls have two bytes in UTF-8.
pub fn is_control(before: u8, byte: u8) -> bool {
    match byte {
        b'\n' | b'\t' => false,
        0x80..=0x9f => before == 0xc2,
        _ => byte < 0x20 || byte == 0x7f,
    }
}

/// How long a command that is to end may take to do so after SIGTERM; what then still runs is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// The longest JSON of a request, in bytes.
pub const MAX_REQUEST: usize = 64 << 20;

/// How many bytes of a directory's entries are sent at most.
pub const MAX_LISTING: u64 = 4 << 20;

/// After how long a freeze ends by itself: a host that is gone must not leave the guest standing still.
pub const MAX_FREEZE: Duration = Duration::from_secs(30);

/// How long a search takes at most.
pub const MAX_SEARCH_TIME: Duration = Duration::from_secs(40);

/// Who does what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// The ordinary user, uid 1000.
    #[default]
    Sandbox,
    /// The guest's root.
    Root,
}

/// What the host can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Run a command; input: its standard input; answer: [`Report::Exec`], or [`Report::Job`] if it goes on as a job.
    Exec(ExecRequest),
    /// Do something with a job; answer: [`Report::Job`].
    Job(JobRequest),
    /// Every job there is; answer: [`Report::Jobs`].
    Jobs,
    /// Read a file or a directory; output: the bytes; answer: [`Report::Read`].
    Read(ReadRequest),
    /// Write a file, atomically where that can be, or add to it; input: its bytes; answer: [`Report::Write`].
    Write(WriteRequest),
    /// Replace text in a file atomically; answer: [`Report::Edit`].
    Edit(EditRequest),
    /// Search files; output: one JSON [`FoundLine`] per line; answer: [`Report::Search`].
    Search(SearchRequest),
    /// Stop every command where it stands (cgroup freezer) and put all that was written on the disk;
    /// answer: [`Report::Done`]. Until [`Request::Thaw`], or for [`MAX_FREEZE`], nothing runs.
    Freeze,
    /// Let the commands go on.
    Thaw,
    /// End every command and job, in order: the machine is about to go. New ones are ended at once.
    End,
    /// Set the clock (nanoseconds since the Unix epoch) and mix in fresh entropy (base64).
    Renew {
        /// Nanoseconds since the Unix epoch.
        clock_ns: u64,
        /// Random bytes, base64.
        entropy: String,
    },
    /// What the guest is and how it is doing; answer: [`Report::Status`].
    Status,
    /// Building guests only: apply a layer to the new root, an uncompressed tar archive on the second disk;
    /// answer: [`Report::Layer`].
    ApplyLayer {
        /// Interpret whiteouts (`.wh.NAME`, `.wh..wh..opq`) as OCI layers mean them; a plain root tar has none.
        whiteouts: bool,
        /// Where the archive begins, in bytes.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
    /// Building guests only: make the root complete (mount points, user `sandbox`), write all of it and unmount.
    FinishRoot,
    /// Write everything to the disk and power off.
    PowerOff,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// What to run.
    pub command: Command,
    /// The working directory; relative to the workspace; absent: where this guest's commands start.
    pub cwd: Option<String>,
    /// Environment on top of the user's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Who runs it.
    #[serde(default)]
    pub user: User,
    /// Where its standard input comes from; a terminal is its own.
    #[serde(default)]
    pub stdin: Stdin,
    /// After how many milliseconds the command is ended; absent: never.
    pub timeout_ms: Option<u64>,
    /// Keep a copy of the output in guest files once a stream is longer than this many bytes, or holds control
    /// characters ([`is_control`]): then what is shown of it is not what came. Absent: never.
    pub spill_after: Option<u64>,
    /// Run on a terminal of this size; standard error then comes with standard output.
    pub pty: Option<PtySize>,
    /// Whether and when the command becomes a job, which no longer depends on this channel; absent: never.
    #[serde(default)]
    pub detach: Option<Detach>,
}

/// Where a command's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null`: programs that search or filter their input when they have one must not wait for it.
    #[default]
    Null,
    /// The request's input, up to its end.
    Input,
    /// The request's input, and what [`JobAction::Input`] adds to it until it says that this was all.
    Open,
}

/// When a command becomes a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detach {
    /// From its start.
    Now,
    /// If it still runs after so many milliseconds.
    After(u64),
}

/// Something to do with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Which job.
    pub id: String,
    /// What to do.
    pub action: JobAction,
}

/// What can be done with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAction {
    /// Send its output, both streams in the order they came.
    Output {
        /// Where to start, in bytes; absent: `limit` bytes before the end.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u64,
    },
    /// Wait for its end.
    Wait {
        /// For how many milliseconds at most.
        timeout_ms: u64,
    },
    /// End it, and wait for its end.
    Kill,
    /// Add the request's input to its standard input, which must be [`Stdin::Open`].
    Input {
        /// Whether that was all.
        end: bool,
    },
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A line for the shell: `bash` where the image has it, else `sh`. May be longer than what fits an argument.
    Shell(String),
    /// A program and its arguments, looked up in PATH.
    Argv(Vec<String>),
    /// The user's login shell, interactive.
    LoginShell,
}

/// A terminal's name and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// The terminal's type, `TERM`.
    pub term: String,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A file or directory to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    /// The path: relative to the workspace, below a home (`~/x`, `~name/x`), or a `file:` URI.
    pub path: String,
    /// Who reads.
    #[serde(default)]
    pub user: User,
    /// What to send.
    pub want: ReadWant,
}

/// Which part of a file to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadWant {
    /// Whole lines from `offset` (the first is 1), at most `limit` of them and at most `max_bytes` in all.
    /// Binary files and directories are answered by kind; images of at most `max_image_bytes` are sent whole.
    Lines {
        /// The first line, from 1.
        offset: u64,
        /// How many lines at most.
        limit: u64,
        /// How many bytes at most; a single longer line is cut.
        max_bytes: u64,
        /// How long an image may be to be sent.
        max_image_bytes: u64,
    },
    /// The bytes as they are.
    Bytes {
        /// Where to start.
        offset: u64,
        /// How many at most.
        limit: u64,
    },
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// The path, as [`ReadRequest::path`]. Missing parents are made.
    pub path: String,
    /// Who writes, and owns what is new.
    #[serde(default)]
    pub user: User,
    /// Permission bits of the result; absent: as the file had, or 0644 for a new one.
    pub mode: Option<u32>,
    /// Add to the end instead of replacing.
    pub append: bool,
    /// How many bytes follow as input; a stream that ends early leaves the old file.
    pub bytes: u64,
}

/// A text to replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditRequest {
    /// The path; relative to the workspace.
    pub path: String,
    /// Who edits.
    #[serde(default)]
    pub user: User,
    /// The text there is.
    pub old: String,
    /// What takes its place.
    pub new: String,
    /// Every occurrence; otherwise there must be exactly one.
    pub all: bool,
}

/// What was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditReport {
    /// The file's resolved, absolute path.
    pub path: String,
    /// How many occurrences were replaced.
    pub replacements: u64,
    /// What changed, as a unified diff; of a very long one the beginning.
    pub diff: String,
    /// What else there is to say, such as the file's encoding.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What to search for, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// A regular expression in ripgrep's syntax.
    pub pattern: String,
    /// The pattern is a text, not an expression.
    pub literal: bool,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// A file or directory; relative to the workspace.
    pub path: String,
    /// Who searches.
    #[serde(default)]
    pub user: User,
    /// Which files: `*.rs`, `src/**`, `!target`; relative to `path` or the workspace, or absolute. Each may be several,
    /// separated by commas.
    pub globs: Vec<String>,
    /// How many lines around each match are given.
    pub context: u64,
    /// How many matching lines at most.
    pub limit: u64,
    /// How many bytes of output at most.
    pub max_bytes: u64,
}

/// A line that was found, or one around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLine {
    /// The file.
    pub path: String,
    /// The line's number, from 1.
    pub line: u64,
    /// The line without its end (invalid UTF-8 replaced); of a very long one the text around the matches.
    pub text: String,
    /// Whether it is only near a match.
    pub context: bool,
}

/// How a search went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SearchReport {
    /// Matching lines that were sent.
    pub lines: u64,
    /// Files they are in.
    pub files: u64,
    /// Files searched.
    pub searched: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// Whether there are more matches than were sent.
    pub truncated: bool,
    /// Whether the search was ended for taking too long.
    pub timed_out: bool,
    /// What else there is to say: encodings, files that were passed over, globs that match nothing.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How a request ended. Exactly one per request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// The command's outcome.
    Exec(ExecReport),
    /// The job, after what was done with it.
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
        /// What a reader should know about it.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// What was replaced.
    Edit(EditReport),
    /// How the search went.
    Search(SearchReport),
    /// What a layer brought.
    Layer {
        /// Entries applied.
        entries: u64,
        /// Bytes of file contents.
        bytes: u64,
    },
    /// The guest's state.
    Status(Status),
    /// Done; there is nothing to add.
    Done,
    /// It could not be done.
    Error(WireError),
}

/// A command's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReport {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// Bytes it wrote to standard output.
    pub stdout_bytes: u64,
    /// Bytes it wrote to standard error.
    pub stderr_bytes: u64,
    /// The guest file with all of standard output, where it was kept.
    pub stdout_file: Option<String>,
    /// The guest file with all of standard error, where it was kept.
    pub stderr_file: Option<String>,
    /// Whether processes that it started were still running when it ended (left alone).
    pub left_running: bool,
    /// Whether something of it did not end by itself when it was told to, and was killed.
    #[serde(default)]
    pub killed: bool,
}

/// How a command ended: each is its own outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// It exited by itself.
    Exited {
        /// 0 to 255.
        code: u8,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's name without `SIG`, such as `TERM`; see [`crate::signals`].
        signal: String,
    },
    /// Its time was up and it was ended.
    TimedOut,
    /// The guest ran out of memory and the kernel killed it (or a process of its cgroup, so that it failed).
    OutOfMemory,
    /// The host closed the channel, or asked for the job's end, and it was ended.
    Cancelled,
}

impl Outcome {
    /// The exit status by which shells, and `timeout`, say how a command ended.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exited { code } => *code,
            Self::Signaled { signal } => crate::signals::exit_status(signal),
            Self::TimedOut => 124,
            Self::OutOfMemory => crate::signals::exit_status("KILL"),
            Self::Cancelled => crate::signals::exit_status("INT"),
        }
    }
}

/// A job and what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// The job as it is now.
    pub job: JobInfo,
    /// Where the output that was sent starts.
    pub offset: u64,
    /// Where the next output is.
    pub next_offset: u64,
}

/// A command that runs, or ran, in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its name, which no other job has, not even one of an earlier boot.
    pub id: String,
    /// The command, shortened.
    pub command: String,
    /// Who runs it.
    pub user: User,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How long it has been running, or ran.
    pub duration_ms: u64,
    /// How much it has written, both streams together.
    pub output_bytes: u64,
    /// How much of that was kept.
    pub kept_bytes: u64,
    /// The guest file with its output.
    pub output_file: String,
    /// Whether it takes more input.
    pub takes_input: bool,
    /// How it ended; absent while it runs.
    pub outcome: Option<Outcome>,
    /// Whether processes that it started were still running when it ended (left alone).
    pub left_running: bool,
    /// Whether something of it did not end by itself when it was told to, and was killed.
    #[serde(default)]
    pub killed: bool,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// The resolved, absolute path.
    pub path: String,
    /// The file's size in bytes.
    pub size: u64,
    /// What it is.
    pub content: ReadContent,
    /// What a reader should know about it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What was read, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadContent {
    /// Lines of UTF-8 text, sent as data (invalid sequences replaced).
    Text {
        /// How many lines the file has; absent if that is not known soon.
        total_lines: Option<u64>,
        /// The first line not sent, if any.
        next_offset: Option<u64>,
        /// Whether a line was cut for its length.
        cut: bool,
    },
    /// What begins as an image does, sent whole as data; whether it is one is for the host to find out.
    Image {
        /// Its media type, such as `image/png`.
        media_type: String,
    },
    /// Other binary content; nothing was sent.
    Binary {
        /// A word for what it seems to be, such as `ELF executable`.
        description: String,
    },
    /// A directory, sent as one JSON [`DirEntry`] per line, sorted by name, [`MAX_LISTING`] bytes at most.
    Directory {
        /// How many entries it has.
        entries: u64,
    },
    /// The bytes asked for, sent as data.
    Bytes,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Its name (invalid UTF-8 replaced).
    pub name: String,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `char` or `block`.
    pub kind: String,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Where a symlink points.
    pub target: Option<String>,
}

/// The guest's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Init's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Seconds since the kernel started, in milliseconds.
    pub uptime_ms: u64,
    /// When init was started, in milliseconds after the kernel.
    pub init_started_ms: u64,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Memory available in bytes.
    pub memory_available_bytes: u64,
    /// Bytes used on the root file system.
    pub disk_used_bytes: u64,
    /// Bytes free on the root file system for an ordinary user.
    pub disk_free_bytes: u64,
    /// Commands running now.
    pub commands: u64,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What was wrong, what was expected: a lowercase fragment that reads well after "failed to".
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidRequest,
    /// A path does not exist.
    NotFound,
    /// The user may not do that.
    PermissionDenied,
    /// Something of the wrong kind is there (a directory where a file was expected, and so on).
    WrongKind,
    /// The disk is full.
    NoSpace,
    /// The command could not be started at all.
    NotStarted,
    /// Everything else.
    Other,
}
