use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::*;
use crate::presence::tests::UNREADABLE;
use crate::{files, presence};

mod merged;

pub(super) fn named<T: FromStr<Err: std::fmt::Debug>>(name: &str) -> T {
    name.parse().unwrap()
}

fn store() -> (tempfile::TempDir, Store, Base) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &named("test")).unwrap();
    let disk = dir.path().join("base.raw");
    fs::write(&disk, b"base").unwrap();
    (
        dir,
        store,
        Base {
            image: "debian".into(),
            disk,
            env: Vec::new(),
            user: None,
            workdir: None,
        },
    )
}

fn layer(store: &Store) -> String {
    let name = store.new_layer();
    fs::write(store.layer(&name), b"layer").unwrap();
    name
}

#[test]
fn a_snapshot_is_saved_listed_and_deleted_with_its_layers() {
    let (_dir, store, base) = store();
    let (a, b) = (layer(&store), layer(&store));
    store
        .save(
            &named("two"),
            base.clone(),
            vec![a.clone(), b.clone()],
            None,
            false,
        )
        .unwrap();
    let save = || store.save(&named("one"), base.clone(), vec![a.clone()], None, false);
    let (saved, synced) = files::tests::syncs(&store.snapshots(), save);
    assert!(saved.is_ok() && synced, "a snapshot outlives a power cut");
    let names: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|r| r.name.to_string())
        .collect();
    assert_eq!(names, ["one", "two"]);
    assert!(matches!(
        store.save(&named("one"), base, vec![], None, false),
        Err(StoreError::Exists(_))
    ));
    let (deleted, synced) = files::tests::syncs(&store.snapshots(), || store.delete(&named("two")));
    assert!(deleted.is_ok() && synced);
    assert!(store.layer(&a).exists() && !store.layer(&b).exists());
    store.delete(&named("one")).unwrap();
    assert!(!store.layer(&a).exists());
    assert!(matches!(
        store.delete(&named("one")),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn snapshots_take_no_more_than_they_may_those_of_sessions_included() {
    let (dir, store, base) = store();
    let big = |store: &Store| {
        let name = layer(store);
        fs::write(store.layer(&name), vec![1; 1 << 20]).unwrap();
        name
    };
    let limit = 3 << 20;
    let first = big(&store);
    store.check_size(&named("a"), &first, 0, limit).unwrap();
    store
        .save(&named("a"), base.clone(), vec![first.clone()], None, false)
        .unwrap();
    // A layer of two snapshots counts once, and a layer without a snapshot does not count.
    store
        .save(&named("b"), base.clone(), vec![first], None, false)
        .unwrap();
    big(&store);
    let session = Store::of_session(dir.path(), &named("test"), None).unwrap();
    let second = big(&session);
    session
        .save(&named("c"), base.clone(), vec![second], None, false)
        .unwrap();
    let third = big(&session);
    session.check_size(&named("d"), &third, 0, limit).unwrap();
    session
        .save(&named("d"), base, vec![third], None, false)
        .unwrap();
    let error = store
        .check_size(&named("e"), &big(&store), 0, limit)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("3 MiB of the 3 MiB") && error.contains("snapshot_gib"),
        "{error}"
    );
    assert!(
        error.contains("a (1 MiB)") && !error.contains("c ("),
        "another's names are not told: {error}"
    );
    drop(session);
    store
        .check_size(&named("e"), &big(&store), 0, limit)
        .unwrap();
}

#[test]
fn no_other_user_can_enter() {
    let (dir, store, _base) = store();
    let run = store.new_vm().unwrap();
    let all = dir.path().join("sandboxes");
    for path in [&all, &store.dir, &store.dir.join("layers"), run.path()] {
        assert_eq!(
            path.metadata().unwrap().mode() & 0o777,
            0o700,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_living_vm_keeps_its_layers_and_a_dead_one_does_not() {
    let (_dir, store, _base) = store();
    let run = store.new_vm().unwrap();
    let used = layer(&store);
    run.set_layers(std::slice::from_ref(&used)).unwrap();
    store.try_sweep().unwrap();
    assert!(store.layer(&used).exists());
    let path = run.path().to_owned();
    drop(run);
    store.try_sweep().unwrap();
    assert!(!store.layer(&used).exists() && !path.exists());
}

#[test]
fn stray_files_lose_nothing() {
    let (dir, store, base) = store();
    let a = layer(&store);
    store
        .save(&named("good"), base.clone(), vec![a.clone()], None, false)
        .unwrap();
    let snapshots = dir.path().join("sandboxes/test/snapshots");
    fs::write(snapshots.join("stray.json"), "what is this").unwrap();
    fs::write(snapshots.join("readme.txt"), "hello").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(matches!(
        store.save(&named("stray"), base, vec![], None, false),
        Err(StoreError::Exists(_))
    ));
    assert!(matches!(
        store.get(&named("stray")),
        Err(StoreError::Damaged { .. })
    ));
    assert!(matches!(
        store.delete(&named("stray")),
        Err(StoreError::Damaged { .. })
    ));
    let error = store.try_sweep().unwrap_err().to_string();
    assert!(
        error.contains("stray.json") && error.contains("move it away"),
        "{error}"
    );
    store.sweep();
    assert!(store.layer(&a).exists() && snapshots.join("stray.json").exists());
    assert!(
        all_records(dir.path()).is_err(),
        "it may stand on any image"
    );
}

#[test]
fn an_error_is_no_answer() {
    let prepare = || {
        let (dir, store, base) = store();
        let run = store.new_vm().unwrap();
        let [kept, used, _unused] = [(); 3].map(|()| layer(&store));
        store
            .save(&named("good"), base, vec![kept], None, false)
            .unwrap();
        run.set_layers(std::slice::from_ref(&used)).unwrap();
        fs::create_dir(store.dir.join("run/dead")).unwrap();
        let path = dir.path().to_owned();
        ((dir, store, run), path)
    };
    let describe = |error: StoreError| crate::describe(&error);
    let swept = presence::tests::each_question_may_fail(prepare, |(_, store, _)| {
        store.try_sweep().map_err(describe)
    });
    assert!(
        swept > 10,
        "{swept} questions: it does not ask where tests hear it"
    );
    let listed = presence::tests::each_question_may_fail(prepare, |(dir, ..)| {
        all_records(dir.path()).map(drop).map_err(describe)
    });
    assert!(listed > 3);
}

/// Sweeps a store with a layer that nothing needs and one that a living VM needs.
fn sweep_beside(damage: impl FnOnce(&Path, &Path)) -> Result<(), String> {
    let (dir, store, _base) = store();
    let run = store.new_vm().unwrap();
    let (used, unused) = (layer(&store), layer(&store));
    run.set_layers(std::slice::from_ref(&used)).unwrap();
    let dead = store.dir.join("run/dead");
    fs::create_dir(&dead).unwrap();
    damage(run.path(), &dir.path().join("sandboxes/test/snapshots"));
    let swept = store.try_sweep();
    let gone = [store.layer(&unused), dead].map(|path| !path.exists());
    assert!(store.layer(&used).exists(), "a running VM's disk is gone");
    assert_eq!(gone, [swept.is_ok(); 2], "{swept:?}");
    swept.map_err(|error| crate::describe(&error))
}

#[test]
fn nothing_is_swept_where_it_can_not_be_told_what_is_needed() {
    assert_eq!(sweep_beside(|_, _| ()), Ok(()));
    let replace = |path: PathBuf, make: fn(&Path)| {
        let _ = fs::remove_file(&path);
        make(&path);
    };
    for (how, make) in UNREADABLE {
        for file in ["layers.json", "lock"] {
            let error = sweep_beside(|run, _| replace(run.join(file), make)).unwrap_err();
            assert!(error.contains(file), "{how}: {error}");
        }
        let error = sweep_beside(|_, snapshots| make(&snapshots.join("a.json"))).unwrap_err();
        assert!(error.contains("a.json"), "{how}: {error}");
    }
    for text in ["", "[\"0123.qcow2", "{}", "null"] {
        let error = sweep_beside(|run, _| fs::write(run.join("layers.json"), text).unwrap());
        let error = error.unwrap_err();
        assert!(error.contains("move it away"), "{text}: {error}");
    }
    let error = sweep_beside(|run, _| fs::write(run.with_file_name("file"), "").unwrap());
    assert!(error.unwrap_err().contains("run/file"));
}

#[test]
fn a_snapshot_whose_layer_is_gone_says_so() {
    let (_dir, store, base) = store();
    let a = layer(&store);
    store
        .save(&named("good"), base, vec![a.clone()], None, false)
        .unwrap();
    fs::remove_file(store.layer(&a)).unwrap();
    assert!(
        store
            .get(&named("good"))
            .unwrap_err()
            .to_string()
            .contains("missing")
    );
}
