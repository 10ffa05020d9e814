//! Running a command: the request, and how the command ended.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::User;
use crate::signals;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// What to run.
    pub command: Program,
    /// The working directory, relative to the workspace; absent: the guest's default.
    pub cwd: Option<String>,
    /// Variables to add to the user's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The user that it runs as.
    #[serde(default)]
    pub user: User,
    /// Where its standard input comes from. A command on a terminal reads from the terminal.
    #[serde(default)]
    pub stdin: Stdin,
    /// The timeout in milliseconds; absent: none.
    pub timeout_ms: Option<u64>,
    /// Keep a copy of a stream in a guest file if it is longer than this many bytes or holds control characters
    /// ([`super::is_control`]), since the host then shows it shortened or changed. Absent: never.
    pub spill_after: Option<u64>,
    /// Run on a terminal of this size. Standard error then comes with standard output.
    pub pty: Option<PtySize>,
    /// When the command becomes a job, which is independent of this channel; absent: never.
    #[serde(default)]
    pub detach: Option<Detach>,
}

/// The program of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A shell line, run by `bash` where the image has it, else by `sh`. It may be longer than one argument can be.
    Shell(Word),
    /// A program, looked up in PATH, and its arguments.
    Argv(Vec<Word>),
    /// The user's login shell, interactive.
    LoginShell,
}

/// A shell line, or a word of a command. Linux allows any bytes but NUL, and JSON has strings for UTF-8 only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Word {
    /// The bytes as they are.
    pub fn as_os_str(&self) -> &OsStr {
        match self {
            Self::Text(text) => OsStr::new(text),
            Self::Bytes(bytes) => OsStr::from_bytes(bytes),
        }
    }

    /// The text, with invalid sequences replaced.
    pub fn text(&self) -> Cow<'_, str> {
        self.as_os_str().to_string_lossy()
    }

    /// Whether it has a NUL character, which no argument can.
    pub fn has_nul(&self) -> bool {
        self.as_os_str().as_bytes().contains(&0)
    }
}

impl From<Vec<u8>> for Word {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }
}

impl From<OsString> for Word {
    fn from(text: OsString) -> Self {
        text.into_vec().into()
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Where a command's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null`. Some programs read their input whenever they have one, and would wait for it.
    #[default]
    Null,
    /// The request's input, up to its end.
    Input,
    /// The request's input, and after it the input that [`super::JobAction::Input`] sends, up to the end that it states.
    Open,
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

/// When a command becomes a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detach {
    /// From its start.
    Now,
    /// After so many milliseconds, if it still runs.
    After(u64),
}

/// A command's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Its run time, in milliseconds.
    pub duration_ms: u64,
    /// Bytes it wrote to standard output.
    pub stdout_bytes: u64,
    /// Bytes it wrote to standard error.
    pub stderr_bytes: u64,
    /// The guest file with the complete standard output, if one was kept.
    pub stdout_file: Option<String>,
    /// The guest file with the complete standard error, if one was kept.
    pub stderr_file: Option<String>,
    /// Whether processes that it started still ran when it ended; they are left running.
    pub left_running: bool,
    /// Whether some of its processes did not end within [`super::STOP_GRACE`] and were killed.
    #[serde(default)]
    pub killed: bool,
}

/// How a command ended.
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
    /// It reached its timeout and was ended.
    TimedOut,
    /// The guest ran out of memory: the kernel killed the command, or a process of it, so that it failed.
    OutOfMemory,
    /// The host closed the channel or killed the job, and the command was ended.
    Cancelled,
}

impl Outcome {
    /// The exit status that shells and the program `timeout` use for this outcome.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exited { code } => *code,
            Self::Signaled { signal } => signals::exit_status(signal),
            Self::TimedOut => 124,
            Self::OutOfMemory => signals::exit_status("KILL"),
            Self::Cancelled => signals::exit_status("INT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_keeps_its_bytes(bytes: Vec<u8>) {
            let word = Word::from(bytes.clone());
            let json = serde_json::to_string(&word).unwrap();
            let read: Word = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read, &word);
            prop_assert_eq!(read.as_os_str().as_bytes(), &*bytes);
            prop_assert_eq!(matches!(read, Word::Text(_)), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
