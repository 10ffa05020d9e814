//! The store: which images there are, who stands on them, and how new ones come about.
//!
//! ```text
//! <data>/images/lock               held while names, disks or uses change; never for long
//!              /names/<file>.json  an image: its content, and the disk it stands for
//!              /disks/<id>.raw     a root disk, read-only, never written again
//!              /disks/<id>.json    what is known of it
//!              /uses/<id>.<n>      somebody stands on that disk: locked as long as they live; says who
//!              /blobs/, /partial/  see `blobs`
//!              /fetching           held together while blobs come in that no image names yet
//!              /building/<file>/   something in the making
//!              /locks/<file>       held by whoever makes that
//! ```
//!
//! Invariants:
//! - a disk appears under `disks/` by a rename, complete and on stable storage, before any name stands for it;
//!   so a process killed at any moment leaves nothing that looks finished;
//! - an image is named only when all its blobs are there;
//! - a disk goes only when no name stands for it, nobody uses it and nothing refers to it ([`References`]);
//! - a blob goes only when no image needs it and nobody is fetching;
//! - `building/<file>` belongs to whoever holds `locks/<file>`; found without a holder it is garbage.
//!
//! Lock files are never removed: a lock on a file that is no longer there excludes nobody.
//! The order of locks is `fetching`, `locks/<an image>`, `locks/@disk-<key>`, `lock`, then whatever [`References`] takes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::files::{list, lock, lock_shared, remove_dir, remove_file, replace, sync_dir, try_lock};
use crate::image::error::io_error;
use crate::image::reference::RegistryRef;
use crate::image::store::blobs::Blobs;
use crate::image::store::lease::{self, ImageHandle};
use crate::image::store::record::FORMAT;
use crate::image::{DiskId, DiskRecord, ImageError, ImageKey, ImageRecord, ImageRef, Recipe};
use crate::{presence, private};

/// Something that stands on a disk without anybody running: a snapshot, a kept overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The disk's path, as in a qcow2 file's backing chain.
    pub disk: PathBuf,
    /// What it is, for a person: `snapshot clean of sandbox default`.
    pub by: String,
}

/// Lists everything that stands on disks of the store. It is called with the store's lock held, so it may not call
/// the store, and nobody may call the store holding a lock that this takes. When it fails, nothing is removed.
pub type References =
    Arc<dyn Fn() -> Result<Vec<Reference>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Where images are kept. Several processes may use the same one.
#[derive(Clone)]
pub struct ImageStore {
    dir: PathBuf,
    blobs: Blobs,
    references: References,
}

/// One image, as in a listing.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// What is known of it.
    pub record: ImageRecord,
    /// What is known of its disk.
    pub disk: DiskRecord,
    /// When it was last made or used.
    pub last_used: jiff::Timestamp,
    /// Who runs on it now, for a person.
    pub users: Vec<String>,
}

/// The right to make something, with the directory to do it in, which goes when this is dropped.
pub(crate) struct Building {
    pub(crate) dir: PathBuf,
    /// Whether somebody else was making it when we came.
    pub(crate) waited: bool,
    _lock: File,
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Err(error) = remove_dir(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove a build directory");
        }
    }
}

/// Reads a record. One that an older version wrote is as good as none.
fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let Some(text) = presence::read(path).map_err(io_error("read", path))? else {
        return Ok(None);
    };
    let damaged = |problem| ImageError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("it is no JSON ({e})")))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(older) if (1..FORMAT.into()).contains(&older) => return Ok(None),
        Some(ours) if ours == u64::from(FORMAT) => {}
        _ => return Err(damaged("another version of Snowglobe wrote it".into())),
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|e| damaged(format!("it is no such record ({e})")))
}

impl ImageStore {
    /// The store under the data directory; made where it is not there. Leftovers of builds that were killed go.
    pub fn new(data_dir: &Path, references: References) -> Result<Self, ImageError> {
        let dir = data_dir.join("images");
        let parts = ["names", "disks", "uses", "building", "locks"].map(|part| dir.join(part));
        for path in [&dir].into_iter().chain(&parts) {
            private::dir(path).map_err(io_error("make the directory", path))?;
        }
        let blobs = Blobs::new(&dir)?;
        let store = Self {
            dir,
            blobs,
            references,
        };
        store.sweep_quietly();
        Ok(store)
    }

