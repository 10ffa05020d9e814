//! Leases of disks: one lock file per user of a disk, `uses/<id>.<n>`. It is locked as long as the user lives, and holds
//! a description of it. Leases are taken and counted with the store's lock held.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::blocking::blocking_here;
use crate::files::{list, remove_file, try_lock};
use crate::image::file_error::{FileError, file_error};
use crate::image::store::disk_id::DiskId;
use crate::{presence, private};

/// Keeps a disk in the store until it is dropped. What still needs the disk then, such as a snapshot, must be listed by
/// [`super::dependents::ListDependents`] before.
#[derive(Debug)]
pub(crate) struct DiskLease {
    disk: PathBuf,
    file: PathBuf,
    _lock: File,
}

impl DiskLease {
    /// The root disk: raw, sparse, read-only.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }
}

impl Drop for DiskLease {
    fn drop(&mut self) {
        // An unlocked file that stays is no lease, and goes with the next count.
        if let Err(error) = blocking_here(|| remove_file(&self.file)) {
            tracing::debug!(file = %self.file.display(), %error, "could not remove a disk's lease");
        }
    }
}

/// Takes a lease on the disk at `disk` with that id, for a user with that description.
pub(crate) fn take(
    uses: &Path,
    disk: PathBuf,
    id: &DiskId,
    user: &str,
) -> Result<DiskLease, FileError> {
    let path = uses.join(format!("{id}.{:016x}", rand::random::<u64>()));
    let write = || {
        let mut file = private::file().write(true).create_new(true).open(&path)?;
        file.try_lock()?;
        write!(file, "{user} (process {})", std::process::id())?;
        Ok(file)
    };
    let lock = write().map_err(file_error("write", &path))?;
    Ok(DiskLease {
        disk,
        file: path,
        _lock: lock,
    })
}

/// The descriptions of a disk's users. Leases whose owner is dead are removed.
pub(crate) fn users(uses: &Path, disk: &DiskId) -> Result<Vec<String>, FileError> {
    let mut users = Vec::new();
    for path in leases_of(uses, disk)? {
        match try_lock(&path).map_err(file_error("lock", &path))? {
            Some(_) => remove_file(&path).map_err(file_error("remove", &path))?,
            None => users.push(description(&path)),
        }
    }
    users.sort();
    Ok(users)
}

/// The descriptions of a disk's users; leases whose owner is dead stay.
pub(crate) fn living_users(uses: &Path, disk: &DiskId) -> Result<Vec<String>, FileError> {
    if !presence::is_name(uses).map_err(file_error("look for", uses))? {
        return Ok(Vec::new());
    }
    let mut users = Vec::new();
    for path in leases_of(uses, disk)? {
        if presence::is_held(&path).map_err(file_error("look at the lock", &path))? {
            users.push(description(&path));
        }
    }
    users.sort();
    Ok(users)
}

/// The files of a disk's leases, of living and dead owners.
fn leases_of(uses: &Path, disk: &DiskId) -> Result<Vec<PathBuf>, FileError> {
    let mut files = list(uses).map_err(file_error("list", uses))?;
    files.retain(|file| {
        file.split_once('.')
            .is_some_and(|(id, _)| id == disk.as_str())
    });
    Ok(files.iter().map(|file| uses.join(file)).collect())
}

fn description(lease: &Path) -> String {
    fs::read_to_string(lease).unwrap_or_else(|_| "an unknown process".into())
}
