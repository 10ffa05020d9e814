//! Files as callers read and write them.

use bytes::Bytes;
use snowglobe_init::wire::{ReadContent, User};

/// What [`super::Sandbox::read`] found.
#[derive(Debug, Clone)]
pub struct Read {
    /// The resolved, absolute path.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// The kind of content.
    pub content: ReadContent,
    /// A text's lines (without numbers), the bytes of an image, or a directory's entries as JSON lines.
    pub data: Bytes,
    /// Remarks for the reader: an encoding, a link that was followed.
    pub notes: Vec<String>,
}

/// What [`super::Sandbox::write`] did.
#[derive(Debug, Clone)]
pub struct Written {
    /// The resolved, absolute path.
    pub path: String,
    /// How many bytes were written.
    pub bytes: u64,
    /// Remarks for the reader: an encoding, a link that was followed.
    pub notes: Vec<String>,
}

/// A file for [`super::Sandbox::write`].
#[derive(Debug, Clone)]
pub struct Write {
    /// The path; relative to the workspace.
    pub path: String,
    /// Its new content, or what to append.
    pub content: Bytes,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Whether to append.
    pub append: bool,
    /// The user who writes.
    pub user: User,
}
