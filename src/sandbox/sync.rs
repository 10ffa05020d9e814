//! Bringing the host's newer files into a copied workspace.
//!
//! A file that the guest did not change becomes the host's. One that both changed stays as it is in the guest, and is
//! named. Git's own files, and what git ignores, are brought only into a copy that no command has used yet: later they are
//! the guest's. Its commits come to the host in another way.
//!
//! What the guest is given is noted down first. If the machine ends meanwhile, some of the files may be there, others
//! not, or without their content; so the next machine is given all of them again before a command runs.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use snowglobe_init::wire::tree::{EntryKind, Placed, PlacedResult, TreeEntry, escape};

use super::guest_tree::Reached;
use super::state::Live;
use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::copy::{
    Began, BeganFiles, Content, Contents, CopyError, HostChange, Kind, Known, Listed, Listing,
    Source, host_changes, is_of_git,
};
use crate::disk::Store;
use crate::progress::Progress;
use crate::review::report::{Done, Step};
use crate::timeline::WorkspaceChange;

/// How many bytes of files are compared to count the host's newer ones.
const COMPARED: u64 = 64 << 20;

/// A change of the host, with its content kept.
struct Newer {
    path: Vec<u8>,
    now: Option<(Listed, Option<File>, Content)>,
}

impl Sandbox {
    /// Brings in what the host changed since.
    pub async fn sync(self: &Arc<Self>, progress: &Progress) -> Result<Done, SandboxError> {
        let _alone = self.alone().await?;
        let (live, guest) = self.ready(progress).await?;
        let at = Reached { live: &live, guest };
        // An attempt before may have failed halfway.
        self.bring_in_again(&at).await?;
        progress.say("comparing with the host's files");
        let mut done = self.bring_in(&at, None).await?;
        if !done.conflicts.is_empty() {
            // To compare finds what both sides changed in the same way: that is no change any more.
            self.compared(&at, None, progress).await?;
            let again = self.bring_in(&at, None).await?;
            done = Done {
                done: [done.done, again.done].concat(),
                ..again
            };
        }
        self.note_review(WorkspaceChange::Synced, &done);
        Ok(done)
    }

    /// The same for a machine's guest. `fresh` is what the host has, if no command has used the copy yet.
    pub(super) async fn bring_in(
        &self,
        at: &Reached<'_>,
        fresh: Option<Listing>,
    ) -> Result<Done, SandboxError> {
        let _making = self.on_disk(Store::making).await?;
        let began = self.began(at.live).await?;
        let is_unused = fresh.is_some();
        let newer = self.newer(&began, fresh).await?;
        let mut done = Done::default();
        if newer.is_empty() {
            return Ok(done);
        }
        let guest = match is_unused {
            true => None,
            false => {
                let paths: Vec<_> = newer.iter().map(|newer| &newer.path).collect();
                Some(self.look_at(at, &paths).await?)
            }
        };
        let (mut changes, mut next) = (Vec::new(), began.clone());
        for Newer { path, now } in newer {
            let ignored = now.as_ref().is_some_and(|(listed, ..)| listed.ignored);
            if let Some(guest) = &guest
                && !is_as_began(began.get_also_ignored(&path).as_ref(), guest.get(&path))
            {
                done.conflicts
                    .push(step(&path, "the sandbox changed it, too"));
                continue;
            }
            let change = Change {
                ignored,
                ..placed(&path, now)
            };
            note(&mut next, &change.path, change.known.clone(), ignored);
            changes.push(change);
        }
        if !is_unused {
            self.set_placing(at.live, next).await?;
        }
        self.give(at, began, changes, &mut done).await?;
        Ok(done)
    }

