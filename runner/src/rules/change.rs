//! What a guest requests, what the rules see of the tree, and what they answer.

use std::io;

use super::outside::Outside;
use crate::protection::UNCHECKED;

/// What a name in the tree stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One change that a guest requests.
///
/// A path is relative to the shared directory, without `.`, `..` and empty names. It is the physical path: no directory in
/// it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A new file or directory. If the file exists, it is a [`Change::Truncate`] or nothing.
    Create {
        /// Its path.
        path: &'a [u8],
        /// What is made; a symbolic link is [`Change::Symlink`].
        kind: Kind,
    },
    /// A new symbolic link.
    Symlink {
        /// Its path.
        path: &'a [u8],
        /// What it contains.
        target: &'a [u8],
    },
    /// A second name for a file.
    Link {
        /// The file.
        from: &'a [u8],
        /// Its new name.
        to: &'a [u8],
    },
    /// Bytes written to a file, asked for every known name of the file.
    Write {
        /// The file.
        path: &'a [u8],
        /// Where they begin.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Another size of a file.
    Truncate {
        /// The file.
        path: &'a [u8],
        /// Its new size.
        size: u64,
    },
    /// Another mode, other times or extended attributes.
    Attributes {
        /// The file or directory.
        path: &'a [u8],
    },
    /// A file or an empty directory removed.
    Remove {
        /// Its path.
        path: &'a [u8],
    },
    /// Another name, for a directory with all its contents. What has the new name is replaced.
    Rename {
        /// The old path.
        from: &'a [u8],
        /// The new path.
        to: &'a [u8],
        /// Whether the two exchange their names.
        exchange: bool,
    },
}

impl<'a> Change<'a> {
    /// The paths that it concerns.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'a [u8]> {
        let (first, second) = match *self {
            Self::Create { path, .. }
            | Self::Symlink { path, .. }
            | Self::Write { path, .. }
            | Self::Truncate { path, .. }
            | Self::Attributes { path }
            | Self::Remove { path } => (path, None),
            Self::Link { from, to } | Self::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }
}

/// What the rules see of the tree. No symbolic link is followed. The tree must not change between a question here and the
/// change that was asked for.
pub trait Look {
    /// The first bytes of a regular file; `None`: there is none at the path.
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>>;
    /// What is at the path; `None`: nothing.
    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>>;
    /// The number of names of the file.
    fn links(&self, path: &[u8]) -> io::Result<u64>;
    /// The names in a directory, at most one more than `at_most`; none if it is no directory.
    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>>;
    /// What is around the tree.
    fn outside(&self) -> &Outside;
}

/// What becomes of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may be made.
    Allow,
    /// It must fail.
    Deny(Finding),
    /// A person decides.
    Ask(Finding),
}

/// Why a change is not simply made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The id of the rule.
    pub rule: &'static str,
    /// What the rule protects there, for a person.
    pub what: String,
}

impl Finding {
    /// The longest text; names and values are the guest's.
    const LONGEST: usize = 300;

    /// The finding at a path that can't be judged.
    pub(super) fn unchecked(path: &[u8], error: &io::Error) -> Self {
        Self::new(UNCHECKED, path, &format!("it can't be checked: {error}"))
    }

    /// A finding at a path; `detail` may be empty.
    pub fn new(rule: &'static str, path: &[u8], detail: &str) -> Self {
        let what = match detail.is_empty() {
            true => Self::text(path),
            false => Self::text(&[path, b": ", detail.as_bytes()].concat()),
        };
        Self { rule, what }
    }

    /// A path of the guest as bounded text without control characters.
    pub fn text(path: &[u8]) -> String {
        let text = String::from_utf8_lossy(path);
        let fit = text.chars().filter(|c| !c.is_control());
        fit.take(Self::LONGEST).collect()
    }
}
