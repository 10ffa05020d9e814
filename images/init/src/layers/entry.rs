//! The entries of a layer, and their paths.

use rustix::fs::{self, FileType, Timespec};

use super::sparse::Sparse;
use crate::headers::MAX_PATH;

/// One entry: its header merged with the records before it, its names cleaned.
pub(super) struct Entry {
    /// Relative to the root; empty for the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) enum Kind {
    /// `None`: the entry's data is the file's content. `Some`: the data is the pieces of a sparse file.
    File(Option<Sparse>),
    Directory,
    Symlink(Vec<u8>),
    /// The target, cleaned.
    HardLink(Vec<u8>),
    Node(FileType, fs::Dev),
}

/// The path below the root that a name stands for; empty for the root.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.contains(&0) {
        return Err("the name contains a NUL byte".into());
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts
                    .pop()
                    .ok_or("the name climbs out of the root; every name must stay below it")?;
            }
            _ if part.len() > 255 => {
                return Err(format!(
                    "a part of the name has {} bytes; at most 255 are possible",
                    part.len()
                ));
            }
            _ => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > MAX_PATH {
        return Err(format!(
            "the path has {} bytes; at most {MAX_PATH} are possible",
            path.len()
        ));
    }
    Ok(path)
}

/// Splits a cleaned path into its parent and its last part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
