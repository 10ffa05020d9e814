//! What the host changed since a copy was made. Pure.

use std::collections::BTreeMap;

use snowglobe_init::wire::tree::escape;

use super::began::Known;
use super::listed::{GIT, Kind, Listed};
use super::listing::Listing;

/// How coarse the host's times of change may be, in nanoseconds: a file that changed this shortly before it was copied may
/// have changed again with the same time.
const COARSE: i64 = 2_000_000_000;

/// An entry that differs, or may differ, from what the copy began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChange {
    /// Its path.
    pub path: Vec<u8>,
    /// What the host has now; `None`: nothing.
    pub now: Option<Listed>,
    /// Whether only its content can tell, since nothing else differs.
    pub unsure: bool,
}

/// Whether a path is git's own directory or file, or lies within it.
pub fn is_of_git(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name == GIT)
}

/// What the host changed. `began` is what the copy began with, at the time `stamp_ns`.
pub fn host_changes(
    began: &BTreeMap<Vec<u8>, Known>,
    listing: &Listing,
    stamp_ns: i64,
) -> Vec<HostChange> {
    let mut changes = Vec::new();
    for (path, listed) in &listing.entries {
        let differs = match began.get(path) {
            None => Differs::Surely,
            Some(known) => compare(known, listed, stamp_ns),
        };
        if differs != Differs::Not {
            changes.push(HostChange {
                path: path.clone(),
                now: Some(listed.clone()),
                unsure: differs == Differs::Perhaps,
            });
        }
    }
    let gone = began
        .keys()
        .filter(|path| !listing.entries.contains_key(*path));
    changes.extend(gone.map(|path| HostChange {
        path: path.clone(),
        now: None,
        unsure: false,
    }));
    changes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    Not,
    Perhaps,
    Surely,
}

fn compare(known: &Known, listed: &Listed, stamp_ns: i64) -> Differs {
    if known.kind != listed.kind || known.target != escape(&listed.target) {
        return Differs::Surely;
    }
    // As for git, of a file's mode only the right to execute counts, and of a directory's nothing: what was applied has the
    // rest of the guest's mode in the copy only.
    let is_executable = |mode: u32| mode & 0o100 != 0;
    match listed.kind {
        Kind::Directory | Kind::Link => Differs::Not,
        Kind::File if is_executable(known.mode) != is_executable(listed.mode) => Differs::Surely,
        Kind::File if known.size != listed.size => Differs::Surely,
        Kind::File if known.host != Some(listed.stamp) => Differs::Perhaps,
        Kind::File if listed.stamp.ctime_ns > stamp_ns.saturating_sub(COARSE) => Differs::Perhaps,
        Kind::File => Differs::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::{Content, HostStamp, Origin};

    const STAMP: HostStamp = HostStamp {
        ctime_ns: 1_000,
        inode: 7,
    };

    fn listed(kind: Kind, size: u64) -> Listed {
        Listed {
            kind,
            mode: 0o644,
            size,
            mtime_ns: 5,
            stamp: STAMP,
            target: Vec::new(),
            ignored: false,
            origin: Origin::Here,
        }
    }

    fn known(kind: Kind, size: u64) -> Known {
        Known {
            kind,
            mode: 0o644,
            size,
            target: String::new(),
            content: Content::Base,
            host: Some(STAMP),
            guest_ctime_ns: 1,
        }
    }

    #[test]
    fn a_file_is_the_same_only_if_nothing_could_have_changed_it() {
        let late = 1_000 + COARSE + 1;
        let file = known(Kind::File, 3);
        let now = listed(Kind::File, 3);
        assert_eq!(compare(&file, &now, late), Differs::Not);
        assert_eq!(
            compare(&file, &now, 1_000),
            Differs::Perhaps,
            "it was young"
        );
        let touched = Listed {
            stamp: HostStamp { inode: 8, ..STAMP },
            ..now.clone()
        };
        assert_eq!(compare(&file, &touched, late), Differs::Perhaps);
        let unknown = Known {
            host: None,
            ..file.clone()
        };
        assert_eq!(compare(&unknown, &now, late), Differs::Perhaps);
        assert_eq!(
            compare(&file, &listed(Kind::File, 4), late),
            Differs::Surely
        );
        assert_eq!(
            compare(&file, &listed(Kind::Directory, 0), late),
            Differs::Surely
        );
        let umask = Listed {
            mode: 0o600,
            ..now.clone()
        };
        assert_eq!(compare(&file, &umask, late), Differs::Not);
        let mode = Listed { mode: 0o755, ..now };
        assert_eq!(compare(&file, &mode, late), Differs::Surely);
    }

    #[test]
    fn what_came_and_went_is_found() {
        let mut began = BTreeMap::new();
        began.insert(b"gone".to_vec(), known(Kind::File, 1));
        began.insert(b"dir".to_vec(), known(Kind::Directory, 0));
        let mut listing = Listing::default();
        listing
            .entries
            .insert(b"dir".to_vec(), listed(Kind::Directory, 0));
        listing
            .entries
            .insert(b"dir/new".to_vec(), listed(Kind::File, 1));
        let changes = host_changes(&began, &listing, i64::MAX);
        let found: Vec<_> = changes
            .iter()
            .map(|change| (&*change.path, change.now.is_some()))
            .collect();
        assert_eq!(found, [(&b"dir/new"[..], true), (b"gone", false)]);
        assert!(is_of_git(b"a/.git/config") && !is_of_git(b"a/.gitignore"));
    }
}
