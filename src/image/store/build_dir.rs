//! Directories in which images and disks are made. Only one process at a time makes the same thing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::blocking::blocking_here;
use crate::files::{list, remove_dir, try_lock};
use crate::image::file_error::{FileError, file_error};
use crate::image::store::image_store::ImageStore;
use crate::private;

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// A directory in which one image or disk is made, with the exclusive right to make it. The directory is removed when
/// this is dropped.
pub(crate) struct BuildDir {
    path: PathBuf,
    waited: bool,
    _lock: File,
}

impl BuildDir {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another process was making the same thing before.
    pub(crate) fn waited(&self) -> bool {
        self.waited
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if let Err(error) = blocking_here(|| remove_dir(&self.path)) {
            tracing::warn!(dir = %self.path.display(), %error, "could not remove a build directory");
        }
    }
}

impl ImageStore {
    /// Takes the exclusive right to make `name`. While another process has it, this waits; `say_waiting` is called
    /// first.
    pub(crate) async fn build_dir(
        &self,
        name: &str,
        say_waiting: impl FnOnce(),
    ) -> Result<BuildDir, FileError> {
        let mut say_waiting = Some(say_waiting);
        // Polled, since a thread that waits for a lock can't be cancelled.
        loop {
            let (name, waited) = (name.to_owned(), say_waiting.is_none());
            let taken = self.blocking(move |store| store.try_build_dir(&name, waited));
            if let Some(dir) = taken.await? {
                return Ok(dir);
            }
            if let Some(say_waiting) = say_waiting.take() {
                say_waiting();
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn try_build_dir(&self, name: &str, waited: bool) -> Result<Option<BuildDir>, FileError> {
        let lock = self.dir().join("locks").join(name);
        let Some(held) = try_lock(&lock).map_err(file_error("lock", &lock))? else {
            return Ok(None);
        };
        let path = self.dir().join("building").join(name);
        let made = remove_dir(&path).and_then(|()| private::new_dir(&path));
        made.map_err(file_error("make the directory", &path))?;
        Ok(Some(BuildDir {
            path,
            waited,
            _lock: held,
        }))
    }

    /// The build directories of killed processes, each locked.
    pub(crate) fn abandoned_build_dirs(&self) -> Result<Vec<(PathBuf, File)>, FileError> {
        let building = self.dir().join("building");
        let mut abandoned = Vec::new();
        for file in list(&building).map_err(file_error("list", &building))? {
            let path = self.dir().join("locks").join(&file);
            let held = try_lock(&path).map_err(file_error("lock", &path))?;
            abandoned.extend(held.map(|held| (building.join(&file), held)));
        }
        Ok(abandoned)
    }
}
