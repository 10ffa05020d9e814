//! Snapshots: saving, finding and deleting them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::Merge;
use super::copies::base_disk;
use super::error::{StoreError, io_error};
use super::record::{Base, CopiedWorkspace, Record, VERSION};
use super::store::{BASE, Store, entries, taken};
use crate::names::SnapshotName;
use crate::{files, presence};

/// What a save may take.
#[derive(Debug, Clone, Copy)]
pub struct SaveLimits {
    /// What all snapshots of the sandbox may take together, in bytes.
    pub bytes: u64,
    /// Whether it may replace a snapshot of its name.
    pub replaces: bool,
    /// Whether the engine copies the newest layer.
    pub copies: bool,
}

/// What a save will take.
#[derive(Debug, Clone)]
pub struct SavePlan {
    /// What the snapshot keeps on the host's disk, in bytes.
    pub bytes: u64,
    /// What is free there, in bytes.
    pub free: u64,
    /// The merge of layers that comes first.
    pub merge: Option<Merge>,
}

impl Store {
    /// The configured snapshot that machines start from; a session's store has its own copy of that record.
    pub fn start(&self, name: &SnapshotName) -> Result<Record, StoreError> {
        match self
            .session
            .as_ref()
            .and_then(|session| session.start.as_ref())
        {
            Some((record, _)) => Ok(record.clone()),
            None => self.get(name),
        }
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    fn record_path(&self, name: &SnapshotName) -> PathBuf {
        self.snapshots().join(format!("{name}.json"))
    }

    fn read(&self, name: &SnapshotName) -> Result<Option<Record>, StoreError> {
        let damaged = |problem: String| StoreError::Damaged {
            name: name.clone(),
            problem,
        };
        let path = self.record_path(name);
        let read = presence::read(&path);
        let Some(text) =
            read.map_err(|e| damaged(format!("{} can't be read ({e})", path.display())))?
        else {
            return Ok(None);
        };
        let record: Record = serde_json::from_slice(&text).map_err(|e| {
            damaged(format!(
                "{} is no snapshot's record ({e}); move it away",
                path.display()
            ))
        })?;
        if record.version != VERSION || record.name != *name {
            return Err(damaged(format!(
                "{} belongs to another version or name; move it away",
                path.display()
            )));
        }
        Ok(Some(record))
    }

    /// Every snapshot, by name. A file that is no snapshot is skipped with a warning.
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        let dir = self.snapshots();
        let mut records = Vec::new();
        if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
            return Ok(records);
        }
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let file = entry.map_err(io_error("list", &dir))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            let name = name.and_then(|name| name.parse().ok());
            let record = name.map(|name| self.read(&name));
            match record {
                Some(Ok(Some(record))) => records.push(record),
                Some(Ok(None)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "skipped a file that is no snapshot")
                }
                None => tracing::warn!(?file, "skipped a file that is no snapshot"),
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn names(&self) -> Vec<SnapshotName> {
        self.list()
            .unwrap_or_default()
            .into_iter()
            .map(|record| record.name)
            .collect()
    }

    /// The record of that name, whatever became of its layers.
    fn must_have(&self, name: &SnapshotName) -> Result<Record, StoreError> {
        self.read(name)?.ok_or_else(|| StoreError::NotFound {
            name: name.clone(),
            known: self.names(),
        })
    }

    /// The snapshot of that name; fails if one of its layers is missing.
    pub fn get(&self, name: &SnapshotName) -> Result<Record, StoreError> {
        let record = self.must_have(name)?;
        let damaged = |path: &Path, what: String| StoreError::Damaged {
            name: name.clone(),
            problem: format!("its disk {} {what}", path.display()),
        };
        let bases = record
            .workspace
            .iter()
            .map(|copied| base_disk(&copied.base));
        for path in record
            .all_layers()
            .map(|layer| self.layer(layer))
            .chain([record.base.disk.clone()])
            .chain(bases)
        {
            match presence::is_file(&path) {
                Ok(true) => {}
                Ok(false) => return Err(damaged(&path, "is missing".into())),
                Err(e) => return Err(damaged(&path, format!("can't be read ({e})"))),
            }
        }
        Ok(record)
    }

