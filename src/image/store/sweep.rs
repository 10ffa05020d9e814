//! Removes images, and what no image needs. Everything that may need a disk or a blob is read first; if any of it can't
//! be read, nothing is removed.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::files::{self, list, remove_dir, remove_file, sync_dir};
use crate::image::digest::Digest;
use crate::image::file_error::file_error;
use crate::image::key::ImageKey;
use crate::image::store::dependents::Dependent;
use crate::image::store::disk_id::DiskId;
use crate::image::store::image_store::ImageStore;
use crate::image::store::store_error::StoreError;
use crate::text::size;

impl ImageStore {
    /// Removes an image; gives the disks that go with it. Refused while its disk is in use, unless another image has the
    /// same disk.
    pub(crate) fn remove(&self, key: &ImageKey) -> Result<Vec<SweptDisk>, StoreError> {
        {
            let _held = self.lock()?;
            if !self.has_record(key)? {
                return Err(self.not_found(key));
            }
            let record = match self.record(key) {
                // A damaged record is removed by this; its disk is unknown.
                Err(StoreError::DamagedRecord { .. }) => None,
                other => other?,
            };
            if let Some(record) = record
                && !self.is_shared(&record.disk, key)?
            {
                let users = self.needed_by(&record.disk)?;
                if !users.is_empty() {
                    return Err(StoreError::InUse {
                        name: key.clone(),
                        users,
                    });
                }
            }
            let path = self.record_path(key);
            remove_file(&path).map_err(file_error("remove", &path))?;
            let names = self.dir().join("names");
            sync_dir(&names).map_err(file_error("write", &names))?;
        }
        self.sweep()
    }

    /// Whether another image has the same disk.
    fn is_shared(&self, disk: &DiskId, key: &ImageKey) -> Result<bool, StoreError> {
        let records = self.records()?;
        Ok(records
            .iter()
            .any(|record| record.disk == *disk && record.key != *key))
    }

    /// Descriptions of what needs a disk: processes and dependents.
    fn needed_by(&self, id: &DiskId) -> Result<Vec<String>, StoreError> {
        let mut users = self.users(id)?;
        let dependents = (self.list_dependents())().map_err(StoreError::Dependents)?;
        let needs_it =
            |dependent: &Dependent| DiskId::of_path(&dependent.disk).as_ref() == Some(id);
        users.extend(
            dependents
                .into_iter()
                .filter(needs_it)
                .map(|dependent| dependent.description),
        );
        Ok(users)
    }

    /// Removes the disks that nothing needs, and the build directories of killed processes; gives these disks.
    pub(crate) fn sweep(&self) -> Result<Vec<SweptDisk>, StoreError> {
        let build_dirs = self.abandoned_build_dirs()?;
        let mut temporary = Vec::new();
        for dir in ["names", "disks"].map(|dir| self.dir().join(dir)) {
            let left = files::abandoned_temporary(&dir);
            temporary.extend(left.map_err(file_error("list", &dir))?);
        }
        let removed = self.dir().join("removed");
        let mut gone: Vec<PathBuf> = list(&removed)
            .map_err(file_error("list", &removed))?
            .iter()
            .map(|file| removed.join(file))
            .collect();
        let mut swept = Vec::new();
        {
            // Under the lock, disks are only moved away. To delete them takes a while.
            let _held = self.lock()?;
            for disk in self.unneeded_disks()? {
                swept.push(SweptDisk {
                    bytes: file_bytes(&self.disk_path(&disk, "raw")),
                    disk: disk.clone(),
                });
                for extension in ["raw", "json"] {
                    let from = self.disk_path(&disk, extension);
                    let to = removed.join(format!("{disk}.{extension}"));
                    move_away(&from, &to).map_err(file_error("remove", &from))?;
                    gone.push(to);
                }
            }
        }
        files::remove_abandoned(temporary).map_err(file_error("clear", self.dir()))?;
        for (dir, _held) in build_dirs {
            remove_dir(&dir).map_err(file_error("remove", &dir))?;
        }
        for path in gone {
            remove_file(&path).map_err(file_error("remove", &path))?;
        }
        Ok(swept)
    }

    fn unneeded_disks(&self) -> Result<Vec<DiskId>, StoreError> {
        let dir = self.dir().join("disks");
        let disks: BTreeSet<DiskId> = list(&dir)
            .map_err(file_error("list", &dir))?
            .iter()
            .filter_map(|file| file.split_once('.')?.0.parse().ok())
            .collect();
        // A record that can't be read may name any disk: then none is removed.
        let named = self
            .records()?
            .into_iter()
            .map(|record| record.disk)
            .collect();
        let mut unneeded = Vec::new();
        for disk in disks.difference(&named) {
            if self.needed_by(disk)?.is_empty() {
                unneeded.push(disk.clone());
            }
        }
        Ok(unneeded)
    }

    /// Sweeps; a failure is only logged.
    pub(crate) fn sweep_or_warn(&self) -> Vec<SweptDisk> {
        let swept = self.sweep().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not clear leftovers among the images"
            );
            Vec::new()
        });
        for disk in &swept {
            tracing::info!("removed {disk}");
        }
        swept
    }

    /// Removes the blobs that no image needs; `None` while a process fetches blobs.
    pub(crate) fn remove_blobs(&self) -> Result<Option<SweptBlobs>, StoreError> {
        let Some(_exclusive) = self.try_remove_blobs()? else {
            return Ok(None);
        };
        let records = self.records()?;
        let needed: BTreeSet<_> = records
            .iter()
            .flat_map(|record| record.content.blobs())
            .collect();
        let all = self.blobs().all()?;
        let abandoned = self.blobs().abandoned()?;
        let mut swept = SweptBlobs::default();
        for (digest, bytes) in all {
            if !needed.contains(&digest) {
                self.blobs().remove(&digest)?;
                swept.whole.push((digest, bytes));
            }
        }
        swept.partial = self.blobs().remove_abandoned(abandoned)?;
        Ok(Some(swept))
    }
}

/// A disk that was removed since nothing needed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SweptDisk {
    /// Its id.
    pub(crate) disk: DiskId,
    /// The space that it took on the host, in bytes.
    pub(crate) bytes: u64,
}

impl fmt::Display for SweptDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk {} ({})", self.disk, size(self.bytes))
    }
}

/// The blobs that were removed since nothing needed them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SweptBlobs {
    /// Whole blobs with their sizes in bytes.
    pub(crate) whole: Vec<(Digest, u64)>,
    /// The bytes that abandoned partial blobs took.
    pub(crate) partial: u64,
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Renames a file that may be missing.
fn move_away(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
