//! Who stands on a disk: a mark per user, `uses/<id>.<n>`, that says who it is and is locked as long as they live.
//! Marks are made and judged with the store's lock held.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::files::{list, remove_file, try_lock};
use crate::image::error::io_error;
use crate::image::{DiskId, ImageError, ImageRecord};
use crate::private;

/// The right to stand on a disk: as long as it lives, the disk stays.
/// Whoever leaves something behind that stands on it (a snapshot) lets [`crate::image::References`] know before dropping this.
#[derive(Debug)]
pub struct ImageHandle {
    disk: PathBuf,
    record: Option<ImageRecord>,
    mark: PathBuf,
    _lock: File,
}

impl ImageHandle {
    /// The root disk: raw, sparse, read-only.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// The image it was opened as; nothing where a disk was opened that may have no name any more.
    pub fn record(&self) -> Option<&ImageRecord> {
        self.record.as_ref()
    }
}

impl Drop for ImageHandle {
    fn drop(&mut self) {
        // Should this fail, the mark is found without a holder and removed later.
        let _ = remove_file(&self.mark);
    }
}

/// Marks a disk as used.
pub(crate) fn mark(
    uses: &Path,
    disk: PathBuf,
    id: &DiskId,
    record: Option<ImageRecord>,
    user: &str,
) -> Result<ImageHandle, ImageError> {
    let mark = uses.join(format!("{id}.{:016x}", rand::random::<u64>()));
    let write = || {
        let mut file = private::file().write(true).create_new(true).open(&mark)?;
        file.try_lock()?;
        write!(file, "{user} (process {})", std::process::id())?;
        Ok(file)
    };
    let lock = write().map_err(io_error("write", &mark))?;
    Ok(ImageHandle {
        disk,
        record,
        mark,
        _lock: lock,
    })
}

/// Who uses a disk, for a person. Marks that nobody holds are removed.
pub(crate) fn users(uses: &Path, disk: &DiskId) -> Result<Vec<String>, ImageError> {
    let mut users = Vec::new();
    for file in list(uses).map_err(io_error("list", uses))? {
        if file
            .split_once('.')
            .is_none_or(|(id, _)| id != disk.as_str())
        {
            continue;
        }
        let path = uses.join(&file);
        if try_lock(&path).map_err(io_error("lock", &path))?.is_some() {
            remove_file(&path).map_err(io_error("remove", &path))?;
        } else {
            users.push(fs::read_to_string(&path).unwrap_or_else(|_| "somebody".into()));
        }
    }
    users.sort();
    Ok(users)
}