    /// Fails if the name is taken, by a snapshot or by any other file.
    pub fn check_free(&self, name: &SnapshotName) -> Result<(), StoreError> {
        let path = self.record_path(name);
        match presence::is_name(&path).map_err(io_error("look for", &path))? {
            true => Err(StoreError::Exists(name.clone())),
            false => Ok(()),
        }
    }

    /// Fails if a snapshot of the layer `newest`, with `more` bytes in it, would make all snapshots of this sandbox, its sessions' included, take
    /// more than `limit` bytes.
    pub(super) fn check_size(
        &self,
        name: &SnapshotName,
        newest: &str,
        more: u64,
        limit: u64,
    ) -> Result<(), StoreError> {
        let adds = taken(&self.layer(newest)).saturating_add(more);
        let all = self.dir.parent().unwrap_or(&self.dir);
        let mut frozen = 0_u64;
        for dir in entries(all)? {
            let store = Store::at(dir);
            if store.name.without_session() != self.name.without_session() {
                continue;
            }
            // A store that is being made or removed has no snapshots.
            for layer in store.layers_of_snapshots().unwrap_or_default() {
                frozen = frozen.saturating_add(taken(&store.layer(&layer)));
            }
        }
        if frozen.saturating_add(adds) <= limit {
            return Ok(());
        }
        let known = self.list()?.into_iter();
        Err(StoreError::Full {
            name: name.clone(),
            adds,
            taken: frozen,
            limit,
            known: known.map(|record| (record.name, record.bytes)).collect(),
        })
    }

    /// What a save will take, known before anything is done: `layers` are the machine's. Fails if the name is taken and not
    /// to be replaced, if snapshots would take more than `limit` bytes, or if the host's disk has no room for a copy, where
    /// the engine `copies`. Blocks.
    pub fn plan_save(
        &self,
        name: &SnapshotName,
        disk: &Path,
        layers: &[String],
        limits: SaveLimits,
    ) -> Result<SavePlan, StoreError> {
        if !limits.replaces {
            self.check_free(name)?;
        }
        let newest = layers.last().map_or("", String::as_str);
        let mut merge = self.merge_due(disk, layers)?;
        let with_merge = merge.as_ref().map_or(0, Merge::bytes);
        if let Err(error) = self.check_size(name, newest, with_merge, limits.bytes) {
            if merge.as_ref().is_none_or(|merge| merge.needed) {
                return Err(error);
            }
            // A merge can wait.
            merge = None;
            self.check_size(name, newest, 0, limits.bytes)?;
        }
        let bytes = taken(&self.layer(newest));
        if limits.copies {
            self.require_room(format!("save the snapshot `{name}`"), bytes)?;
        }
        let free = files::free_bytes(&self.dir).map_err(io_error("look for room in", &self.dir))?;
        Ok(SavePlan { bytes, free, merge })
    }

    /// Writes a snapshot's record; its layers are frozen from here on. Replaces a record of that name only if it `replaces`;
    /// then the old one's layers go, unless something else needs them.
    pub fn save(
        &self,
        name: &SnapshotName,
        base: Base,
        layers: Vec<String>,
        workspace: Option<CopiedWorkspace>,
        replaces: bool,
    ) -> Result<Record, StoreError> {
        if !replaces {
            self.check_free(name)?;
        }
        let record = Record {
            version: VERSION,
            name: name.clone(),
            created: now(),
            bytes: self.newest_bytes(&layers)
                + (workspace.as_ref()).map_or(0, |copied| self.newest_bytes(&copied.layers)),
            base,
            layers,
            workspace,
        };
        {
            let _held = self.lock()?;
            // A file that is no snapshot is not ours to replace.
            let replaces = replaces && self.read(name)?.is_some();
            self.write_record(&record, replaces)?;
        }
        if replaces {
            self.sweep();
        }
        Ok(record)
    }

    fn newest_bytes(&self, layers: &[String]) -> u64 {
        layers.last().map_or(0, |layer| taken(&self.layer(layer)))
    }

