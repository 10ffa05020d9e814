//! Comparing the guest's tree with what its copy began with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use snowglobe_init::wire::tree::{EntryKind, TreeEntry, escape};

use super::super::guest_tree::{GuestTree, Reached};
use super::super::sync::is_as_began;
use super::super::{Sandbox, SandboxError};
use super::judge::judge;
use crate::blocking::blocking;
use crate::copy::{Began, BeganFiles, Content, Contents, CopyError, Kind, Known, is_of_git};
use crate::progress::Progress;
use crate::review::changes::{Change, Differing, changes};
use crate::review::diff::LONGEST;
use crate::review::entry::{Entry, same, unread};
use crate::review::flags::{self, LARGE};
use crate::review::git_diff::shown;
use crate::review::report::Selection;
use crate::review::root::Root;
use crate::review::select::may_take;
use crate::workspace::SharedDir;

/// The copy, compared.
pub(in super::super) struct Compared {
    pub(super) began: Began,
    pub(super) changes: Vec<Change>,
    /// The directories that the guest does not have any more, and those that it made.
    pub(super) gone: BTreeSet<Vec<u8>>,
    pub(super) made: BTreeSet<Vec<u8>>,
    pub(super) guest: GuestTree,
}

impl Sandbox {
    /// The directory of the host that was copied.
    pub(super) fn host_root(&self) -> Result<SharedDir, SandboxError> {
        self.workspace()
            .copied()
            .cloned()
            .ok_or(SandboxError::NoCopy)
    }

    pub(super) async fn review_contents(&self) -> Result<Contents, SandboxError> {
        Ok(Contents::at(
            self.on_disk(crate::disk::Store::contents).await?,
        ))
    }

    /// Compares the guest's tree with what the copy began with. Large files are read only if `taking` may take them, or if
    /// they may be a renamed file.
    pub(in super::super) async fn compared(
        &self,
        at: &Reached<'_>,
        taking: Option<&Selection>,
        progress: &Progress,
    ) -> Result<Compared, SandboxError> {
        progress.say("comparing the sandbox's files");
        let began = self.began(at.live).await?;
        let all = began.all();
        let known: Vec<_> = all.keys().filter(|path| !is_of_git(path)).collect();
        let excludes = self.excludes().await;
        let guest = self
            .guest_tree(at, began.base().is_of_git(), &excludes, &known)
            .await?;
        let contents = self.review_contents().await?;
        let differs = |path: &Vec<u8>| !is_as_began(all.get(path), guest.get(path));
        let paths: BTreeSet<&Vec<u8>> = known.into_iter().chain(guest.keys()).collect();
        let paths: Vec<Vec<u8>> = paths
            .into_iter()
            .filter(|path| differs(path))
            .cloned()
            .collect();
        let unread = unread_paths(&paths, &all, &guest, taking);
        let wanted: Vec<_> = paths
            .iter()
            .filter_map(|path| guest.get(path))
            .filter(|entry| entry.kind == EntryKind::File)
            .filter(|entry| entry.size <= LARGE || !unread.contains(&entry.path))
            .collect();
        let fetched = self.fetched(at, wanted, &contents).await?;
        let (root, protection) = (self.host_root()?, self.protected.now());
        let (guest, settled) = {
            let comparing = move || -> Result<_, SandboxError> {
                let (mut differing, mut touched) = (Vec::new(), Vec::new());
                let mut files = began.reader(&contents)?;
                for path in paths {
                    let is_unread = unread.contains(&path);
                    let old = all.get(&path);
                    let old =
                        old.map(|old| began_entry(&mut files, &contents, &path, old, is_unread));
                    let old = old.transpose()?;
                    let Some(new) = guest_entry(guest.get(&path), &fetched, is_unread) else {
                        continue;
                    };
                    if !same(old.as_ref(), new.as_ref()) {
                        differing.push(Differing { path, old, new });
                    } else if old == new {
                        touched.push(path);
                    }
                }
                let mut compared = Compared {
                    gone: directories(&differing, |one| (&one.old, &one.new)),
                    made: directories(&differing, |one| (&one.new, &one.old)),
                    changes: Vec::new(),
                    began,
                    guest,
                };
                let settled = settle(&mut compared, &mut differing, &root, &contents)?
                    | begins_as_touched(&mut compared, &touched);
                compared.changes = changes(differing);
                let now = compared.guest.keys().map(Vec::as_slice);
                flags::mark(&mut compared.changes, now, |path| all.contains_key(path));
                judge(&mut compared.changes, &root, &protection, &contents)?;
                Ok((compared, settled))
            };
            blocking(comparing).await?
        };
        if settled {
            self.set_began(at.live, guest.began.clone()).await?;
        }
        Ok(guest)
    }

