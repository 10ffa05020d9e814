//! Removing a sandbox's whole store, and what can be known of one without changing it.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{StoreError, io_error};
use super::owner::Owners;
use super::session::LOCK as SESSION;
use super::store::{Store, entries};
use crate::names::SandboxName;
use crate::{files, presence};

/// What lies in a store.
#[derive(Debug, Clone)]
pub(crate) struct StoreFacts {
    /// The sandbox's name.
    pub(crate) name: SandboxName,
    /// The store's directory.
    pub(crate) path: PathBuf,
    /// The directories that the sandbox belongs to.
    pub(crate) directories: Vec<PathBuf>,
    /// Whether these are there.
    pub(crate) owners: Owners,
    /// Whether a living machine uses the store.
    pub(crate) used: bool,
    /// Whether it belonged to a client's session that has ended.
    pub(crate) dead_session: bool,
    /// The snapshots with what their newest layers take, in bytes; none if a record can't be read.
    pub(crate) snapshots: Option<Vec<(String, u64)>>,
    /// Whether it has a copy of the sandbox's directory, which may have changes that were not applied.
    pub(crate) copy: bool,
    /// How many changes that copy was left with that were not applied, if that is known.
    pub(crate) unapplied: Option<u64>,
    /// The layers and directories of machines that nothing needs; none if that is uncertain.
    pub(crate) unneeded: Option<Vec<PathBuf>>,
}

/// All stores below a data directory, by name.
pub(crate) fn stores(data_dir: &Path) -> Result<Vec<StoreFacts>, StoreError> {
    let dir = data_dir.join("sandboxes");
    if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
        return Ok(Vec::new());
    }
    let mut all: Vec<_> = entries(&dir)?
        .into_iter()
        .filter(|path| path.is_dir())
        .map(|path| Store::at(path).facts())
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Store {
    fn facts(&self) -> StoreFacts {
        let records = self.list().ok();
        let session = self.dir.join(SESSION);
        StoreFacts {
            name: self.name.clone(),
            path: self.dir.clone(),
            directories: self.directories().unwrap_or_default(),
            owners: self.whereabouts(),
            used: self.is_used().unwrap_or(true),
            dead_session: self.name.is_session()
                && presence::is_name(&session).unwrap_or(false)
                && matches!(presence::is_held(&session), Ok(false)),
            copy: self.has_copy(),
            unapplied: self.unapplied(),
            snapshots: records.map(|records| {
                let of = |record: super::Record| (record.name.to_string(), record.bytes);
                records.into_iter().map(of).collect()
            }),
            unneeded: self
                .plan()
                .ok()
                .map(|plan| [plan.files, plan.directories].concat()),
        }
    }

    /// Whether a living machine, or a session that starts from a snapshot here, uses this store.
    fn is_used(&self) -> Result<bool, StoreError> {
        let run = self.dir.join("run");
        if !presence::is_name(&run).map_err(io_error("look for", &run))? {
            return Ok(false);
        }
        for vm in entries(&run)? {
            let lock = vm.join("lock");
            if presence::is_held(&lock).map_err(io_error("look at the lock", &lock))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the sandbox `name` has a store.
    pub(crate) fn is_there(data_dir: &Path, name: &SandboxName) -> Result<bool, StoreError> {
        let dir = data_dir.join("sandboxes").join(name.as_str());
        presence::is_name(&dir).map_err(io_error("look for", &dir))
    }

    /// Removes the store of the sandbox `name` with its snapshots; false if a living machine uses it. With `orphan`, it is
    /// removed only if its directories are gone.
    pub(crate) fn remove(
        data_dir: &Path,
        name: &SandboxName,
        orphan: bool,
    ) -> Result<bool, StoreError> {
        let all = data_dir.join("sandboxes");
        let store = Self::at(all.join(name.as_str()));
        if !Self::is_there(data_dir, name)? {
            return Ok(true);
        }
        // It gets a dead session's name first: if this process is killed meanwhile, the next sweep goes on.
        let doomed = all.join(name.session().as_str());
        let _removing = {
            let _held = store.lock()?;
            if store.is_used()? || (orphan && store.whereabouts() != Owners::Gone) {
                return Ok(false);
            }
            files::remove_file(&store.dir.join(format!("{SESSION}.new"))).ok();
            let removing = presence::hold(&store.dir, SESSION)
                .map_err(io_error("lock", &store.dir.join(SESSION)))?;
            fs::rename(&store.dir, &doomed).map_err(io_error("remove", &store.dir))?;
            removing
        };
        fs::remove_dir_all(&doomed).map_err(io_error("remove", &doomed))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::named;
    use super::*;

    #[test]
    fn a_store_goes_whole_but_not_while_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let name = named("test");
        let store = Store::open(dir.path(), &name).unwrap();
        let layer = store.layer("one.qcow2");
        fs::write(&layer, "layer").unwrap();
        let vm = store.new_vm().unwrap();
        vm.set_layers(&["one.qcow2".to_owned()]).unwrap();
        let facts = &stores(dir.path()).unwrap()[0];
        assert!(facts.used && facts.unneeded.as_ref().unwrap().is_empty());
        assert!(!Store::remove(dir.path(), &name, false).unwrap());
        assert!(layer.exists());
        drop(vm);
        let facts = &stores(dir.path()).unwrap()[0];
        assert!(!facts.used && facts.unneeded.as_ref().unwrap().len() == 2);
        assert!(layer.exists(), "to look changes nothing");
        store.belongs_to(dir.path()).unwrap();
        assert!(
            !Store::remove(dir.path(), &name, true).unwrap(),
            "its directory is there"
        );
        assert!(Store::remove(dir.path(), &name, false).unwrap());
        assert!(!Store::is_there(dir.path(), &name).unwrap());
        let left = fs::read_dir(dir.path().join("sandboxes")).unwrap().count();
        assert_eq!(left, 0);
    }
}
