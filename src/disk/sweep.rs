//! Removing layers that nothing needs: a plan first, then its removals.
//!
//! If it is uncertain which layers are needed, nothing is removed at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{StoreError, io_error};
use super::record::Record;
use super::store::{Store, entries, left_behind};
use crate::{files, presence};

/// What a sweep removes.
#[derive(Debug)]
pub(super) struct Plan {
    /// Layers that no snapshot and no living VM names.
    pub(super) files: Vec<PathBuf>,
    /// Directories of VMs whose owner is dead.
    pub(super) directories: Vec<PathBuf>,
}

impl Store {
    /// Removes what nothing needs; if that is uncertain, removes nothing and logs why.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no disk layer of this sandbox is cleared away"
            );
        }
    }

    pub(super) fn try_sweep(&self) -> Result<(), StoreError> {
        let _held = self.lock()?;
        let mut temporary = Vec::new();
        for dir in [self.dir.clone(), self.dir.join("snapshots")] {
            let left = files::abandoned_temporary(&dir);
            temporary.extend(left.map_err(io_error("list", &dir))?);
        }
        let plan = self.plan()?;
        left_behind(&self.dir, files::remove_abandoned(temporary).map(drop));
        for path in &plan.files {
            left_behind(path, fs::remove_file(path));
        }
        for path in &plan.directories {
            left_behind(path, fs::remove_dir_all(path));
        }
        Ok(())
    }

    /// Lists what nothing needs.
    pub(super) fn plan(&self) -> Result<Plan, StoreError> {
        let mut used = self.layers_of_snapshots()?;
        let mut directories = Vec::new();
        for path in entries(&self.dir.join("run"))? {
            let lock = path.join("lock");
            if presence::is_held(&lock).map_err(io_error("look at the lock", &lock))? {
                used.extend(layers_of_vm(&path)?);
            } else {
                directories.push(path);
            }
        }
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let mut files = entries(&self.dir.join("layers"))?;
        files.retain(|path| name(path).is_none_or(|name| !used.contains(&name)));
        Ok(Plan { files, directories })
    }

    /// The layers of all snapshots. Fails if a record can't be understood, since it may name any layer.
    pub(super) fn layers_of_snapshots(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut used = BTreeSet::new();
        for path in entries(&self.dir.join("snapshots"))? {
            let is_record = path
                .extension()
                .is_some_and(|extension| extension == "json");
            let record = match presence::read(&path) {
                Ok(Some(text)) => serde_json::from_slice::<Record>(&text),
                Ok(None) => continue,
                Err(error) if is_record => return Err(io_error("read", &path)(error)),
                Err(_) => continue,
            };
            match record {
                Ok(record) => used.extend(record.layers),
                Err(error) if is_record => {
                    let problem = format!("is no snapshot's record ({error})");
                    return Err(StoreError::Unclear { path, problem });
                }
                Err(_) => {}
            }
        }
        Ok(used)
    }
}

/// The layers of a living VM; none before it has written its list.
fn layers_of_vm(run: &Path) -> Result<Vec<String>, StoreError> {
    let path = run.join("layers.json");
    let Some(text) = presence::read(&path).map_err(io_error("read", &path))? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&text).map_err(|error| StoreError::Unclear {
        path,
        problem: format!("is no list of a running VM's layers ({error})"),
    })
}
