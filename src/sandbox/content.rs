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
    /// What it is.
    pub content: ReadContent,
    /// The text's lines (without numbers), or what may be an image, or the directory's entries as JSON lines.
    pub data: Bytes,
    /// What a reader should know about it.
    pub notes: Vec<String>,
}

/// What [`super::Sandbox::write`] did.
#[derive(Debug, Clone)]
pub struct Written {
    /// The resolved, absolute path.
    pub path: String,
    /// How many bytes were written.
    pub bytes: u64,
    /// What a reader should know about it.
    pub notes: Vec<String>,
}

/// A file for [`super::Sandbox::write`].
#[derive(Debug, Clone)]
pub struct Write {
    /// The path; relative to the workspace.
    pub path: String,
    /// Its new content (or what is added).
    pub content: Bytes,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Add to the end.
    pub append: bool,
    /// Who writes.
    pub user: User,
}
