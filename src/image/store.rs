//! The store: which images there are, who stands on them, and how new ones come about.
//!
//! ```text
//! <data>/images/lock               held while names, disks or uses change; never for long
//!              /names/<name>.json  which disk a name stands for
//!              /disks/<id>.raw     a root disk, read-only, never written again
//!              /disks/<id>.json    what is known of it
//!              /uses/<id>.<n>      somebody stands on that disk: locked as long as they live; says who
//!              /building/<name>/   a disk in the making
//!              /locks/<name>       held by whoever builds or imports that name
//! ```
//!
//! Invariants:
//! - a disk appears under `disks/` by a rename, complete and on stable storage, before any name stands for it;
//!   so a process killed at any moment leaves nothing that looks finished;
//! - a disk goes only when no name stands for it, nobody uses it and nothing refers to it ([`References`]);
//! - `building/<name>` belongs to whoever holds `locks/<name>`; found without a holder it is garbage.
//!
//! Lock files are never removed: a lock on a file that is no longer there excludes nobody.
//! The order of locks is `locks/<name>`, then `lock`, then whatever [`References`] takes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::archive::Archive;
use super::error::io_error;
use super::files::{list, lock, remove_dir, remove_file, replace, sync_dir, try_lock};
use super::record::{FORMAT, NameRecord};
use super::uses::{self, ImageHandle};
use super::{DiskId, DiskRecord, ImageError, ImageName};

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
    references: References,
}

/// One image, as in a listing.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// Its name.
    pub name: ImageName,
    /// What is known of its disk.
    pub record: DiskRecord,
    /// Who runs on it now, for a person.
    pub users: Vec<String>,
}

/// The right to build a name, with the directory to do it in, which goes when this is dropped.
pub(super) struct Building {
    pub(super) dir: PathBuf,
    /// Whether somebody else was building it when we came.
    pub(super) waited: bool,
    _lock: File,
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Err(error) = remove_dir(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove a build directory");
        }
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let damaged = |problem| ImageError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("it is no JSON ({e})")))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    if format != Some(FORMAT.into()) {
        return Err(damaged("another version of Snowglobe wrote it".into()));
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|e| damaged(format!("it is no such record ({e})")))
}

