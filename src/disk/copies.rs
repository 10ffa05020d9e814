//! The disks of workspaces that are copies. Such a disk survives its machines.
//!
//! ```text
//! <data>/sandboxes/<name>/bases/<id>/           a tree of the host as a disk, never changed again
//!                        /trees/<id>.json       how the tree that a copy began with differs from its base
//!                        /contents/<hash>       contents that such a tree needs
//!                        /copies/kept/          the copy of the sandbox that stays, or of a session
//!                        /copies/<id>/          of a sandbox that ends with its client
//!                                   /lock       held while its sandbox lives
//!                                   /copy.json  its layers
//!                                   /unapplied  how many changes it was left with that were not applied
//!                        /making                held (shared) while bases, trees or contents are made that nothing names yet
//! ```
//!
//! The bases, trees and contents of sessions are in the store of the sandbox itself ([`Store::origin`]), so sessions share
//! them. A copy of another name than `kept` whose lock is free is garbage. A base or a tree that neither a copy nor a
//! snapshot names, of this store or of one of its sessions, is garbage, and so is a base that a killed process has left
//! incomplete.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{StoreError, io_error};
use super::record::CopiedWorkspace;
use super::store::{Store, entries, left_behind};
use crate::{files, presence, private};

/// The directory of a sandbox's timeline.
const TIMELINE: &str = "timeline";

/// The version of the records written here.
const VERSION: u32 = 1;

/// The copy of a sandbox that stays.
const KEPT: &str = "kept";

/// The file whose lock shows that the copy's sandbox lives.
const LOCK: &str = "lock";

/// The file that names a copy's layers.
const RECORD: &str = "copy.json";

/// The file that is locked while something is made that nothing names yet.
const MAKING: &str = "making";

/// The file that says how many changes a copy was left with.
const UNAPPLIED: &str = "unapplied";

/// The disk in a base's directory.
const DISK: &str = "disk.raw";

/// The list of what is in a base, written once its disk is complete.
const LIST: &str = "tree.json";

/// The path of the disk in a base's directory.
pub fn base_disk(base: &Path) -> PathBuf {
    base.join(DISK)
}

/// The path of the list in a base's directory.
pub fn base_list(base: &Path) -> PathBuf {
    base.join(LIST)
}

/// A copy as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// The disk, with the layers that are there for certain.
    disk: CopiedWorkspace,
    /// A layer on top that an engine was told to make. It belongs to the disk if it is there.
    next: Option<String>,
    /// Whether its first machine has not come up yet, so that it may lack what the host has beyond the base.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unready: bool,
}

/// The place of a sandbox's copy. While it exists, no other sandbox uses the copy.
#[derive(Debug)]
pub struct CopyPlace {
    dir: PathBuf,
    kept: bool,
    _lock: File,
}

impl Drop for CopyPlace {
    fn drop(&mut self) {
        if !self.kept {
            left_behind(&self.dir, files::remove_dir(&self.dir));
        }
    }
}

impl CopyPlace {
    /// Whether the copy stays when its sandbox ends.
    pub fn stays(&self) -> bool {
        self.kept
    }

    /// The copy's disk; `None` before there is one that a machine has used. Its last layer may have been written by a
    /// machine that has ended.
    pub fn read(&self, store: &Store) -> Result<Option<CopiedWorkspace>, StoreError> {
        let Some(record) = read(&self.dir)?.filter(|record| !record.unready) else {
            return Ok(None);
        };
        let mut disk = record.disk;
        if let Some(next) = record.next {
            let path = store.layer(&next);
            if presence::is_file(&path).map_err(io_error("look for", &path))? {
                disk.layers.push(next);
                if store
                    .check_layers(&base_disk(&disk.base), &disk.layers)
                    .is_err()
                {
                    // The engine copied the newest layer instead of adding one on top.
                    disk.layers.pop();
                }
            }
        }
        Ok(Some(disk))
    }

    /// Notes the disk of a new copy down, so that no sweep takes it. It does not count before [`Self::write`].
    pub fn begin(&self, disk: &CopiedWorkspace) -> Result<(), StoreError> {
        self.note(disk, None, true)
    }

