//! Searching files.

use serde::{Deserialize, Serialize};

use super::User;

/// What to search for, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// A regular expression in ripgrep's syntax.
    pub pattern: String,
    /// Whether the pattern is a literal text, not an expression.
    pub literal: bool,
    /// Whether upper and lower case match each other.
    pub ignore_case: bool,
    /// A file or directory, as [`super::ReadRequest::path`]; empty: the workspace.
    pub path: String,
    /// The user that searches.
    #[serde(default)]
    pub user: User,
    /// Globs of the files to search: `*.rs`, `src/**`, `!target`; absolute, or relative to `path` or the workspace. Each
    /// string may hold several, separated by commas.
    pub globs: Vec<String>,
    /// How many lines before and after each match to send.
    pub context: u64,
    /// The most matching lines.
    pub limit: u64,
    /// The most bytes of output.
    pub max_bytes: u64,
}

/// A matching line, or a line near a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLine {
    /// The file.
    pub path: String,
    /// The line's number, from 1.
    pub line: u64,
    /// The line without its end (invalid UTF-8 replaced); only the text around the matches of a very long line.
    pub text: String,
    /// Whether it is only near a match and has none itself.
    pub context: bool,
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SearchReport {
    /// The matching lines that were sent.
    pub lines: u64,
    /// The files that they are in.
    pub files: u64,
    /// The files that were searched.
    pub searched: u64,
    /// The files and directories that could not be read.
    pub unreadable: u64,
    /// Whether there are more matches.
    pub truncated: bool,
    /// Whether the search reached its time limit.
    pub timed_out: bool,
    /// Remarks for the reader: encodings, skipped files, globs that match nothing.
    #[serde(default)]
    pub notes: Vec<String>,
}
