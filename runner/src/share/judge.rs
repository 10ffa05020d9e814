//! The rules applied to a share's directory, and the paths of the files that a request names.
//!
//! Paths here are those of the tree that the rules see ([`Outside`]).
//!
//! A change is judged and made under one lock, so nothing that the guest does comes between. What a node is called is checked
//! before: the host may have moved a directory since.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::Statx;
use rustix::io::Errno;
use snowglobe_runner::protection::{Effect, READ_ONLY, ROOM, TOO_LONG};
use snowglobe_runner::rules::directory::Directory;
use snowglobe_runner::rules::{Change, Finding, Outside, Rules, RulesError, Verdict};
use snowglobe_runner::{Answer, Share};

use super::known::lock;
use super::made::AllMade;
use super::refusals::Refusals;
use super::room::Room;

/// The rules of a share, and its directory.
#[derive(Debug)]
pub(super) struct Judge {
    share: Share,
    rules: RwLock<Rules>,
    root: OwnedFd,
    outside: Outside,
    changes: Mutex<()>,
    made: AllMade,
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
            made: AllMade::default(),
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

    /// The changes that were made or refused, and not told yet.
    pub(super) fn take_changes(&self) -> Answer {
        let (made, more) = self.made.take();
        let (refused, lost) = self.refusals.take();
        Answer::Changes {
            made,
            more,
            refused,
            lost,
        }
    }

    fn directory(&self) -> Directory<'_> {
        Directory::new(self.root.as_fd(), &self.outside)
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
        self.rules().weighs(path, &self.directory())
    }

    /// Refuses a change that a rule forbids.
    pub(super) fn allow(&self, change: &Change<'_>) -> io::Result<()> {
        let verdict = self.rules().check(change, &self.directory());
        // A person is asked afterwards: nothing in the guest waits for one.
        let (finding, asks) = match verdict {
            Verdict::Allow => {
                self.made.add(change);
                return Ok(());
            }
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
        self.directory().status(path)
    }
}
