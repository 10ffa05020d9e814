//! An entry of a tree that is copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The name of git's own directory or file.
pub(super) const GIT: &[u8] = b".git";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// The state of a file on the host: if it is the same, so is the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStamp {
    /// When its content or status changed, in nanoseconds since the Unix epoch.
    pub ctime_ns: i64,
    /// Its inode.
    pub inode: u64,
}

/// Where the content of a listed file is on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// At its own path in the directory.
    #[default]
    Here,
    /// At another path.
    At(PathBuf),
    /// Nowhere: it is this text.
    Text(Vec<u8>),
}

/// The content of a listed file.
#[derive(Debug)]
pub enum Source<'a> {
    /// What a file of the host has.
    File(PathBuf),
    /// This text.
    Text(&'a [u8]),
}

/// An entry of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits, without those of setuid, setgid and sticky.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its state.
    pub stamp: HostStamp,
    /// The target of a link; empty for anything else.
    pub target: Vec<u8>,
    /// Whether git ignores it: then it is copied, and no change of it counts.
    pub ignored: bool,
    /// Where its content is; of a base it is not known any more.
    pub origin: Origin,
}

impl Listed {
    /// The content of the file at a path of the directory `root`.
    pub fn source(&self, root: &Path, path: &[u8]) -> Source<'_> {
        match &self.origin {
            Origin::Here => Source::File(on_host(root, path)),
            Origin::At(place) => Source::File(place.clone()),
            Origin::Text(text) => Source::Text(text),
        }
    }
}

/// The path on the host of a path in the tree.
pub(super) fn on_host(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

/// A path below another.
pub(super) fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

/// Nanoseconds since the Unix epoch, of a time as the system gives it.
pub fn epoch_ns(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}
