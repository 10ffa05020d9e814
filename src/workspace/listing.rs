//! Names in the shared directory, looked up on the host.
//!
//! Never through a link: the guest writes there, and must not choose which host files are looked at.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::{SharedDir, Workspace};
use crate::blocking::blocking;

/// How many entries of a directory are looked at.
const MAX_ENTRIES: usize = 20_000;

/// How many names are given.
const MAX_NAMES: usize = 1000;

/// Names in a directory of the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The first of them, sorted.
    pub first: Vec<Name>,
    /// Whether there are more.
    pub more: bool,
}

/// One name in a directory of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Inode, modification time (seconds and nanoseconds) and size: it changes when the file does.
pub type Stamp = (u64, i64, i64, u64);

impl Workspace {
    /// The names in a directory of the workspace that begin with `prefix`; none if the host does not have the
    /// directory. The guest may have put millions there, so their number is bounded, and a blocking thread reads them.
    pub async fn names(&self, dir: &str, prefix: &str) -> Names {
        let Some(shared) = self.shared().cloned() else {
            return Names::default();
        };
        let (dir, prefix) = (dir.to_owned(), prefix.to_owned());
        let listed = blocking(move || Some(names(&open(&shared, &dir)?, &prefix)));
        listed.await.unwrap_or_default()
    }

    /// A stamp that changes when the file or directory does; absent if it is not there, or not on the host.
    pub async fn stamp(&self, path: &str) -> Option<Stamp> {
        let (shared, path) = (self.shared()?.clone(), path.to_owned());
        blocking(move || stamp(&shared, Path::new(&path))).await
    }
}

fn stamp(shared: &SharedDir, path: &Path) -> Option<Stamp> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let dir = open(shared, parent.to_str()?)?;
    let stat = match path.file_name() {
        Some(name) => rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW),
        None => rustix::fs::fstat(&dir),
    };
    let stat = stat.ok()?;
    Some((
        stat.st_ino as u64,
        stat.st_mtime as i64,
        stat.st_mtime_nsec as i64,
        stat.st_size as u64,
    ))
}

/// A directory of the workspace on the host, reached without following links.
fn open(shared: &SharedDir, dir: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(shared.dir(), ".", flags, Mode::empty()).ok()?;
    for part in dir.split('/').filter(|part| !part.is_empty()) {
        if matches!(part, "." | "..") {
            return None;
        }
        at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    }
    Some(at)
}

fn names(dir: &OwnedFd, prefix: &str) -> Names {
    let Ok(dir) = Dir::read_from(dir) else {
        return Names::default();
    };
    let mut found = BTreeSet::new();
    let mut more = false;
    for (count, entry) in dir.flatten().enumerate() {
        if count == MAX_ENTRIES {
            more = true;
            break;
        }
        let kind = entry.file_type();
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            continue;
        }
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." || !name.starts_with(prefix) {
            continue;
        }
        found.insert(Name {
            name: name.to_owned(),
            directory: kind == FileType::Directory,
        });
        if found.len() > MAX_NAMES {
            found.pop_last();
            more = true;
        }
    }
    Names {
        first: found.into_iter().collect(),
        more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_never_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MAX_NAMES + 5 {
            std::fs::write(dir.path().join(format!("f{number:05}")), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let open = || OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let all = names(&open(), "");
        assert_eq!((all.first.len(), all.more), (MAX_NAMES, true));
        assert_eq!(
            (all.first[0].name.as_str(), all.first[0].directory),
            ("d", true)
        );
        assert_eq!(all.first[1].name, "f00000", "the first ones by name");
        let some = names(&open(), "f0000");
        assert_eq!((some.first.len(), some.more), (10, false));
    }
}
