//! Entries of a tree, as a review compares them.

use serde::{Deserialize, Serialize};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A regular file.
    File {
        /// The hash of its content, among the contents; or what stands for it if the content was not read.
        hash: String,
        /// Its size in bytes.
        size: u64,
        /// Its permission bits, those of setuid and setgid included.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its target, with bytes escaped that are no printable text.
        target: String,
    },
}

/// What the words begin with that stand for a hash.
const UNREAD: &str = "unread";

/// What stands for the hash of a content that was not read. Two are the same only if they stand for the same state of a
/// file, and none is the same as a hash.
pub fn unread(state: &str) -> String {
    format!("{UNREAD} {state}")
}

/// The permission bits that a file of the host may get.
pub const MODE: u32 = 0o777;

impl Entry {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Whether it is a file whose content was not read.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::File { hash, .. } if hash.starts_with(UNREAD))
    }

    /// Its size in bytes, if it is a file.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => Some(*size),
            Self::Directory { .. } | Self::Link { .. } => None,
        }
    }

    /// Whether two entries are the same to a review: of a file's mode only the right to execute it counts, as for git, and
    /// of a directory's nothing.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File {
                    hash, mode: one, ..
                },
                Self::File {
                    hash: same,
                    mode: two,
                    ..
                },
            ) => {
                hash == same
                    && executable(*one) == executable(*two)
                    && special(*one) == special(*two)
            }
            (Self::Directory { .. }, Self::Directory { .. }) => true,
            (Self::Link { target }, Self::Link { target: same }) => target == same,
            _ => false,
        }
    }
}

/// Whether two paths have the same to a review; `None`: nothing is there.
pub fn same(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.is_like(other),
        _ => false,
    }
}

/// Whether a file of this mode can be executed by its owner.
pub fn executable(mode: u32) -> bool {
    mode & 0o100 != 0
}

/// The mode that a file of the host gets from a file of the guest. As in git, only the executable bit of the guest's mode
/// counts. `kept` is the mode of the host's file, or [`new_mode`]. It stays; if the file becomes executable, each user who
/// may read it may also execute it.
pub fn host_mode(kept: u32, guest: u32) -> u32 {
    let kept = kept & MODE;
    match (executable(kept), executable(guest)) {
        (true, true) | (false, false) => kept,
        (false, true) => kept | 0o100 | (kept & 0o444) >> 2,
        (true, false) => kept & !0o111,
    }
}

/// The mode of a new file of the host that can't be executed, or of a new directory, where the user's umask is this.
pub fn new_mode(umask: u32, is_directory: bool) -> u32 {
    let all = if is_directory { 0o777 } else { 0o666 };
    all & !umask
}

/// The bits of setuid and setgid.
pub fn special(mode: u32) -> u32 {
    mode & 0o6000
}