    /// Gives the guest again what it was being given when its machine ended.
    pub(super) async fn bring_in_again(&self, at: &Reached<'_>) -> Result<(), SandboxError> {
        let Some(copy) = &at.live.workspace else {
            return Ok(());
        };
        let disk = copy.disk();
        let Some(placing) = disk.placing else {
            return Ok(());
        };
        let began = self.began(at.live).await?;
        let (store, before) = (self.store.clone(), began.clone());
        let changes = blocking(move || -> Result<Vec<Change>, SandboxError> {
            let contents = Contents::at(store.contents()?);
            let next = Began::read(&disk.base, &store.trees()?, &placing)?;
            let mut changes = before.differing(&next);
            changes.sort_by(|(a, known_a), (b, known_b)| order((a, known_a), (b, known_b)));
            let change = |(path, known)| again(path, known, &contents);
            Ok(changes.into_iter().map(change).collect::<Result<_, _>>()?)
        });
        self.give(at, began, changes.await?, &mut Done::default())
            .await
    }

    /// Gives changes to the guest, and notes down what became of them.
    async fn give(
        &self,
        at: &Reached<'_>,
        mut began: Began,
        changes: Vec<Change>,
        done: &mut Done,
    ) -> Result<(), SandboxError> {
        let _changing = self.read_ahead.changing();
        let (mut all, mut known) = (Vec::new(), Vec::new());
        for change in changes {
            all.push((change.placed, change.file));
            known.push((change.path, change.known, change.ignored));
        }
        let results = self.place(at, all).await?;
        for ((path, now, ignored), result) in known.into_iter().zip(results) {
            match result {
                PlacedResult::Failed(why) => done.left.push(step(&path, &why)),
                PlacedResult::Done(guest_ctime_ns) => {
                    let what = match now {
                        Some(_) => "written",
                        None => "removed",
                    };
                    done.done.push(step(&path, what));
                    let now = now.map(|now| Known {
                        guest_ctime_ns,
                        ..now
                    });
                    note(&mut began, &path, now, ignored);
                }
            }
        }
        self.set_began(at.live, began).await
    }

    /// What the host may have changed since; contents are not compared. `fresh` is what the host has, if no command has
    /// used the copy yet: then git's own files and those that it ignores count, too. The function that is given blocks.
    fn host_changed(
        &self,
        began: Began,
        fresh: Option<Listing>,
    ) -> Result<impl FnOnce() -> Result<Vec<HostChange>, CopyError> + Send + use<>, SandboxError>
    {
        let list = self.listing()?;
        Ok(move || {
            let is_unused = fresh.is_some();
            let listing = match fresh {
                Some(listing) => listing,
                None => list()?,
            };
            let stamp = began.base().stamp_ns();
            if is_unused {
                return Ok(host_changes(&began.all_also_ignored(), &listing, stamp));
            }
            let mut changes = host_changes(&began.all(), &listing, stamp);
            changes.retain(|change| {
                let ignored = change.now.as_ref().is_some_and(|now| now.ignored);
                !ignored && !is_of_git(&change.path)
            });
            Ok(changes)
        })
    }

    /// What the host changed since, with contents.
    async fn newer(
        &self,
        began: &Began,
        fresh: Option<Listing>,
    ) -> Result<Vec<Newer>, SandboxError> {
        let host_changed = self.host_changed(began.clone(), fresh)?;
        let (began, store) = (began.clone(), self.store.clone());
        let root = self.config.sandbox.project_dir.clone();
        let find = move || -> Result<Vec<Newer>, SandboxError> {
            let changes = host_changed()?;
            let contents = Contents::at(store.contents()?);
            let mut newer = Vec::new();
            let mut files = began.reader(&contents)?;
            for change in changes {
                if let Some(found) = with_content(&mut files, &contents, &root, change)? {
                    newer.push(found);
                }
            }
            newer.sort_by(|a, b| order((&a.path, &a.now), (&b.path, &b.now)));
            Ok(newer)
        };
        blocking(find).await
    }