    /// The hashes of files of the guest, by path; a file that can't be read has none.
    async fn fetched(
        &self,
        at: &Reached<'_>,
        wanted: Vec<&TreeEntry>,
        contents: &Contents,
    ) -> Result<BTreeMap<Vec<u8>, (String, u64)>, SandboxError> {
        let mut fetched = BTreeMap::new();
        let mut missing = Vec::new();
        for entry in wanted {
            let key = (entry.path.clone(), entry.ctime_ns, entry.size);
            let cache = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            match cache.get(&key).filter(|hash| contents.open(hash).is_ok()) {
                Some(hash) => {
                    fetched.insert(entry.path.clone(), (hash.clone(), entry.size));
                }
                None => missing.push(key),
            }
        }
        let files = missing
            .iter()
            .map(|(path, _, size)| (path.clone(), *size))
            .collect();
        let found = self.fetch(at, files, contents).await?;
        let mut cache = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() > 100_000 {
            cache.clear();
        }
        for ((path, ctime, size), found) in missing.into_iter().zip(found) {
            let Some((hash, length)) = found else {
                continue;
            };
            if length == size {
                cache.insert((path.clone(), ctime, size), hash.clone());
            }
            fetched.insert(path, (hash, length));
        }
        Ok(fetched)
    }
}

/// The paths whose large files are not read: what can't be a renamed file, and what a selection doesn't take. Pure.
fn unread_paths(
    paths: &[Vec<u8>],
    all: &BTreeMap<Vec<u8>, Known>,
    guest: &GuestTree,
    taking: Option<&Selection>,
) -> BTreeSet<Vec<u8>> {
    let old = |path: &Vec<u8>| {
        let known = all.get(path).filter(|known| known.kind == Kind::File);
        known.map(|known| known.size).filter(|size| *size > LARGE)
    };
    let new = |path: &Vec<u8>| {
        let entry = guest.get(path);
        let entry = entry.filter(|entry| entry.kind == EntryKind::File);
        entry.map(|entry| entry.size).filter(|size| *size > LARGE)
    };
    let went = |path: &Vec<u8>| old(path).filter(|_| !guest.contains_key(path));
    let came = |path: &Vec<u8>| new(path).filter(|_| !all.contains_key(path));
    let all_went: BTreeSet<u64> = paths.iter().filter_map(went).collect();
    let all_came: BTreeSet<u64> = paths.iter().filter_map(came).collect();
    let is_unread = |path: &&Vec<u8>| {
        let is_large = old(path).or(new(path)).is_some();
        let may_be_renamed = went(path).is_some_and(|size| all_came.contains(&size))
            || came(path).is_some_and(|size| all_went.contains(&size));
        let is_taken = taking.is_some_and(|taking| may_take(taking, path, new(path).is_some()));
        is_large && !may_be_renamed && !is_taken
    };
    paths.iter().filter(is_unread).cloned().collect()
}

/// A file of the guest whose content is not read.
pub(super) fn unread_file(entry: &TreeEntry) -> Entry {
    Entry::File {
        hash: unread(&entry.ctime_ns.to_string()),
        size: entry.size,
        mode: entry.mode,
    }
}

/// Files that were written anew with what they had, or got their mode back, are as they began. Gives whether there were
/// such.
fn begins_as_touched(compared: &mut Compared, touched: &[Vec<u8>]) -> bool {
    let mut any = false;
    for path in touched {
        let known = compared.began.get(path);
        if let (Some(known), Some(entry)) = (known, compared.guest.get(path))
            && known.guest_ctime_ns != entry.ctime_ns
        {
            let guest_ctime_ns = entry.ctime_ns;
            let known = Known {
                guest_ctime_ns,
                ..known
            };
            compared.began.set(path, Some(known));
            any = true;
        }
    }
    any
}

/// A content, unless it is too long to be shown.
pub(super) fn readable(
    contents: &Contents,
    hash: &str,
    size: u64,
) -> Result<Option<Vec<u8>>, CopyError> {
    match size <= LONGEST {
        true => contents.read(hash).map(Some),
        false => Ok(None),
    }
}

pub(super) fn hunks(change: &Change, contents: &Contents) -> usize {
    let shown = shown(change, &mut |hash, size| readable(contents, hash, size));
    let hunks = shown.ok().and_then(|shown| shown.hunks);
    hunks.map_or(0, |diff| diff.hunks.len())
}

