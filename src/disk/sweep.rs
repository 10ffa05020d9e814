//! Removing layers that nothing needs: a plan first, then its removals.
//!
//! If it is uncertain which layers are needed, nothing is removed at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{StoreError, io_error};
use super::record::{CopiedWorkspace, Record};
use super::store::{Store, entries, left_behind};
use crate::{files, presence};

/// What a sweep removes.
#[derive(Debug)]
pub(super) struct Plan {
    /// Layers that no snapshot and no living VM names.
    pub(super) files: Vec<PathBuf>,
    /// Directories of VMs and of copies whose owner is dead.
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
        used.extend(self.layers_of_copies()?);
        let mut directories = Vec::new();
        for path in entries(&self.dir.join("run"))? {
            let lock = path.join("lock");
            if presence::is_held(&lock).map_err(io_error("look at the lock", &lock))? {
                used.extend(layers_of_vm(&path)?);
            } else {
                directories.push(path);
            }
        }
        directories.extend(self.dead_copies()?);
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let mut files = entries(&self.dir.join("layers"))?;
        files.retain(|path| name(path).is_none_or(|name| !used.contains(&name)));
        Ok(Plan { files, directories })
    }

    /// The layers of all snapshots. Fails if a record can't be understood, since it may name any layer.
    pub(super) fn layers_of_snapshots(&self) -> Result<BTreeSet<String>, StoreError> {
        let records = self.records_of_snapshots()?;
        let layers = records.iter().flat_map(Record::all_layers).cloned();
        Ok(layers.collect())
    }

    /// The copied workspaces of all snapshots. Fails as [`Self::layers_of_snapshots`] does.
    pub(super) fn workspaces_of_snapshots(&self) -> Result<Vec<CopiedWorkspace>, StoreError> {
        let records = self.records_of_snapshots()?.into_iter();
        Ok(records.filter_map(|record| record.workspace).collect())
    }

    fn records_of_snapshots(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let dir = self.dir.join("snapshots");
        if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
            return Ok(records);
        }
        for path in entries(&dir)? {
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
                Ok(record) => records.push(record),
                Err(error) if is_record => {
                    let problem = format!("is no snapshot's record ({error})");
                    return Err(StoreError::Unclear { path, problem });
                }
                Err(_) => {}
            }
        }
        Ok(records)
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
