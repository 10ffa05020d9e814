//! The store of images: its directories, locks and records.
//!
//! ```text
//! <data>/images/lock               held while records, disks or leases change; never for long
//!              /names/<file>.json  the record of an image: its content and its disk
//!              /disks/<id>.raw     a root disk, read-only, never written again
//!              /disks/<id>.json    the record of that disk
//!              /removed/<file>     a disk that is being deleted
//!              /uses/<id>.<n>      a lease of that disk: locked as long as its user lives
//!              /blobs/, /partial/  see `blobs`
//!              /fetching           held shared while blobs are fetched that no record names yet
//!              /building/<file>/   the directory in which an image or a disk is made
//!              /locks/<file>       held by the process that makes it
//! ```
//!
//! Invariants:
//! - a disk appears under `disks/` by a rename, complete and on stable storage, before a record names it. So a process
//!   that is killed at any moment leaves nothing that looks finished;
//! - a record is written only once all blobs of the image are there;
//! - a disk is removed only if no record names it, no process has a lease on it and nothing depends on it
//!   ([`ListDependents`]);
//! - a blob is removed only if no record names it and no process fetches blobs;
//! - `building/<file>` belongs to the process that holds `locks/<file>`. Without a holder it is abandoned.
//!
//! Lock files are never removed: a lock on a removed file excludes no other process.
//! Locks are taken in this order: `fetching`, `locks/<image>`, `locks/@disk-<key>`, `lock`, then those of
//! [`ListDependents`]. Nothing is deleted while `lock` is held.
//!
//! All methods but the asynchronous ones block; asynchronous code calls them through [`ImageStore::blocking`].

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::blocking::blocking;
use crate::files::{list, lock, lock_shared, sync_dir, try_lock};
use crate::image::file_error::{FileError, file_error};
use crate::image::key::ImageKey;
use crate::image::store::blobs::Blobs;
use crate::image::store::dependents::ListDependents;
use crate::image::store::disk_id::DiskId;
use crate::image::store::lease::{self, DiskLease};
use crate::image::store::record::{DiskRecord, ImageRecord};
use crate::image::store::record_file;
use crate::image::store::store_error::StoreError;
use crate::{presence, private};

/// The directory of images. Several processes may use the same one.
#[derive(Clone)]
pub struct ImageStore {
    dir: PathBuf,
    blobs: Blobs,
    list_dependents: ListDependents,
    /// Whether it is open for looking only: then no file is made, changed or removed.
    looks: bool,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// The record of the image.
    pub(crate) record: ImageRecord,
    /// The record of its disk.
    pub(crate) disk: DiskRecord,
    /// When it was last made or used.
    pub(crate) last_used: jiff::Timestamp,
    /// Descriptions of the processes that use its disk.
    pub(crate) users: Vec<String>,
}

/// The store's lock, held until this is dropped.
pub(crate) struct StoreLock {
    _file: Option<File>,
}

impl ImageStore {
    /// Opens the store in the data directory. Missing directories are made, and leftovers of killed processes removed.
    pub fn open(data_dir: &Path, list_dependents: ListDependents) -> Result<Self, StoreError> {
        let dir = data_dir.join("images");
        let parts = ["names", "disks", "removed", "uses", "building", "locks"];
        let parts = parts.map(|part| dir.join(part));
        for path in [&dir].into_iter().chain(&parts) {
            private::dir(path).map_err(file_error("make the directory", path))?;
        }
        let blobs = Blobs::new(&dir)?;
        let store = Self {
            dir,
            blobs,
            list_dependents,
            looks: false,
        };
        store.sweep_or_warn();
        Ok(store)
    }

    /// Opens the store for looking things up: no file is made, changed or removed. A store that was never made is empty.
    pub(crate) fn look(data_dir: &Path) -> Self {
        let dir = data_dir.join("images");
        let refuse = || Err("this store was opened for looking only".into());
        Self {
            blobs: Blobs::at(&dir),
            dir,
            list_dependents: Arc::new(refuse),
            looks: true,
        }
    }

