//! The rules applied to a real tree: what they see of it, and the paths of the files that a request names.
//!
//! Paths here are those of the tree that the rules see ([`Outside`]).
//!
//! A change is judged and made under one lock, so nothing that the guest does comes between. What a node is called is checked
//! before: the host may have moved a directory since.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{FileType, Mode, OFlags, RawDir, Statx};
use rustix::io::Errno;
use snowglobe_runner::Share;
use snowglobe_runner::protection::{Effect, READ_ONLY, ROOM, TOO_LONG};

use super::known::lock;
use super::refusals::Refusals;
use super::room::Room;
use super::rules::{Change, Finding, Kind, Look, Outside, Rules, RulesError, Verdict};
use super::status::{status, type_of};

/// The room for names of a directory that are read at once, in bytes.
const NAMES: usize = 32 << 10;

/// The rules of a share, and its directory.
#[derive(Debug)]
pub(super) struct Judge {
    share: Share,
    rules: RwLock<Rules>,
    root: OwnedFd,
    outside: Outside,
    changes: Mutex<()>,
    refusals: Refusals,
    room: Room,
}

/// The rules that the settings of a share make.
fn rules_of(share: &Share) -> Result<Rules, RulesError> {
    let rules = Rules::new(&share.protection)?;
    Ok(match share.repository.clone() {
        Some(repository) => rules.for_repository(repository),
        None => rules,
    })
}

impl Judge {
    /// The rules for a share, whose directory is `root`.
    pub(super) fn new(share: &Share, root: OwnedFd, room: Room) -> Result<Self, RulesError> {
        Ok(Self {
            rules: RwLock::new(rules_of(share)?),
            share: share.clone(),
            root,
            outside: Outside::of(share),
            changes: Mutex::new(()),
            refusals: Refusals::default(),
            room,
        })
    }

    /// Replaces the effects of the rules, between two changes. A wrong id changes nothing.
    pub(super) fn set_rules(&self, rules: BTreeMap<String, Effect>) -> Result<(), RulesError> {
        let mut changed = self.share.clone();
        changed.protection.rules = rules;
        let changed = rules_of(&changed)?;
        // A change under way is weighed and judged by the same rules.
        let _alone = self.alone();
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(())
    }

    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes that were refused and not told yet.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    fn sight(&self) -> Sight<'_> {
        Sight {
            root: self.root.as_fd(),
            outside: &self.outside,
        }
    }

    /// The path in the tree of what is at a path in the shared directory.
    pub(super) fn in_tree(&self, path: &[u8]) -> Vec<u8> {
        self.outside.in_tree(path)
    }

    /// Lets no other change be made for as long as it is held.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.changes)
    }

    /// Whether any file looks absent to the guest.
    pub(super) fn hides_any(&self) -> bool {
        !self.share.protection.hide.is_empty()
    }

    /// Whether a path looks absent to the guest.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.rules().hides(path)
    }

    /// Whether the contents of the file at a path decide about a change.
    pub(super) fn weighs(&self, path: &[u8]) -> io::Result<bool> {
        self.rules().weighs(path, &self.sight())
    }

    /// Refuses a change that a rule forbids.
    pub(super) fn allow(&self, change: &Change<'_>) -> io::Result<()> {
        let verdict = self.rules().check(change, &self.sight());
        // A person is asked afterwards: nothing in the guest waits for one.
        let (finding, asks) = match verdict {
            Verdict::Allow => return Ok(()),
            Verdict::Deny(finding) => (finding, false),
            Verdict::Ask(finding) => (finding, true),
        };
        let error = match finding.rule {
            READ_ONLY => Errno::ROFS,
            TOO_LONG => Errno::NAMETOOLONG,
            _ => Errno::PERM,
        };
        self.refusals.add(finding, asks);
        Err(error.into())
    }

    /// Takes room on the host's disk for a write to a file.
    pub(super) fn take_room(&self, paths: &[Vec<u8>], bytes: u64) -> io::Result<()> {
        let taken = self.room.take(bytes);
        if taken.is_err() {
            let path = paths.first().map(Vec::as_slice).unwrap_or_default();
            self.refusals.add(Finding::new(ROOM, path, ""), false);
        }
        taken
    }

    /// The status of the file at a path; `None`: there is none.
    pub(super) fn found_at(&self, path: &[u8]) -> io::Result<Option<Statx>> {
        self.sight().status(path)
    }
}

/// The tree below a directory.
struct Sight<'a> {
    root: BorrowedFd<'a>,
    outside: &'a Outside,
}

impl Sight<'_> {
    /// The directory that contains the path's last name, and that name, or the shared directory and `.`; `None`: there is
    /// none. No link is followed.
    fn find(&self, path: &[u8]) -> io::Result<Option<(OwnedFd, CString)>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(path) = self.outside.in_share(path) else {
            return Ok(None);
        };
        let mut directory = self.root.try_clone_to_owned()?;
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let name = match name {
                b"" => c".".to_owned(),
                name => CString::new(name)?,
            };
            if names.peek().is_none() {
                return Ok(Some((directory, name)));
            }
            directory = match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                opened => opened?,
            };
        }
        Ok(None)
    }

    fn status(&self, path: &[u8]) -> io::Result<Option<Statx>> {
        let Some((directory, name)) = self.find(path)? else {
            return Ok(None);
        };
        match status(directory.as_fd(), &name) {
            Err(Errno::NOENT) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let Some((directory, name)) = self.find(path)? else {
            return Ok(None);
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }
}

fn kind_of(stat: &Statx) -> Kind {
    match type_of(stat) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    }
}

impl Look for Sight<'_> {
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>> {
        if self.kind(path)? != Some(Kind::File) {
            return Ok(None);
        }
        let Some(file) = self.open(path, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let file = std::fs::File::from(file);
        let mut bytes = vec![0; at_most];
        let mut length = 0;
        while length < at_most {
            match file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                read => length += read,
            }
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
        Ok(self.status(path)?.map(|stat| kind_of(&stat)))
    }

    fn links(&self, path: &[u8]) -> io::Result<u64> {
        let stat = self.status(path)?.ok_or(Errno::NOENT)?;
        Ok(stat.stx_nlink.into())
    }

    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
        let Some(directory) = self.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut buffer = Vec::with_capacity(NAMES);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            names.push(name);
            if names.len() > at_most {
                break;
            }
        }
        Ok(names)
    }

    fn outside(&self) -> &Outside {
        self.outside
    }
}