    /// Notes down how many changes the copy is left with that were not applied; `None`: that is unknown, since it is used.
    pub fn note_unapplied(&self, count: Option<u64>) -> Result<(), StoreError> {
        let path = self.dir.join(UNAPPLIED);
        let noted = match count {
            Some(count) => files::replace(&path, count.to_string().as_bytes()),
            None => files::remove_file(&path),
        };
        noted.map_err(io_error("write", &path))
    }

    /// How many changes the copy was left with that were not applied, if that is known.
    pub fn unapplied(&self) -> Result<Option<u64>, StoreError> {
        unapplied(&self.dir)
    }

    /// Notes the copy's disk down, before a command writes to it. `next` is a layer that an engine is told to add.
    pub fn write(&self, disk: &CopiedWorkspace, next: Option<&str>) -> Result<(), StoreError> {
        self.note(disk, next, false)
    }

    fn note(
        &self,
        disk: &CopiedWorkspace,
        next: Option<&str>,
        unready: bool,
    ) -> Result<(), StoreError> {
        let record = Record {
            version: VERSION,
            disk: disk.clone(),
            next: next.map(str::to_owned),
            unready,
        };
        let path = self.dir.join(RECORD);
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(io_error("write", &path))
    }
}

fn unapplied(dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(UNAPPLIED);
    let text = presence::read(&path).map_err(io_error("read", &path))?;
    Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()))
}

fn read(dir: &Path) -> Result<Option<Record>, StoreError> {
    let path = dir.join(RECORD);
    let Some(text) = presence::read(&path).map_err(io_error("read", &path))? else {
        return Ok(None);
    };
    let unclear = |problem: String| StoreError::Unclear {
        path: path.clone(),
        problem,
    };
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| unclear(format!("is no record of a copied workspace ({error})")))?;
    match record.version {
        VERSION => Ok(Some(record)),
        other => Err(unclear(format!("is of another version ({other})"))),
    }
}

impl Store {
    /// The store of the sandbox itself, where this one is that of a session.
    pub fn origin(&self) -> &Self {
        self.session.as_ref().map_or(self, |session| &session.from)
    }

    /// The place of the copy of this store's sandbox: with `kept` the one that stays, else a new one.
    pub fn copy_place(&self, kept: bool) -> Result<CopyPlace, StoreError> {
        let name = match kept {
            true => KEPT.to_owned(),
            false => format!("{:08x}", rand::random::<u32>()),
        };
        let dir = self.dir.join("copies").join(name);
        let _held = self.lock()?;
        private::dir(&dir).map_err(io_error("make the directory", &dir))?;
        let path = dir.join(LOCK);
        let lock = files::try_lock(&path).map_err(io_error("lock", &path))?;
        let lock = lock.ok_or_else(|| StoreError::CopyInUse { dir: dir.clone() })?;
        Ok(CopyPlace {
            dir,
            kept,
            _lock: lock,
        })
    }

    /// Whether the sandbox that stays has a copy of its directory, as far as that can be told.
    pub(super) fn has_copy(&self) -> bool {
        let record = self.dir.join("copies").join(KEPT).join(RECORD);
        presence::is_name(&record).unwrap_or(true)
    }

    /// How many changes the copy of the sandbox that stays was left with, if that is known.
    pub(super) fn unapplied(&self) -> Option<u64> {
        unapplied(&self.dir.join("copies").join(KEPT)).ok()?
    }

    /// The directory for trees of the host as disks, made if it is not there.
    pub fn bases(&self) -> Result<PathBuf, StoreError> {
        self.shared_dir("bases")
    }

    /// The directory for the trees that copies began with, made if it is not there.
    pub fn trees(&self) -> Result<PathBuf, StoreError> {
        self.shared_dir("trees")
    }

    /// The directory for contents that these trees need, made if it is not there.
    pub fn contents(&self) -> Result<PathBuf, StoreError> {
        self.shared_dir("contents")
    }

    /// The directory for changes that were applied to the host, made if it is not there.
    pub fn applies(&self) -> Result<PathBuf, StoreError> {
        self.shared_dir("applies")
    }

    /// The directory of the sandbox's timeline, made if it is not there.
    pub fn timeline_dir(&self) -> Result<PathBuf, StoreError> {
        self.shared_dir(TIMELINE)
    }

    /// The path of that directory.
    pub fn timeline_path(&self) -> PathBuf {
        self.origin().dir.join(TIMELINE)
    }