impl ImageStore {
    /// The store under the data directory; made where it is not there. Leftovers of builds that were killed go.
    pub fn new(data_dir: &Path, references: References) -> Result<Self, ImageError> {
        let dir = data_dir.join("images");
        for part in ["names", "disks", "uses", "building", "locks"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("make the directory", &path))?;
        }
        let store = Self { dir, references };
        store.sweep_quietly();
        Ok(store)
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.dir.join("lock");
        lock(&path).map_err(io_error("lock", &path))
    }

    fn name_path(&self, name: &ImageName) -> PathBuf {
        self.dir.join("names").join(format!("{name}.json"))
    }

    fn disk_path(&self, id: &DiskId, extension: &str) -> PathBuf {
        self.dir.join("disks").join(format!("{id}.{extension}"))
    }

    /// The disk that a name stands for; nothing where there is no such image.
    fn disk_of(&self, name: &ImageName) -> Result<Option<DiskRecord>, ImageError> {
        let path = self.name_path(name);
        let Some(record) = json::<NameRecord>(&path)? else {
            return Ok(None);
        };
        self.record(&record.disk).map(Some)
    }

    fn record(&self, id: &DiskId) -> Result<DiskRecord, ImageError> {
        let there = self.disk_path(id, "raw").is_file();
        match json(&self.disk_path(id, "json"))? {
            Some(record) if there => Ok(record),
            _ => Err(ImageError::NoDisk(id.clone())),
        }
    }

    fn names(&self) -> Result<Vec<ImageName>, ImageError> {
        let names_dir = self.dir.join("names");
        let mut names = Vec::new();
        for file in list(&names_dir).map_err(io_error("list", &names_dir))? {
            match file.strip_suffix(".json").map(str::parse) {
                Some(Ok(name)) => names.push(name),
                _ => tracing::debug!(file, "passed over a stray file among the images' names"),
            }
        }
        names.sort();
        Ok(names)
    }

    /// The image of that name; nothing where there is none.
    pub fn find(&self, name: &ImageName) -> Result<Option<ImageInfo>, ImageError> {
        let _held = self.lock()?;
        self.info(name)
    }

    fn info(&self, name: &ImageName) -> Result<Option<ImageInfo>, ImageError> {
        let Some(record) = self.disk_of(name)? else {
            return Ok(None);
        };
        let users = self.users(&record.disk)?;
        Ok(Some(ImageInfo {
            name: name.clone(),
            record,
            users,
        }))
    }

    /// Every image, by name. Those whose records are damaged are passed over with a warning.
    pub fn list(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let _held = self.lock()?;
        let mut images = Vec::new();
        for name in self.names()? {
            match self.info(&name) {
                Ok(image) => images.extend(image),
                Err(error) => tracing::warn!(%name, %error, "passed over an image"),
            }
        }
        Ok(images)
    }

    /// The right to stand on the image's disk, for `user` (`sandbox default`: shown to whoever wants to remove it).
    pub fn open(&self, name: &ImageName, user: &str) -> Result<ImageHandle, ImageError> {
        let _held = self.lock()?;
        match self.disk_of(name)? {
            Some(record) => self.mark(record, user),
            None => Err(ImageError::NotFound {
                name: name.clone(),
                known: self.names()?,
            }),
        }
    }

    /// The right to stand on a disk whether or not a name still stands for it: for snapshots.
    pub fn open_disk(&self, id: &DiskId, user: &str) -> Result<ImageHandle, ImageError> {
        let _held = self.lock()?;
        self.mark(self.record(id)?, user)
    }

    fn mark(&self, record: DiskRecord, user: &str) -> Result<ImageHandle, ImageError> {
        let disk = self.disk_path(&record.disk, "raw");
        uses::mark(&self.dir.join("uses"), disk, record, user)
    }

    fn users(&self, disk: &DiskId) -> Result<Vec<String>, ImageError> {
        uses::users(&self.dir.join("uses"), disk)
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

    /// Removes an image. Refused while anything stands on its disk, unless another name keeps the disk.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        {
            let _held = self.lock()?;
            let path = self.name_path(name);
            let record = match json::<NameRecord>(&path) {
                Ok(Some(record)) => Some(record),
                Ok(None) => {
                    return Err(ImageError::NotFound {
                        name: name.clone(),
                        known: self.names()?,
                    });
                }
                // Removing is the way out of a damaged record; what disk it meant can't be known.
                Err(ImageError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            if let Some(NameRecord { disk, .. }) = record
                && !self.named_otherwise(&disk, name)?
            {
                let users = self.needed_by(&disk)?;
                if !users.is_empty() {
                    return Err(ImageError::InUse {
                        name: name.clone(),
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

    fn named_otherwise(&self, disk: &DiskId, except: &ImageName) -> Result<bool, ImageError> {
        for name in self.names()?.iter().filter(|name| *name != except) {
            if json::<NameRecord>(&self.name_path(name))?.is_some_and(|record| record.disk == *disk)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes disks that no name stands for, nobody uses and nothing refers to, and what killed builds left.
    pub fn sweep(&self) -> Result<(), ImageError> {
        self.sweep_builds()?;
        let _held = self.lock()?;
        let disks_dir = self.dir.join("disks");
        let disks: BTreeSet<DiskId> = list(&disks_dir)
            .map_err(io_error("list", &disks_dir))?
            .iter()
            .filter_map(|file| file.split_once('.')?.0.parse().ok())
            .collect();
        let mut named = BTreeSet::new();
        for name in self.names()? {
            // A name that can't be read may stand for any of them: then all stay.
            named.extend(json::<NameRecord>(&self.name_path(&name))?.map(|record| record.disk));
        }
        for disk in disks.difference(&named) {
            if self.needed_by(disk)?.is_empty() {
                for extension in ["raw", "json"] {
                    let path = self.disk_path(disk, extension);
                    remove_file(&path).map_err(io_error("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn sweep_quietly(&self) {
        if let Err(error) = self.sweep() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not clear leftovers among the images"
            );
        }
    }

    fn sweep_builds(&self) -> Result<(), ImageError> {
        let building = self.dir.join("building");
        for file in list(&building).map_err(io_error("list", &building))? {
            let Ok(name) = file.parse::<ImageName>() else {
                continue;
            };
            let path = self.dir.join("locks").join(name.as_str());
            if let Some(_held) = try_lock(&path).map_err(io_error("lock", &path))? {
                let dir = building.join(name.as_str());
                remove_dir(&dir).map_err(io_error("remove", &dir))?;
            }
        }
        Ok(())
    }

    /// Takes the right to build a name, waiting for whoever builds it now.
    pub(super) async fn building(
        &self,
        name: &ImageName,
        say: impl FnOnce(),
    ) -> Result<Building, ImageError> {
        let path = self.dir.join("locks").join(name.as_str());
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
        let dir = self.dir.join("building").join(name.as_str());
        let made = remove_dir(&dir).and_then(|()| fs::create_dir(&dir));
        made.map_err(io_error("make the directory", &dir))?;
        Ok(Building {
            dir,
            waited: say.is_none(),
            _lock: held,
        })
    }

    /// Makes a finished disk part of the store, and the name stand for it.
    pub(super) fn publish(
        &self,
        name: &ImageName,
        raw: &Path,
        record: &DiskRecord,
    ) -> Result<(), ImageError> {
        let _held = self.lock()?;
        let (disk, about) = (
            self.disk_path(&record.disk, "raw"),
            self.disk_path(&record.disk, "json"),
        );
        replace(&about, &to_json(record)).map_err(io_error("write", &about))?;
        let moved = fs::rename(raw, &disk).and_then(|()| sync_dir(&self.dir.join("disks")));
        moved.map_err(io_error("write", &disk))?;
        let path = self.name_path(name);
        let record = NameRecord {
            format: FORMAT,
            disk: record.disk.clone(),
        };
        replace(&path, &to_json(&record)).map_err(io_error("write", &path))
    }

    /// The image of that name if it holds just what the archive does.
    pub(super) fn same(&self, name: &ImageName, archive: &Archive) -> Option<ImageInfo> {
        let image = self.find(name).ok().flatten()?;
        let same = image
            .record
            .layers
            .iter()
            .eq(archive.layers.iter().map(|layer| layer.digest()));
        (same && image.record.env == archive.env).then_some(image)
    }
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    // Records are plain structures with text for keys: they can always be written.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