    /// The store under the data directory, only to look things up: nothing is swept, and nothing may be removed.
    pub fn read_only(data_dir: &Path) -> Result<Self, ImageError> {
        let dir = data_dir.join("images");
        let refuse = || Err("this store was opened for reading only".into());
        Ok(Self {
            blobs: Blobs::new(&dir)?,
            dir,
            references: Arc::new(refuse),
        })
    }

    /// Its blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) fn lock(&self) -> Result<File, ImageError> {
        let path = self.dir.join("lock");
        lock(&path).map_err(io_error("lock", &path))
    }

    /// Keeps blobs that no image names yet.
    pub(crate) fn fetching(&self) -> Result<File, ImageError> {
        let path = self.dir.join("fetching");
        lock_shared(&path).map_err(io_error("lock", &path))
    }

    /// The right to remove blobs that no image names; nothing while somebody fetches some.
    pub(crate) fn nobody_fetches(&self) -> Result<Option<File>, ImageError> {
        let path = self.dir.join("fetching");
        try_lock(&path).map_err(io_error("lock", &path))
    }

    fn record_path(&self, file: &str) -> PathBuf {
        self.dir.join("names").join(format!("{file}.json"))
    }

    fn disk_path(&self, id: &DiskId, extension: &str) -> PathBuf {
        self.dir.join("disks").join(format!("{id}.{extension}"))
    }

    /// What a reference means here: a word is an image's name where there is such an image or recipe, else the hub's.
    /// A record that can't be looked for is an error: the hub is not asked for what may be here.
    pub fn resolve(&self, reference: &ImageRef) -> Result<ImageKey, ImageError> {
        let key = ImageKey::of(reference);
        let ImageRef::Name(name) = reference else {
            return Ok(key);
        };
        let path = self.record_path(&key.file());
        if Recipe::find(name).is_ok()
            || presence::is_name(&path).map_err(io_error("look for", &path))?
        {
            return Ok(key);
        }
        Ok(RegistryRef::of_hub(name).map_or(key, |hub| ImageKey::of(&ImageRef::Registry(hub))))
    }

    fn record(&self, key: &ImageKey) -> Result<Option<ImageRecord>, ImageError> {
        json(&self.record_path(&key.file()))
    }

    fn disk(&self, id: &DiskId) -> Result<DiskRecord, ImageError> {
        let there = self.has_disk(id)?;
        match json(&self.disk_path(id, "json"))? {
            Some(record) if there => Ok(record),
            _ => Err(ImageError::NoDisk(id.clone())),
        }
    }

    fn has_disk(&self, id: &DiskId) -> Result<bool, ImageError> {
        let path = self.disk_path(id, "raw");
        presence::is_file(&path).map_err(io_error("look at", &path))
    }

    /// Every record there is. Fails where one can't be read.
    pub(crate) fn records(&self) -> Result<Vec<ImageRecord>, ImageError> {
        let mut records: Vec<ImageRecord> = Vec::new();
        for file in self.files()? {
            records.extend(json(&self.record_path(&file))?);
        }
        Ok(records)
    }

    /// The keys of every image whose record can be read.
    pub(crate) fn known(&self) -> Result<Vec<ImageKey>, ImageError> {
        let files = self.files()?.into_iter();
        let record = |file: String| json::<ImageRecord>(&self.record_path(&file)).ok().flatten();
        let mut known: Vec<ImageKey> = files.filter_map(record).map(|record| record.key).collect();
        known.sort();
        Ok(known)
    }

    fn files(&self) -> Result<Vec<String>, ImageError> {
        let names = self.dir.join("names");
        let files = list(&names).map_err(io_error("list", &names))?;
        let mut files: Vec<String> = files
            .iter()
            .filter_map(|file| file.strip_suffix(".json"))
            .map(str::to_owned)
            .collect();
        files.sort();
        Ok(files)
    }

    /// The image of that key; nothing where there is none, or none whose disk is there.
    pub fn find(&self, key: &ImageKey) -> Result<Option<ImageInfo>, ImageError> {
        let _held = self.lock()?;
        match self
            .record(key)?
            .map(|record| self.info(record))
            .transpose()
        {
            Err(ImageError::NoDisk(_)) => Ok(None),
            other => other,
        }
    }

    fn info(&self, record: ImageRecord) -> Result<ImageInfo, ImageError> {
        let path = self.record_path(&record.key.file());
        let changed = path.metadata().and_then(|meta| meta.modified());
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

    /// Every image, by key. Those whose records are damaged are passed over with a warning.
    pub fn list(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let _held = self.lock()?;
        let mut images = Vec::new();
        for file in self.files()? {
            let record = json(&self.record_path(&file));
            match record.and_then(|record| record.map(|record| self.info(record)).transpose()) {
                Ok(image) => images.extend(image),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(file, error, "passed over an image");
                }
            }
        }
        images.sort_by(|a, b| a.record.key.cmp(&b.record.key));
        Ok(images)
    }

    /// The right to stand on the image's disk, for `user` (`sandbox default`: shown to whoever wants to remove it).
    pub fn open(&self, key: &ImageKey, user: &str) -> Result<ImageHandle, ImageError> {
        let _held = self.lock()?;
        let Some(record) = self.record(key)? else {
            return Err(ImageError::NotFound {
                name: key.clone(),
                known: self.known()?,
            });
        };
        self.disk(&record.disk)?;
        // Should this fail, it only seems less used than it is.
        let _ = File::open(self.record_path(&key.file()))
            .and_then(|file| file.set_modified(std::time::SystemTime::now()));
        let disk = record.disk.clone();
        self.mark(&disk, Some(record), user)
    }

    /// The right to stand on a disk whether or not a name still stands for it: for snapshots.
    pub fn open_disk(&self, id: &DiskId, user: &str) -> Result<ImageHandle, ImageError> {
        let _held = self.lock()?;
        if !self.has_disk(id)? {
            return Err(ImageError::NoDisk(id.clone()));
        }
        self.mark(id, None, user)
    }

    fn mark(
        &self,
        id: &DiskId,
        record: Option<ImageRecord>,
        user: &str,
    ) -> Result<ImageHandle, ImageError> {
        let disk = self.disk_path(id, "raw");
        lease::mark(&self.dir.join("uses"), disk, id, record, user)
    }

    fn users(&self, disk: &DiskId) -> Result<Vec<String>, ImageError> {
        lease::users(&self.dir.join("uses"), disk)
    }

    /// Who runs on a disk and what refers to it.
    fn needed_by(&self, id: &DiskId) -> Result<Vec<String>, ImageError> {
        let mut users = self.users(id)?;
        let references = (self.references)().map_err(ImageError::References)?;
        let on_it = |reference: &Reference| DiskId::of_path(&reference.disk).as_ref() == Some(id);
        users.extend(
            references
                .into_iter()
                .filter(on_it)
                .map(|reference| reference.by),
        );
        Ok(users)
    }

    /// Removes an image. Refused while anything stands on its disk, unless another image keeps the disk.
    pub fn remove(&self, key: &ImageKey) -> Result<(), ImageError> {
        {
            let _held = self.lock()?;
            let path = self.record_path(&key.file());
            if !presence::is_name(&path).map_err(io_error("look for", &path))? {
                return Err(ImageError::NotFound {
                    name: key.clone(),
                    known: self.known()?,
                });
            }
            let record = match self.record(key) {
                // Removing is the way out of a damaged record; what disk it meant can't be known.
                Err(ImageError::Damaged { .. }) => None,
                other => other?,
            };
            if let Some(record) = record
                && !self.named_otherwise(&record.disk, key)?
            {
                let users = self.needed_by(&record.disk)?;
                if !users.is_empty() {
                    return Err(ImageError::InUse {
                        name: key.clone(),
                        users,
                    });
                }
            }
            remove_file(&path).map_err(io_error("remove", &path))?;
            let names = self.dir.join("names");
            sync_dir(&names).map_err(io_error("write", &names))?;
        }
        self.sweep()
    }

    fn named_otherwise(&self, disk: &DiskId, except: &ImageKey) -> Result<bool, ImageError> {
        let records = self.records()?;
        Ok(records
            .iter()
            .any(|record| record.disk == *disk && record.key != *except))
    }

    /// Removes disks that no name stands for, nobody uses and nothing refers to, and what killed builds left.
    pub fn sweep(&self) -> Result<(), ImageError> {
        let builds = self.dead_builds()?;
        let _held = self.lock()?;
        let disks_dir = self.dir.join("disks");
        let disks: BTreeSet<DiskId> = list(&disks_dir)
            .map_err(io_error("list", &disks_dir))?
            .iter()
            .filter_map(|file| file.split_once('.')?.0.parse().ok())
            .collect();
        // A record that can't be read may stand for any of them: then all stay.
        let named = self
            .records()?
            .into_iter()
            .map(|record| record.disk)
            .collect();
        let mut unneeded = Vec::new();
        for disk in disks.difference(&named) {
            if self.needed_by(disk)?.is_empty() {
                unneeded.extend(["raw", "json"].map(|extension| self.disk_path(disk, extension)));
            }
        }
        // All is asked by now; only then anything goes.
        for (dir, _held) in builds {
            remove_dir(&dir).map_err(io_error("remove", &dir))?;
        }
        for path in unneeded {
            remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    pub(crate) fn sweep_quietly(&self) {
        if let Err(error) = self.sweep() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not clear leftovers among the images"
            );
        }
    }

    /// What builds left that were killed, each with the right to make it.
    fn dead_builds(&self) -> Result<Vec<(PathBuf, File)>, ImageError> {
        let building = self.dir.join("building");
        let mut dead = Vec::new();
        for file in list(&building).map_err(io_error("list", &building))? {
            let path = self.dir.join("locks").join(&file);
            let held = try_lock(&path).map_err(io_error("lock", &path))?;
            dead.extend(held.map(|held| (building.join(&file), held)));
        }
        Ok(dead)
    }

    /// Takes the right to make something, waiting for whoever makes it now.
    pub(crate) async fn building(
        &self,
        file: &str,
        say: impl FnOnce(),
    ) -> Result<Building, ImageError> {
        let path = self.dir.join("locks").join(file);
        let mut say = Some(say);
        // Asked again and again, so that dropping the future leaves no thread waiting in the kernel.
        let held = loop {
            if let Some(held) = try_lock(&path).map_err(io_error("lock", &path))? {
                break held;
            }
            if let Some(say) = say.take() {
                say();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let dir = self.dir.join("building").join(file);
        let made = remove_dir(&dir).and_then(|()| private::new_dir(&dir));
        made.map_err(io_error("make the directory", &dir))?;
        Ok(Building {
            dir,
            waited: say.is_none(),
            _lock: held,
        })
    }

    /// The finished disk that holds just what is asked for.
    pub(crate) fn disk_of(&self, key: &str) -> Result<Option<DiskRecord>, ImageError> {
        let disks = self.dir.join("disks");
        for file in list(&disks).map_err(io_error("list", &disks))? {
            let Some(id) = file.strip_suffix(".json").and_then(|id| id.parse().ok()) else {
                continue;
            };
            // What can't be read is no disk that can be used.
            if let Ok(record) = self.disk(&id)
                && record.key == key
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Makes a finished disk part of the store. The lock is held from here until a record names it.
    pub(crate) fn publish_disk(
        &self,
        _held: &File,
        raw: &Path,
        record: &DiskRecord,
    ) -> Result<(), ImageError> {
        let (disk, about) = (
            self.disk_path(&record.disk, "raw"),
            self.disk_path(&record.disk, "json"),
        );
        replace(&about, &to_json(record)).map_err(io_error("write", &about))?;
        let moved = fs::rename(raw, &disk).and_then(|()| sync_dir(&self.dir.join("disks")));
        moved.map_err(io_error("write", &disk))
    }

    /// Makes an image's key stand for its disk.
    pub(crate) fn publish(
        &self,
        _held: &File,
        record: ImageRecord,
    ) -> Result<ImageInfo, ImageError> {
        let path = self.record_path(&record.key.file());
        replace(&path, &to_json(&record)).map_err(io_error("write", &path))?;
        self.info(record)
    }

    /// What the disks take on the host's disk, finished and in the making.
    pub(crate) fn disk_bytes(&self) -> Result<u64, ImageError> {
        let disks = self.dir.join("disks");
        let files = list(&disks).map_err(io_error("list", &disks))?;
        let size = |file: &String| {
            fs::metadata(disks.join(file)).map_or(0, |meta| {
                std::os::unix::fs::MetadataExt::blocks(&meta) * 512
            })
        };
        Ok(files.iter().map(size).sum())
    }
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    // Records are plain structures with text for keys: they can always be written.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
