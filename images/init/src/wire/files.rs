//! Reading, writing and editing files, and listing directories.

use serde::{Deserialize, Serialize};

use super::User;

/// A file or directory to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    /// The path: absolute, relative to the workspace, below a home (`~/x`, `~name/x`), or a `file:` URI.
    pub path: String,
    /// The user that reads.
    #[serde(default)]
    pub user: User,
    /// The part to send.
    pub want: ReadWant,
}

/// The part of a file to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadWant {
    /// Whole lines from `offset` on, at most `limit` lines and `max_bytes` bytes. For binary files and directories the
    /// report states the kind; images of at most `max_image_bytes` are sent whole.
    Lines {
        /// The first line, from 1.
        offset: u64,
        /// The most lines.
        limit: u64,
        /// The most bytes; a single longer line is cut.
        max_bytes: u64,
        /// The longest image that is sent, in bytes.
        max_image_bytes: u64,
    },
    /// The bytes as they are.
    Bytes {
        /// The first byte, from 0.
        offset: u64,
        /// The most bytes.
        limit: u64,
    },
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
    /// Remarks for the reader, such as the file's encoding.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The kind of what was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadContent {
    /// Lines of text, sent as UTF-8 data (invalid sequences replaced).
    Text {
        /// How many lines the file has; absent if counting them takes too long.
        total_lines: Option<u64>,
        /// The first line that was not sent, if any.
        next_offset: Option<u64>,
        /// Whether a line was cut for its length.
        cut: bool,
    },
    /// A file that begins like an image, sent whole as data. The host checks whether it is one.
    Image {
        /// Its media type, such as `image/png`.
        media_type: String,
    },
    /// Other binary content; nothing was sent.
    Binary {
        /// A description of the content, such as `application/x-executable`.
        description: String,
    },
    /// A directory, sent as [`super::lines`] of [`DirEntry`], sorted by name, at most [`super::MAX_LISTING`] bytes.
    Directory {
        /// How many entries it has.
        entries: u64,
    },
    /// The requested bytes, sent as data.
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
    /// The target of a symlink.
    pub target: Option<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// The path, as [`ReadRequest::path`]. Missing parent directories are made.
    pub path: String,
    /// The user that writes, and that owns new files.
    #[serde(default)]
    pub user: User,
    /// Permission bits of the result; absent: those of the old file, or 0644 for a new one.
    pub mode: Option<u32>,
    /// Append instead of replacing.
    pub append: bool,
    /// The length of the input. Input that ends early changes nothing.
    pub bytes: u64,
}

/// A text to replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditRequest {
    /// The path, as [`ReadRequest::path`].
    pub path: String,
    /// The user that edits.
    #[serde(default)]
    pub user: User,
    /// The text to replace.
    pub old: String,
    /// The new text.
    pub new: String,
    /// Replace every occurrence; otherwise there must be exactly one.
    pub all: bool,
}

/// What was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditReport {
    /// The file's resolved, absolute path.
    pub path: String,
    /// How many occurrences were replaced.
    pub replacements: u64,
    /// The change as a unified diff; only the beginning of a very long one.
    pub diff: String,
    /// Remarks for the reader, such as the file's encoding.
    #[serde(default)]
    pub notes: Vec<String>,
}