    /// Runs blocking work with this store on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let store = self.clone();
        blocking(move || work(&store)).await
    }

    /// The blobs of the store.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn list_dependents(&self) -> &ListDependents {
        &self.list_dependents
    }

    pub(crate) fn lock(&self) -> Result<StoreLock, FileError> {
        let path = self.dir.join("lock");
        let file = match self.looks {
            true => look_lock(&path),
            false => lock(&path).map(Some),
        };
        let file = file.map_err(file_error("lock", &path))?;
        Ok(StoreLock { _file: file })
    }

    /// The names in one of its directories. For looking, a missing directory is an empty one; a sweep must not think so.
    fn names_in(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        let there = !self.looks || presence::is_name(dir).map_err(file_error("look for", dir))?;
        match there {
            true => list(dir).map_err(file_error("list", dir)),
            false => Ok(Vec::new()),
        }
    }

    /// Keeps all blobs, also those that no record names yet, until the lock is dropped.
    pub(crate) async fn keep_blobs(&self) -> Result<File, FileError> {
        let keep = |store: &Self| {
            let path = store.dir.join("fetching");
            lock_shared(&path).map_err(file_error("lock", &path))
        };
        self.blocking(keep).await
    }

    /// The right to remove blobs that no record names; `None` while a process fetches blobs.
    pub(crate) fn try_remove_blobs(&self) -> Result<Option<File>, FileError> {
        let path = self.dir.join("fetching");
        try_lock(&path).map_err(file_error("lock", &path))
    }

    pub(crate) fn record_path(&self, key: &ImageKey) -> PathBuf {
        self.record_file(&key.file())
    }

    fn record_file(&self, file: &str) -> PathBuf {
        self.dir.join("names").join(format!("{file}.json"))
    }

    pub(crate) fn disk_path(&self, id: &DiskId, extension: &str) -> PathBuf {
        self.dir.join("disks").join(format!("{id}.{extension}"))
    }

    /// Whether there is a record of this key, readable or not.
    pub(crate) fn has_record(&self, key: &ImageKey) -> Result<bool, FileError> {
        let path = self.record_path(key);
        presence::is_name(&path).map_err(file_error("look for", &path))
    }

    pub(crate) fn record(&self, key: &ImageKey) -> Result<Option<ImageRecord>, StoreError> {
        record_file::read(&self.record_path(key))
    }

    fn disk(&self, id: &DiskId) -> Result<DiskRecord, StoreError> {
        let there = self.has_disk(id)?;
        match record_file::read(&self.disk_path(id, "json"))? {
            Some(record) if there => Ok(record),
            _ => Err(StoreError::NoDisk(id.clone())),
        }
    }

    fn has_disk(&self, id: &DiskId) -> Result<bool, FileError> {
        let path = self.disk_path(id, "raw");
        presence::is_file(&path).map_err(file_error("look at", &path))
    }

    /// All records. Fails if one can't be read.
    pub(crate) fn records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut records: Vec<ImageRecord> = Vec::new();
        for file in self.record_files()? {
            records.extend(record_file::read(&self.record_file(&file))?);
        }
        Ok(records)
    }

    /// The keys of all images whose record can be read.
    pub(crate) fn known(&self) -> Result<Vec<ImageKey>, StoreError> {
        let files = self.record_files()?.into_iter();
        let record = |file: String| {
            let read = record_file::read::<ImageRecord>(&self.record_file(&file));
            read.ok().flatten()
        };
        let mut known: Vec<ImageKey> = files.filter_map(record).map(|record| record.key).collect();
        known.sort();
        Ok(known)
    }

    /// The error for an image that is not in the store.
    pub(crate) fn not_found(&self, key: &ImageKey) -> StoreError {
        StoreError::NotFound {
            name: key.clone(),
            known: self.known().unwrap_or_default(),
        }
    }

    fn record_files(&self) -> Result<Vec<String>, FileError> {
        let files = self.names_in(&self.dir.join("names"))?;
        let mut files: Vec<String> = files
            .iter()
            .filter_map(|file| file.strip_suffix(".json"))
            .map(str::to_owned)
            .collect();
        files.sort();
        Ok(files)
    }

    /// The image of this key; `None` if there is no such image, or its disk is missing.
    pub(crate) fn find(&self, key: &ImageKey) -> Result<Option<ImageInfo>, StoreError> {
        let _held = self.lock()?;
        match self
            .record(key)?
            .map(|record| self.info(record))
            .transpose()
        {
            Err(StoreError::NoDisk(_)) => Ok(None),
            other => other,
        }
    }

    /// The image of this key, which must be there.
    pub(crate) fn require(&self, key: &ImageKey) -> Result<ImageInfo, StoreError> {
        self.find(key)?.ok_or_else(|| self.not_found(key))
    }

    fn info(&self, record: ImageRecord) -> Result<ImageInfo, StoreError> {
        let changed = self
            .record_path(&record.key)
            .metadata()
            .and_then(|meta| meta.modified());
        let last_used = changed
            .ok()
            .and_then(|time| jiff::Timestamp::try_from(time).ok());
        Ok(ImageInfo {
            disk: self.disk(&record.disk)?,
            users: self.users(&record.disk)?,
            last_used: last_used.unwrap_or(record.created),
            record,
        })
    }

    /// All images, sorted by key. Images with a damaged record are skipped with a warning.
    pub(crate) fn list(&self) -> Result<Vec<ImageInfo>, StoreError> {
        let _held = self.lock()?;
        let mut images = Vec::new();
        for file in self.record_files()? {
            let record = record_file::read(&self.record_file(&file));
            match record.and_then(|record| record.map(|record| self.info(record)).transpose()) {
                Ok(image) => images.extend(image),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(file, error, "skipped an image");
                }
            }
        }
        images.sort_by(|a, b| a.record.key.cmp(&b.record.key));
        Ok(images)
    }

    /// Takes a lease on the disk of an image. `user` describes the user in messages: `sandbox default`.
    pub(crate) fn lease(&self, key: &ImageKey, user: &str) -> Result<DiskLease, StoreError> {
        let _held = self.lock()?;
        let Some(record) = self.record(key)? else {
            return Err(self.not_found(key));
        };
        self.disk(&record.disk)?;
        let path = self.record_path(key);
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(%key, %error, "the last-used time of an image is stale");
        }
        Ok(self.take_lease(&record.disk, user)?)
    }

    /// Takes a lease on a disk, whether or not a record names it: for snapshots.
    pub(crate) fn lease_disk(&self, id: &DiskId, user: &str) -> Result<DiskLease, StoreError> {
        let _held = self.lock()?;
        if !self.has_disk(id)? {
            return Err(StoreError::NoDisk(id.clone()));
        }
        Ok(self.take_lease(id, user)?)
    }

    fn take_lease(&self, id: &DiskId, user: &str) -> Result<DiskLease, FileError> {
        let disk = self.disk_path(id, "raw");
        lease::take(&self.dir.join("uses"), disk, id, user)
    }

    /// Descriptions of the processes that use a disk.
    pub(crate) fn users(&self, disk: &DiskId) -> Result<Vec<String>, FileError> {
        match self.looks {
            true => lease::living_users(&self.dir.join("uses"), disk),
            false => lease::users(&self.dir.join("uses"), disk),
        }
    }

    /// The finished disk with this content ([`crate::image::content::Content::disk_key`]).
    pub(crate) fn disk_with(&self, disk_key: &str) -> Result<Option<DiskRecord>, FileError> {
        let disks = self.dir.join("disks");
        for file in list(&disks).map_err(file_error("list", &disks))? {
            let Some(id) = file.strip_suffix(".json").and_then(|id| id.parse().ok()) else {
                continue;
            };
            // A disk that can't be read can't be used either.
            if let Ok(record) = self.disk(&id)
                && record.key == disk_key
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Moves a finished disk into the store. The caller holds the lock until a record names the disk.
    pub(crate) fn publish_disk(
        &self,
        _held: &StoreLock,
        raw: &Path,
        record: &DiskRecord,
    ) -> Result<(), StoreError> {
        record_file::write(&self.disk_path(&record.disk, "json"), record)?;
        let disk = self.disk_path(&record.disk, "raw");
        let moved = fs::rename(raw, &disk).and_then(|()| sync_dir(&self.dir.join("disks")));
        Ok(moved.map_err(file_error("write", &disk))?)
    }

    /// Writes the record of an image.
    pub(crate) fn publish(
        &self,
        _held: &StoreLock,
        record: ImageRecord,
    ) -> Result<ImageInfo, StoreError> {
        record_file::write(&self.record_path(&record.key), &record)?;
        self.info(record)
    }

    /// The space that the disks take on the host, in bytes.
    pub(crate) fn disk_bytes(&self) -> Result<u64, FileError> {
        let disks = self.dir.join("disks");
        let files = self.names_in(&disks)?;
        let size =
            |file: &String| fs::metadata(disks.join(file)).map_or(0, |meta| meta.blocks() * 512);
        Ok(files.iter().map(size).sum())
    }
}

/// Takes the lock without making or changing its file; nothing changes a store that has none.
fn look_lock(path: &Path) -> std::io::Result<Option<File>> {
    if !presence::is_name(path)? {
        return Ok(None);
    }
    let file = File::open(path)?;
    file.lock_shared()?;
    Ok(Some(file))
}