    /// Keeps sweeps from taking bases, trees and contents that nothing names yet, until it is dropped.
    pub fn making(&self) -> Result<File, StoreError> {
        let path = self.origin().dir.join(MAKING);
        files::lock_shared(&path).map_err(io_error("lock", &path))
    }

    /// Whether nothing is made that nothing names yet; so it stays until the lock is dropped. None if something is.
    pub fn nothing_is_made(&self) -> Result<Option<File>, StoreError> {
        let path = self.origin().dir.join(MAKING);
        files::try_lock(&path).map_err(io_error("lock", &path))
    }

    fn shared_dir(&self, name: &str) -> Result<PathBuf, StoreError> {
        let dir = self.origin().dir.join(name);
        private::dir(&dir).map_err(io_error("make the directory", &dir))?;
        Ok(dir)
    }

    /// The layers of copies whose sandboxes stay or live.
    pub(super) fn layers_of_copies(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut used = BTreeSet::new();
        for record in self.copies()?.into_iter().filter_map(|copy| copy.record) {
            used.extend(record.disk.layers);
            used.extend(record.next);
        }
        Ok(used)
    }

    /// The directories of copies whose sandbox ended with its client.
    pub(super) fn dead_copies(&self) -> Result<Vec<PathBuf>, StoreError> {
        let dead = self.copies()?.into_iter().filter(|copy| copy.dead);
        Ok(dead.map(|copy| copy.dir).collect())
    }

    fn copies(&self) -> Result<Vec<Found>, StoreError> {
        let all = self.dir.join("copies");
        if !presence::is_name(&all).map_err(io_error("look for", &all))? {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for dir in entries(&all)? {
            let lock = dir.join(LOCK);
            let kept = dir.file_name().is_some_and(|name| name == KEPT);
            let dead =
                !kept && !presence::is_held(&lock).map_err(io_error("look at the lock", &lock))?;
            let record = match dead {
                true => None,
                false => read(&dir)?,
            };
            found.push(Found { dir, dead, record });
        }
        Ok(found)
    }

    /// What copies and snapshots of this sandbox and its sessions need: the names of bases and of trees.
    fn needed(&self) -> Result<(BTreeSet<PathBuf>, BTreeSet<String>), StoreError> {
        let all = self.dir.parent().unwrap_or(&self.dir);
        let (mut bases, mut trees) = (BTreeSet::new(), BTreeSet::new());
        for dir in entries(all)? {
            let store = Self::at(dir);
            if store.name.without_session() != self.name.without_session() {
                continue;
            }
            let of_copies = store.copies()?.into_iter().filter_map(|copy| copy.record);
            let mut disks: Vec<_> = of_copies.map(|record| record.disk).collect();
            disks.extend(store.workspaces_of_snapshots()?);
            for disk in disks {
                bases.insert(disk.base);
                trees.insert(disk.tree);
                trees.extend(disk.placing);
            }
        }
        Ok((bases, trees))
    }

    /// Removes bases and trees that nothing needs; gives the trees that stay. The newest base stays for the next copy. If
    /// it is uncertain what is needed, removes nothing. The caller holds [`Self::nothing_is_made`]. Blocks.
    pub fn sweep_bases(&self) -> Result<Vec<PathBuf>, StoreError> {
        let origin = self.origin();
        let _held = origin.lock()?;
        let (bases, trees) = origin.needed()?;
        let (mut all, incomplete): (Vec<_>, Vec<_>) = entries(&origin.bases()?)?
            .into_iter()
            .partition(|base| presence::is_file(&base_list(base)).unwrap_or(true));
        // The directory of a base does not change once it is complete.
        all.sort_by_key(|base| fs::metadata(base).and_then(|meta| meta.modified()).ok());
        all.pop();
        all.extend(incomplete);
        let (kept, removed): (Vec<_>, Vec<_>) =
            entries(&origin.trees()?)?.into_iter().partition(|path| {
                path.file_stem()
                    .is_some_and(|id| trees.iter().any(|tree| id == tree.as_str()))
            });
        for base in all.into_iter().filter(|base| !bases.contains(base)) {
            left_behind(&base, fs::remove_dir_all(&base));
        }
        for tree in removed {
            left_behind(&tree, fs::remove_file(&tree));
        }
        Ok(kept)
    }
}

/// A copy in a store.
struct Found {
    dir: PathBuf,
    /// Whether its sandbox ended with its client.
    dead: bool,
    record: Option<Record>,
}
