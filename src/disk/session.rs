//! Stores of clients' sessions: each session has its own snapshots and layers, and they are removed with it.
//!
//! ```text
//! <data>/sandboxes/<name>@<id>/session   locked while the session lives; the rest is like in any store
//! ```
//!
//! The machines of a session can start from a snapshot of the user's own store ([`Store::of_session`]), which holds the
//! snapshot's layers as it holds those of a running VM. A new server removes the stores that a killed one has left.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::error::{StoreError, io_error};
use super::record::Record;
use super::store::{Session, Store, VmDir, entries, left_behind};
use crate::names::{SandboxName, SnapshotName};
use crate::{presence, private};

/// The file whose lock shows that the session lives.
pub(super) const LOCK: &str = "session";

impl Store {
    /// A new store for a session of the sandbox `name`, removed with its last clone. Its machines start from the
    /// snapshot `start` of the sandbox's own store, if one is given.
    pub fn of_session(
        data_dir: &Path,
        name: &SandboxName,
        start: Option<&SnapshotName>,
    ) -> Result<Self, StoreError> {
        let from = Self::open(data_dir, name)?;
        let start = start.map(|start| from.pinned(start)).transpose()?;
        let name = name.session();
        let dir = data_dir.join("sandboxes").join(name.as_str());
        let made = private::new_dir(&dir).and_then(|()| presence::hold(&dir, LOCK));
        let lock = made.map_err(io_error("make the directory", &dir))?;
        let session = Session {
            dir,
            _lock: lock,
            from,
            start,
        };
        Ok(Self {
            session: Some(Arc::new(session)),
            ..Self::open(data_dir, &name)?
        })
    }

    /// A snapshot, and a lock that keeps its layers from being swept.
    fn pinned(&self, name: &SnapshotName) -> Result<(Record, VmDir), StoreError> {
        let run = self.new_vm()?;
        let record = self.get(name)?;
        let layers: Vec<_> = record.all_layers().cloned().collect();
        run.set_layers(&layers)?;
        run.set_base(&record.base.disk)?;
        // Read it again: it may have been deleted before its layers were held.
        Ok((self.get(name)?, run))
    }

    /// Removes the stores of dead sessions.
    pub fn sweep_sessions(data_dir: &Path) {
        let dir = data_dir.join("sandboxes");
        let all = match presence::is_name(&dir) {
            Ok(true) => entries(&dir).unwrap_or_default(),
            Ok(false) | Err(_) => return,
        };
        for path in all {
            let lock = path.join(LOCK);
            let is_session = Store::at(path.clone()).name.is_session();
            // A directory without a lock is being made. If the lock can't be read, the store stays.
            let there = is_session && presence::is_name(&lock).unwrap_or(false);
            if there && matches!(presence::is_held(&lock), Ok(false)) {
                left_behind(&path, fs::remove_dir_all(&path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::record::Base;
    use super::super::tests::named;
    use super::*;

    fn saved(store: &Store, dir: &Path, name: &str) -> PathBuf {
        let disk = dir.join("base.raw");
        fs::write(&disk, b"base").unwrap();
        let base = Base {
            image: "debian".into(),
            disk,
            env: Vec::new(),
            user: None,
            workdir: None,
        };
        let layer = store.new_layer();
        fs::write(store.layer(&layer), b"layer").unwrap();
        store
            .save(&named(name), base, vec![layer.clone()], None, false)
            .unwrap();
        store.layer(&layer)
    }

    fn names(store: &Store) -> Vec<String> {
        let all = store.list().unwrap().into_iter();
        all.map(|record| record.name.to_string()).collect()
    }

    #[test]
    fn what_one_session_saves_is_no_others_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = Store::open(dir.path(), &named("test")).unwrap();
        let [one, two] =
            [(); 2].map(|()| Store::of_session(dir.path(), &named("test"), None).unwrap());
        let layer = saved(&one, dir.path(), "mine");
        assert_eq!(names(&one), ["mine"]);
        assert!(names(&two).is_empty() && names(&own).is_empty());
        assert!(matches!(
            two.delete(&named("mine")),
            Err(StoreError::NotFound { .. })
        ));
        saved(&two, dir.path(), "mine");
        Store::sweep_sessions(dir.path());
        own.sweep();
        two.sweep();
        assert!(layer.exists());
        // The sandbox may live longer than its entry in the table of sessions.
        let of_sandbox = one.clone();
        drop(one);
        assert!(layer.exists());
        drop(of_sandbox);
        assert!(!layer.exists());
        assert_eq!(names(&two), ["mine"]);
    }

    #[test]
    fn what_a_killed_server_left_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let living = Store::of_session(dir.path(), &named("test"), None).unwrap();
        let dead = dir.path().join("sandboxes/test@0000000000000000");
        fs::create_dir_all(dead.join("layers")).unwrap();
        Store::sweep_sessions(dir.path());
        assert!(dead.exists(), "it may be in the making");
        fs::write(dead.join(LOCK), "").unwrap();
        let other = dir.path().join("sandboxes/other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        Store::sweep_sessions(dir.path());
        assert!(!dead.exists() && other.exists());
        assert!(names(&living).is_empty());
    }

    #[test]
    fn a_start_of_the_users_is_held_as_long_as_the_session_lives() {
        let dir = tempfile::tempdir().unwrap();
        let own = Store::open(dir.path(), &named("test")).unwrap();
        let layer = saved(&own, dir.path(), "start");
        assert!(Store::of_session(dir.path(), &named("test"), Some(&named("none"))).is_err());
        let session = Store::of_session(dir.path(), &named("test"), Some(&named("start"))).unwrap();
        let start = session.start(&named("start")).unwrap();
        assert_eq!(session.layer(&start.layers[0]), layer);
        assert!(
            names(&session).is_empty(),
            "it is not the session's to delete"
        );
        own.delete(&named("start")).unwrap();
        assert!(layer.exists());
        assert!(session.start(&named("start")).is_ok());
        drop(session);
        own.sweep();
        assert!(!layer.exists());
    }
}