    /// How many of the host's files are newer. Contents of up to [`COMPARED`] bytes are compared where nothing else tells.
    pub(super) async fn count_newer(&self, began: &Began) -> Result<usize, SandboxError> {
        let host_changed = self.host_changed(began.clone(), None)?;
        let (began, store) = (began.clone(), self.store.clone());
        let root = self.config.sandbox.project_dir.clone();
        let count = move || -> Result<usize, SandboxError> {
            let contents = Contents::at(store.contents()?);
            let mut files = began.reader(&contents)?;
            let (mut left, mut count) = (COMPARED, 0);
            for change in host_changed()? {
                let is_newer = match change.now.filter(|_| change.unsure) {
                    None => true,
                    Some(listed) if listed.size <= left => {
                        left -= listed.size;
                        let content = opened(&listed, &root, &change.path);
                        let now = content.and_then(|content| {
                            Contents::hash(&mut io::Read::take(content, listed.size))
                        });
                        // A file that can't be read any more has changed again.
                        now.ok() != Some(files.hash(&change.path)?)
                    }
                    Some(_) => false,
                };
                count += usize::from(is_newer);
            }
            Ok(count)
        };
        blocking(count).await
    }

    /// What the copy began with.
    pub(super) async fn began(&self, live: &Live) -> Result<Began, SandboxError> {
        let Some(copy) = &live.workspace else {
            return Err(SandboxError::NoCopy);
        };
        let (disk, store) = (copy.disk(), self.store.clone());
        blocking(move || Ok(Began::read(&disk.base, &store.trees()?, &disk.tree)?)).await
    }

    /// Notes down what the copy began with, from now on.
    pub(super) async fn set_began(&self, live: &Live, began: Began) -> Result<(), SandboxError> {
        let Some(copy) = &live.workspace else {
            return Err(SandboxError::NoCopy);
        };
        let _making = self.on_disk(Store::making).await?;
        copy.set_tree(self.stored(began).await?);
        self.note_copy(live, None).await
    }

    /// Notes down what the copy is being given, before it is.
    async fn set_placing(&self, live: &Live, next: Began) -> Result<(), SandboxError> {
        let Some(copy) = &live.workspace else {
            return Err(SandboxError::NoCopy);
        };
        copy.set_placing(self.stored(next).await?);
        self.note_copy(live, None).await
    }

    /// Stores a tree with its contents; gives its name.
    pub(super) async fn stored(&self, tree: Began) -> Result<String, SandboxError> {
        let store = self.store.clone();
        blocking(move || {
            Contents::at(store.contents()?).sync()?;
            Ok(tree.write(&store.trees()?)?)
        })
        .await
    }
}

/// The order in which the guest is given changes: what lies in a directory goes before it, and comes after it.
fn order<T>((a, a_now): (&Vec<u8>, &Option<T>), (b, b_now): (&Vec<u8>, &Option<T>)) -> Ordering {
    match (a_now, b_now) {
        (None, None) => b.cmp(a),
        _ => a_now.is_some().cmp(&b_now.is_some()).then(a.cmp(b)),
    }
}

pub(super) fn step(path: &[u8], what: &str) -> Step {
    Step {
        path: escape(path),
        what: what.to_owned(),
    }
}

/// Whether the guest still has what the copy began with.
pub(super) fn is_as_began(began: Option<&Known>, guest: Option<&TreeEntry>) -> bool {
    let (Some(known), Some(entry)) = (began, guest) else {
        return began.is_none() && guest.is_none();
    };
    let mode = entry.mode == known.mode;
    match (known.kind, entry.kind) {
        (Kind::File, EntryKind::File) => {
            mode && entry.size == known.size && entry.ctime_ns == known.guest_ctime_ns
        }
        (Kind::Directory, EntryKind::Directory) => mode,
        (Kind::Link, EntryKind::Link) => escape(&entry.target) == known.target,
        _ => false,
    }
}

fn entry_kind(kind: Kind) -> EntryKind {
    match kind {
        Kind::File => EntryKind::File,
        Kind::Directory => EntryKind::Directory,
        Kind::Link => EntryKind::Link,
    }
}

/// A change that the guest is given.
struct Change {
    path: Vec<u8>,
    placed: Placed,
    file: Option<File>,
    /// What is known of it then, but for the guest's time.
    known: Option<Known>,
    /// Whether git ignores it.
    ignored: bool,
}

