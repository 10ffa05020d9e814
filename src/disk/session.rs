//! Stores of sandboxes that go with their client's session: its snapshots and layers are nobody else's.
//!
//! ```text
//! <data>/sandboxes/<name>@<id>/session   held as long as the session lives; the rest is as any store's
//! ```
//!
//! A session's store can stand on a snapshot of the store it comes from ([`Store::of_session`]), whose layers are held
//! there as a running VM holds its own. What a server left that was killed is removed by the next one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::error::{StoreError, io_error};
use super::record::Record;
use super::store::{Session, Store, VmDir, entries, left_behind};
use crate::names::{SandboxName, SnapshotName};
use crate::{presence, private};

/// The lock that shows that a session lives.
const LOCK: &str = "session";

impl Store {
    /// A new session's store beside the one of the sandbox `name`, which goes with the last clone of it. Machines
    /// start from that one's snapshot `start`, where one is named.
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

    /// A snapshot whose layers nobody removes as long as the directory is held.
    fn pinned(&self, name: &SnapshotName) -> Result<(Record, VmDir), StoreError> {
        let run = self.new_vm()?;
        run.set_layers(&self.get(name)?.layers)?;
        // Once more: it may have been deleted in between.
        Ok((self.get(name)?, run))
    }

    /// Removes what sessions left that are gone.
    pub fn sweep_sessions(data_dir: &Path) {
        let dir = data_dir.join("sandboxes");
        let all = match presence::is_name(&dir) {
            Ok(true) => entries(&dir).unwrap_or_default(),
            Ok(false) | Err(_) => return,
        };
        for path in all {
            let lock = path.join(LOCK);
            let is_session = Store::at(path.clone()).name.is_session();
            // One without a lock is being made. What can't be looked at stays.
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
        store.save(&named(name), base, vec![layer.clone()]).unwrap();
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
        // Its sandbox may outlive its place in the table of sessions.
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
