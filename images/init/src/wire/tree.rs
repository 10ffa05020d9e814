//! The tree of a workspace that is a copy: a listing of it, contents out of it, and changes into it.
//!
//! Paths are relative to the workspace and may have any bytes but NUL. In requests they are text, with every byte escaped
//! that is no printable ASCII character ([`escape`]). A listing ([`Request::Tree`](super::Request)) is a sequence of
//! records:
//!
//! ```text
//! kind 1 | mode 4 | size 8 | mtime 8 | ctime 8 | length of path 2 | path | length of target 2 | target
//! ```
//!
//! Numbers are little endian. Contents ([`Request::Fetch`](super::Request)) are a sequence of lengths (8 bytes; all ones:
//! the file can't be read) and as many bytes, in the order of the request's paths.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

/// The longest listing, in bytes.
pub const MAX_TREE: u64 = 512 << 20;

/// The most paths of one request for contents, and the most changes of one request.
pub const MAX_PATHS: usize = 4096;

/// What stands for the length of a file that can't be read.
pub const UNREADABLE: u64 = u64::MAX;

/// The length of a record's fixed part, in bytes.
const FIXED: usize = 1 + 4 + 3 * 8;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device.
    Other,
    /// Nothing: the path was asked for and does not exist.
    Absent,
}

impl EntryKind {
    const ALL: [(Self, u8); 5] = [
        (Self::File, b'f'),
        (Self::Directory, b'd'),
        (Self::Link, b'l'),
        (Self::Other, b'o'),
        (Self::Absent, b'a'),
    ];
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Its permission bits, with those of setuid, setgid and sticky.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// When its content or status changed, in nanoseconds since the Unix epoch.
    pub ctime_ns: i64,
    /// Its path.
    pub path: Vec<u8>,
    /// The target of a symbolic link; empty for anything else.
    pub target: Vec<u8>,
}

impl TreeEntry {
    /// Appends the record.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let kind = EntryKind::ALL.iter().find(|(kind, _)| *kind == self.kind);
        to.push(kind.map_or(b'o', |(_, byte)| *byte));
        to.extend_from_slice(&self.mode.to_le_bytes());
        to.extend_from_slice(&self.size.to_le_bytes());
        to.extend_from_slice(&self.mtime_ns.to_le_bytes());
        to.extend_from_slice(&self.ctime_ns.to_le_bytes());
        for bytes in [&self.path, &self.target] {
            // Linux has no longer paths than 4,096 bytes.
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            to.extend_from_slice(&length.to_le_bytes());
            to.extend_from_slice(&bytes[..length.into()]);
        }
    }

    /// The first record of a listing, and the rest; `None` if the listing is broken there.
    pub fn decode(from: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = from.split_first_chunk::<FIXED>()?;
        let kind = EntryKind::ALL.iter().find(|(_, byte)| *byte == fixed[0])?.0;
        let number = |at: usize| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let mode = u32::from_le_bytes(*fixed[1..].first_chunk()?);
        let (size, mtime, ctime) = (number(5)?, number(13)?, number(21)?);
        let (path, rest) = counted(rest)?;
        let (target, rest) = counted(rest)?;
        let entry = Self {
            kind,
            mode,
            size,
            mtime_ns: mtime.cast_signed(),
            ctime_ns: ctime.cast_signed(),
            path: path.to_vec(),
            target: target.to_vec(),
        };
        Some((entry, rest))
    }
}

/// The first bytes, which their length precedes, and the rest.
fn counted(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_first_chunk()?;
    rest.split_at_checked(u16::from_le_bytes(*length).into())
}

/// A change that the host makes to the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The path ([`escape`]).
    pub path: String,
    /// What is there afterwards.
    pub kind: EntryKind,
    /// The permission bits of a file or a directory.
    pub mode: u32,
    /// When the content of a file changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// The size of a file, in bytes. Its content is in the request's input, after those of earlier files.
    pub size: u64,
    /// The target of a symbolic link ([`escape`]).
    pub target: String,
}

/// The result of a [`Placed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacedResult {
    /// It is there, or gone; with the time of its last change of status, in nanoseconds since the Unix epoch.
    Done(i64),
    /// It could not be made, for this reason.
    Failed(String),
}

/// What [`escape`] escapes: also `%` and the space, which ends a word.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// A path as text, without loss.
pub fn escape(path: &[u8]) -> String {
    percent_encode(path, ESCAPED).to_string()
}

/// The path of such text.
pub fn unescape(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = TreeEntry> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let numbers = any::<(u32, u64, i64, i64)>();
        let kind = prop::sample::select(&EntryKind::ALL[..]);
        (kind, numbers, bytes(), bytes()).prop_map(
            |((kind, _), (mode, size, mtime_ns, ctime_ns), path, target)| TreeEntry {
                kind,
                mode,
                size,
                mtime_ns,
                ctime_ns,
                path,
                target,
            },
        )
    }

    proptest! {
        #[test]
        fn records_are_read_back(entries in prop::collection::vec(entry(), 0..5)) {
            let mut bytes = Vec::new();
            entries.iter().for_each(|entry| entry.encode(&mut bytes));
            let mut rest = bytes.as_slice();
            for entry in &entries {
                let (read, after) = TreeEntry::decode(rest).unwrap();
                prop_assert_eq!(&read, entry);
                rest = after;
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn a_broken_record_is_none(bytes: Vec<u8>) {
            if let Some((_, rest)) = TreeEntry::decode(&bytes) {
                prop_assert!(rest.len() < bytes.len());
            }
        }

        #[test]
        fn any_path_is_text_without_loss(path: Vec<u8>) {
            let text = escape(&path);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(unescape(&text), path);
        }
    }
}