/// Notes what a path has now.
fn note(began: &mut Began, path: &[u8], now: Option<Known>, ignored: bool) {
    match ignored {
        true => began.set_ignored(path, now),
        false => began.set(path, now),
    }
}

/// The change that makes a path what the host has there.
fn placed(path: &[u8], now: Option<(Listed, Option<File>, Content)>) -> Change {
    let change = |placed, file, known| Change {
        path: path.to_vec(),
        placed,
        file,
        known,
        ignored: false,
    };
    let Some((listed, file, content)) = now else {
        let absent = Placed {
            path: escape(path),
            kind: EntryKind::Absent,
            mode: 0,
            mtime_ns: 0,
            size: 0,
            target: String::new(),
        };
        return change(absent, None, None);
    };
    let placed = Placed {
        path: escape(path),
        kind: entry_kind(listed.kind),
        mode: listed.mode,
        mtime_ns: listed.mtime_ns,
        size: listed.size,
        target: escape(&listed.target),
    };
    let known = Known {
        kind: listed.kind,
        mode: listed.mode,
        size: listed.size,
        target: escape(&listed.target),
        content,
        host: Some(listed.stamp),
        guest_ctime_ns: 0,
    };
    change(placed, file, Some(known))
}

/// The change that makes a path what is known of it.
fn again(path: Vec<u8>, known: Option<Known>, contents: &Contents) -> Result<Change, CopyError> {
    let Some(known) = known else {
        return Ok(placed(&path, None));
    };
    let file = match &known.content {
        Content::Kept(hash) => Some(contents.open(hash)?),
        Content::Base => None,
    };
    let placed = Placed {
        path: escape(&path),
        kind: entry_kind(known.kind),
        mode: known.mode,
        // Its content changed no later than that.
        mtime_ns: known.host.map_or(0, |stamp| stamp.ctime_ns),
        size: known.size,
        target: known.target.clone(),
    };
    Ok(Change {
        path,
        placed,
        file,
        known: Some(known),
        // Those that git ignores are given to a copy only once, before its first command.
        ignored: false,
    })
}

/// Keeps the content of a changed file of the host; none if it has not changed after all.
fn with_content(
    files: &mut BeganFiles<'_>,
    contents: &Contents,
    root: &std::path::Path,
    change: HostChange,
) -> Result<Option<Newer>, CopyError> {
    let Some(mut listed) = change.now else {
        return Ok(Some(Newer {
            path: change.path,
            now: None,
        }));
    };
    if listed.kind != Kind::File {
        return Ok(Some(Newer {
            path: change.path,
            now: Some((listed, None, Content::Base)),
        }));
    }
    let mut content = opened(&listed, root, &change.path)?;
    listed.size = content.length;
    let hash = contents.add(&mut content, listed.size)?;
    if change.unsure && hash == files.hash(&change.path)? {
        return Ok(None);
    }
    let kept = contents.open(&hash)?;
    Ok(Some(Newer {
        path: change.path,
        now: Some((listed, Some(kept), Content::Kept(hash))),
    }))
}

/// The content of a file of the host, with its length as it is now.
struct Opened {
    content: Box<dyn io::Read>,
    length: u64,
}

impl io::Read for Opened {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.content.read(bytes)
    }
}

/// Opens a file of the host, if it is still no link.
fn opened(listed: &Listed, root: &std::path::Path, path: &[u8]) -> Result<Opened, CopyError> {
    let path = match listed.source(root, path) {
        Source::File(path) => path,
        Source::Text(text) => {
            return Ok(Opened {
                length: text.len() as u64,
                content: Box::new(io::Cursor::new(text.to_vec())),
            });
        }
    };
    let failed = |source: io::Error| CopyError::Io {
        operation: "read",
        path: path.clone(),
        source,
    };
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(&path)
        .map_err(failed)?;
    Ok(Opened {
        length: file.metadata().map_err(failed)?.len(),
        content: Box::new(file),
    })
}

#[cfg(test)]
mod tests;