/// The entry that a copy began with. Its content is kept, unless it is too long to be shown; that of a large file is not
/// even read if `is_unread`.
pub(super) fn began_entry(
    files: &mut BeganFiles<'_>,
    contents: &Contents,
    path: &[u8],
    known: &Known,
    is_unread: bool,
) -> Result<Entry, CopyError> {
    Ok(match known.kind {
        Kind::Directory => Entry::Directory { mode: known.mode },
        Kind::Link => Entry::Link {
            target: known.target.clone(),
        },
        Kind::File => {
            let hash = match &known.content {
                Content::Kept(hash) => hash.clone(),
                Content::Base if known.size <= LONGEST => {
                    let mut bytes = Vec::new();
                    files.read(path, &mut bytes)?;
                    contents.add(&mut bytes.as_slice(), bytes.len() as u64)?
                }
                Content::Base if is_unread && known.size > LARGE => unread("as it began"),
                Content::Base => files.hash(path)?,
            };
            Entry::File {
                hash,
                size: known.size,
                mode: known.mode,
            }
        }
    })
}

/// The entry of the guest; `None`: nothing can be said of it. A large file was not fetched if `is_unread`.
#[allow(clippy::option_option, reason = "absent and unknown are two answers")]
pub(super) fn guest_entry(
    entry: Option<&TreeEntry>,
    fetched: &BTreeMap<Vec<u8>, (String, u64)>,
    is_unread: bool,
) -> Option<Option<Entry>> {
    let Some(entry) = entry else {
        return Some(None);
    };
    match entry.kind {
        EntryKind::Directory => Some(Some(Entry::Directory { mode: entry.mode })),
        EntryKind::Link => Some(Some(Entry::Link {
            target: escape(&entry.target),
        })),
        EntryKind::File if is_unread && entry.size > LARGE => Some(Some(unread_file(entry))),
        EntryKind::File => {
            let (hash, size) = fetched.get(&entry.path)?.clone();
            Some(Some(Entry::File {
                hash,
                size,
                mode: entry.mode,
            }))
        }
        // The host has no such thing either.
        EntryKind::Other => None,
        EntryKind::Absent => Some(None),
    }
}

/// The directories that one side has and the other has not.
pub(super) fn directories(
    differing: &[Differing],
    sides: impl Fn(&Differing) -> (&Option<Entry>, &Option<Entry>),
) -> BTreeSet<Vec<u8>> {
    let only = differing
        .iter()
        .filter(|one| matches!(sides(one), (Some(Entry::Directory { .. }), None)));
    only.map(|one| one.path.clone()).collect()
}

/// What is known of an entry that both sides have. `guest_ctime_ns` is 0 if the guest's may differ.
pub(super) fn known(entry: Entry, guest_ctime_ns: i64) -> Known {
    let (kind, mode, size, target, content) = match entry {
        Entry::File { hash, size, mode } => (
            Kind::File,
            mode & 0o777,
            size,
            String::new(),
            Content::Kept(hash),
        ),
        Entry::Directory { mode } => (
            Kind::Directory,
            mode & 0o777,
            0,
            String::new(),
            Content::Base,
        ),
        Entry::Link { target } => (Kind::Link, 0o777, 0, target, Content::Base),
    };
    Known {
        kind,
        mode,
        size,
        target,
        content,
        host: None,
        guest_ctime_ns,
    }
}

/// What differs from the beginning but not from the host is no change: it was applied by other means. Gives whether there
/// was such.
pub(super) fn settle(
    compared: &mut Compared,
    differing: &mut Vec<Differing>,
    root: &SharedDir,
    contents: &Contents,
) -> Result<bool, SandboxError> {
    let host = Root::new(root.dir());
    let mut settled = Vec::new();
    differing.retain(|one| {
        if one.new.as_ref().is_some_and(Entry::is_unread)
            || !host
                .may_have(&one.path, one.new.as_ref())
                .unwrap_or_default()
        {
            return true;
        }
        let Ok(found) = host.look(&one.path, contents) else {
            return true;
        };
        let is_settled = same(found.as_ref(), one.new.as_ref());
        if is_settled {
            settled.push((one.path.clone(), one.new.clone()));
        }
        !is_settled
    });
    let any = !settled.is_empty();
    for (path, new) in settled {
        let ctime = compared.guest.get(&path).map_or(0, |entry| entry.ctime_ns);
        compared.began.set(&path, new.map(|new| known(new, ctime)));
    }
    Ok(any)
}