    /// Puts a record in its place; the store's lock is held.
    fn write_record(&self, record: &Record, replaces: bool) -> Result<(), StoreError> {
        let path = self.record_path(&record.name);
        let dir = self.snapshots();
        let write = || {
            let text = serde_json::to_vec_pretty(record)?;
            if replaces {
                return files::replace(&path, &text);
            }
            files::written(&dir, &text)?.persist_noclobber(&path)?;
            let synced = files::sync_dir(&dir);
            if synced.is_err() {
                // The record might not survive a power cut, so it must not count as saved.
                fs::remove_file(&path).ok();
            }
            synced
        };
        match write() {
            Ok(()) => Ok(()),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::AlreadyExists => {
                Err(StoreError::Exists(record.name.clone()))
            }
            Err(error) => Err(io_error("write", &path)(error)),
        }
    }

    /// Gives snapshots of exactly the layers `old` the chain `new`, which has the same content.
    pub(super) fn put_in_place(&self, old: &[String], new: &[String]) -> Result<(), StoreError> {
        let layers = self.dir.join("layers");
        files::sync_dir(&layers).map_err(io_error("write", &layers))?;
        let _held = self.lock()?;
        for mut record in self.list()? {
            let chains = std::iter::once(&mut record.layers)
                .chain(record.workspace.as_mut().map(|copied| &mut copied.layers));
            let mut changed = false;
            for chain in chains.filter(|chain| **chain == old) {
                *chain = new.to_vec();
                changed = true;
            }
            if changed {
                record.bytes = self.newest_bytes(new);
                self.write_record(&record, true)?;
            }
        }
        Ok(())
    }

    /// Deletes a snapshot, and layers that nothing else needs.
    pub fn delete(&self, name: &SnapshotName) -> Result<Record, StoreError> {
        // Before the lock, which would make a file: there may be no store at all.
        self.must_have(name)?;
        let record = {
            let _held = self.lock()?;
            let record = self.must_have(name)?;
            let path = self.record_path(name);
            // Sync before the layers are removed: a record that comes back after a crash must not lack them.
            let removed = fs::remove_file(&path).and_then(|()| files::sync_dir(&self.snapshots()));
            removed.map_err(io_error("delete", &path))?;
            record
        };
        self.sweep();
        Ok(record)
    }
}

fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
/// Every snapshot of every sandbox, with the sandbox's name. Fails if one can't be read, so that no image disk is removed
/// that it may need.
pub(crate) fn all_records(data_dir: &Path) -> Result<Vec<(String, Record)>, StoreError> {
    let dir = data_dir.join("sandboxes");
    if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for dir in entries(&dir)? {
        let snapshots = dir.join("snapshots");
        if !presence::is_name(&snapshots).map_err(io_error("look for", &snapshots))? {
            continue;
        }
        let store = Store::at(dir);
        for snapshot in entries(&snapshots)? {
            let file = snapshot.file_name().and_then(|file| file.to_str());
            let Some(name) = file.and_then(|file| file.strip_suffix(".json")) else {
                continue;
            };
            let name = name.parse().map_err(|error| StoreError::Unclear {
                path: snapshot.clone(),
                problem: format!("is no snapshot's record ({error})"),
            })?;
            let read = store.read(&name)?;
            all.extend(read.map(|record| (store.name.to_string(), record)));
        }
    }
    Ok(all)
}

/// The image disks that living sessions start from, with the sandbox's name: their snapshot may be deleted meanwhile. Fails
/// if one can't be read.
pub(crate) fn pinned_disks(data_dir: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let dir = data_dir.join("sandboxes");
    if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for dir in entries(&dir)? {
        let runs = dir.join("run");
        if !presence::is_name(&runs).map_err(io_error("look for", &runs))? {
            continue;
        }
        let store = Store::at(dir);
        for run in entries(&runs)? {
            let (lock, base) = (run.join("lock"), run.join(BASE));
            if !presence::is_held(&lock).map_err(io_error("look at the lock", &lock))? {
                continue;
            }
            let Some(text) = presence::read(&base).map_err(io_error("read", &base))? else {
                continue;
            };
            let disk = serde_json::from_slice(&text).map_err(|error| StoreError::Unclear {
                path: base,
                problem: format!("names no image's disk ({error})"),
            })?;
            all.push((store.name.to_string(), disk));
        }
    }
    Ok(all)
}
