//! What the store promises, tested with an unpacker that needs no VM: it copies the bytes of the layers to the disk.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::content::{Content, RunConfig};
use super::digest::Digest;
use super::source::archive;
use super::store::eviction::Pruned;
use super::store::record::{DiskRecord, ImageRecord, Source};
use super::store::store_error::StoreError;
use super::*;
use crate::image::compression::Compression;
use crate::presence::tests::each_question_may_fail;
use crate::progress::{Progress, Step};

mod sweep;

/// Copies the layers to an empty part of the disk, as soon as the gate is open.
struct Copy {
    times: AtomicUsize,
    gate: Semaphore,
}

const AT: u64 = 1 << 30;

impl Copy {
    fn open() -> Self {
        Self {
            times: AtomicUsize::new(0),
            gate: Semaphore::new(1000),
        }
    }

    fn closed() -> Self {
        Self {
            times: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        }
    }
}

impl Unpacker for Copy {
    async fn unpack(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> Result<Unpacked, UnpackError> {
        self.times.fetch_add(1, Ordering::SeqCst);
        progress.say("copying");
        self.gate.acquire().await.unwrap().forget();
        let mut file = File::options()
            .write(true)
            .open(disk)
            .map_err(UnpackError::new)?;
        file.seek(SeekFrom::Start(AT)).map_err(UnpackError::new)?;
        let mut bytes = 0;
        for layer in layers {
            let mut input = layer.open(progress, "copying").map_err(UnpackError::new)?;
            bytes += std::io::copy(&mut input, &mut file)
                .map_err(|_| UnpackError::new("the stream ended early"))?;
        }
        Ok(Unpacked {
            entries: 1,
            bytes,
            ..Unpacked::default()
        })
    }
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A data directory, and the dependents that the store is told.
struct Home {
    dir: tempfile::TempDir,
    dependents: Arc<Mutex<Vec<Dependent>>>,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            dependents: Arc::default(),
        }
    }

    fn store(&self) -> ImageStore {
        let dependents = self.dependents.clone();
        ImageStore::open(
            self.dir.path(),
            Arc::new(move || Ok(dependents.lock().unwrap().clone())),
        )
        .unwrap()
    }

    /// An archive whose content is `text`.
    fn archive(&self, text: &str) -> PathBuf {
        let path = self
            .dir
            .path()
            .join(format!("{}.tar", text.replace(' ', "-")));
        fs::write(&path, tar_of(&[("etc/motd", text.as_bytes())])).unwrap();
        path
    }

    fn files(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("images").join(part)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn assert_nothing_is_left(&self) {
        for part in ["names", "disks", "uses", "building"] {
            assert_eq!(self.files(part), Vec::<String>::new(), "{part}");
        }
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn key(text: &str) -> ImageKey {
    ImageKey::from(&name(text))
}

fn content(disk: &Path) -> String {
    let mut file = File::open(disk).unwrap();
    file.seek(SeekFrom::Start(AT + 512)).unwrap();
    let mut text = vec![0; 64];
    file.read_exact(&mut text).unwrap();
    String::from_utf8(text)
        .unwrap()
        .trim_end_matches('\0')
        .to_owned()
}

async fn wait_for(steps: &mut tokio::sync::mpsc::UnboundedReceiver<Step>, part: &str) {
    while let Some(step) = steps.recv().await {
        if step.message.contains(part) {
            return;
        }
    }
    panic!("never said {part:?}");
}

#[tokio::test]
async fn an_import_makes_a_disk_that_stays_as_it_is() {
    let home = Home::new();
    let store = home.store();
    let path = home.archive("hello");
    let made = store
        .import(&name("first"), &path, &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let Source::File { path: from, .. } = &made.record.source else {
        panic!("{:?}", made.record.source)
    };
    assert_eq!(*from, path.canonicalize().unwrap());
    assert_eq!(
        (made.record.content.layers.len(), made.disk.entries),
        (1, 1)
    );
    assert!(
        made.disk.bytes > 4096 && made.disk.bytes < 16 << 20,
        "{}",
        made.disk.bytes
    );

    let handle = store.lease(&key("first"), "sandbox x").unwrap();
    let meta = handle.disk().metadata().unwrap();
    assert_eq!(
        (meta.len(), meta.permissions().mode() & 0o777),
        (store::empty_disk::DISK_BYTES, 0o400)
    );
    assert_eq!(content(handle.disk()), "hello");
    assert_eq!(
        DiskId::of_path(handle.disk()),
        Some(made.record.disk.clone())
    );

    // Another process sees the same image and its users.
    let images = home.store().list().unwrap();
    assert_eq!((images.len(), &images[0].record), (1, &made.record));
    let me = format!("sandbox x (process {})", std::process::id());
    assert_eq!(images[0].users, [me]);
    assert_eq!(home.files("building"), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_is_not_there_is_not_found() {
    let home = Home::new();
    let store = home.store();
    let error = store.lease(&key("a"), "x").unwrap_err().to_string();
    assert!(
        error.contains("`a`") && error.contains("none yet"),
        "{error}"
    );
    store
        .import(
            &name("b"),
            &home.archive("b"),
            &Copy::open(),
            &Progress::none(),
        )
        .await
        .unwrap();
    let error = store.remove(&key("a")).unwrap_err().to_string();
    assert!(error.contains("there are b"), "{error}");
    // The name of a recipe never means the hub.
    let reference = ImageRef::Name(name("debian"));
    let none = Registries::default();
    let ensured = store
        .ensure(&reference, &none, &Copy::open(), &Progress::none())
        .await;
    let error = ensured.unwrap_err().to_string();
    assert!(error.contains("`debian`: there are b"), "{error}");
}

#[tokio::test]
async fn what_is_no_image_leaves_nothing() {
    let home = Home::new();
    let store = home.store();
    let good = tar_of(&[(
        "data",
        &(0..100_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<u8>>(),
    )]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let gzip = gzip.finish().unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b"#!/bin/sh\necho this is a script\n", "no tar archive"),
        (&gzip[..gzip.len() / 2], "damaged or cut short"),
        (&gzip[..gzip.len() - 4], "damaged or cut short"),
    ];
    let path = home.dir.path().join("bad.tar");
    for (bytes, said) in cases {
        fs::write(&path, bytes).unwrap();
        let error = store
            .import(&name("bad"), &path, &Copy::open(), &Progress::none())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(said) && error.contains("bad.tar"),
            "{said}: {error}"
        );
        home.assert_nothing_is_left();
    }
    let error = store
        .import(
            &name("bad"),
            home.dir.path(),
            &Copy::open(),
            &Progress::none(),
        )
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no regular file"), "{error}");
    let missing = store
        .import(
            &name("bad"),
            Path::new("/nowhere.tar"),
            &Copy::open(),
            &Progress::none(),
        )
        .await;
    assert!(missing.unwrap_err().to_string().contains("/nowhere.tar"));
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn importing_over_a_name_keeps_the_old_disk_while_it_is_needed() {
    let home = Home::new();
    let store = home.store();
    let n = name("n");
    store
        .import(&n, &home.archive("old"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let old = store.lease(&key("n"), "sandbox x").unwrap();
    store
        .import(&n, &home.archive("new"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let new = store.lease(&key("n"), "sandbox y").unwrap();
    assert_eq!(
        (content(old.disk()).as_str(), content(new.disk()).as_str()),
        ("old", "new")
    );

    // A snapshot needs the old disk after its VM has ended: the disk stays, and is found by its id.
    let old_disk = old.disk().to_owned();
    let snapshot = Dependent {
        disk: old_disk.clone(),
        description: "snapshot clean".into(),
    };
    home.dependents.lock().unwrap().push(snapshot);
    drop(old);
    store.sweep().unwrap();
    assert_eq!(content(&old_disk), "old");
    let again = store
        .lease_disk(&DiskId::of_path(&old_disk).unwrap(), "sandbox z")
        .unwrap();
    home.dependents.lock().unwrap().clear();
    store.sweep().unwrap();
    assert!(old_disk.exists());
    drop(again);
    store.sweep().unwrap();
    assert!(!old_disk.exists());
    assert_eq!(home.files("disks").len(), 2);
    assert!(
        store
            .lease_disk(&DiskId::of_path(&old_disk).unwrap(), "x")
            .is_err()
    );
    assert_eq!(content(new.disk()), "new");
}

#[tokio::test]
async fn a_failed_import_keeps_the_old_image() {
    let home = Home::new();
    let store = home.store();
    let n = name("n");
    store
        .import(&n, &home.archive("old"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    struct Fails;
    impl Unpacker for Fails {
        async fn unpack(
            &self,
            _: &Path,
            _: &[LayerSource],
            _: &Progress,
        ) -> Result<Unpacked, UnpackError> {
            Err(UnpackError::new("the VM went away"))
        }
    }
    let error = store
        .import(&n, &home.archive("new"), &Fails, &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unpack(_)), "{error}");
    assert_eq!(content(store.lease(&key("n"), "x").unwrap().disk()), "old");
    assert_eq!(
        (home.files("disks").len(), home.files("building").len()),
        (2, 0)
    );
}

#[tokio::test]
async fn removing_is_refused_while_the_disk_is_needed() {
    let home = Home::new();
    let store = home.store();
    let n = name("n");
    store
        .import(&n, &home.archive("one"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let handle = store.lease(&key("n"), "sandbox default").unwrap();
    let error = store.remove(&key("n")).unwrap_err().to_string();
    assert!(error.contains("sandbox default (process"), "{error}");
    let snapshot = Dependent {
        disk: handle.disk().to_owned(),
        description: "snapshot clean of sandbox default".into(),
    };
    home.dependents.lock().unwrap().push(snapshot);
    drop(handle);
    let error = store.remove(&key("n")).unwrap_err().to_string();
    assert!(
        error.contains("snapshot clean") && !error.contains("process"),
        "{error}"
    );
    home.dependents.lock().unwrap().clear();
    store.remove(&key("n")).unwrap();
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn nothing_is_removed_when_dependents_are_unknown() {
    let home = Home::new();
    let n = name("n");
    home.store()
        .import(&n, &home.archive("one"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let blind = ImageStore::open(
        home.dir.path(),
        Arc::new(|| Err("the disk is on fire".into())),
    )
    .unwrap();
    assert!(matches!(
        blind.remove(&key("n")).unwrap_err(),
        StoreError::Dependents(_)
    ));
    // The image gets a new disk. The old one stays, since a snapshot may need it.
    blind
        .import(&n, &home.archive("two"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    assert_eq!(home.files("disks").len(), 4);
    home.store();
    assert_eq!(home.files("disks").len(), 2);
}

#[tokio::test]
async fn a_damaged_record_is_reported_and_can_be_removed() {
    let home = Home::new();
    let store = home.store();
    let n = name("n");
    store
        .import(&n, &home.archive("one"), &Copy::open(), &Progress::none())
        .await
        .unwrap();
    for bad in ["{\"format\":99}", "not json", ""] {
        fs::write(home.dir.path().join("images/names/n.json"), bad).unwrap();
        let error = store.lease(&key("n"), "x").unwrap_err();
        assert!(matches!(error, StoreError::DamagedRecord { .. }), "{error}");
        assert!(store.list().unwrap().is_empty());
        // A record that can't be read may name any disk.
        assert!(store.sweep().is_err());
        assert_eq!(home.files("disks").len(), 2);
    }
    store.remove(&key("n")).unwrap();
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn the_second_waits_for_the_first_and_finds_it_done() {
    let home = Home::new();
    let (path, n, copy) = (home.archive("one"), name("n"), Copy::closed());
    let (first, second) = (home.store(), home.store());
    let (progress_1, mut steps_1) = Progress::channel();
    let (progress_2, mut steps_2) = Progress::channel();
    let later = async {
        wait_for(&mut steps_1, "copying").await;
        let wait = async {
            wait_for(
                &mut steps_2,
                "waiting for another snowglobe to finish importing `n`",
            )
            .await;
            copy.gate.add_permits(1);
        };
        tokio::join!(second.import(&n, &path, &copy, &progress_2), wait).0
    };
    let (a, b) = tokio::join!(first.import(&n, &path, &copy, &progress_1), later);
    let (a, b) = (a.unwrap().record, b.unwrap().record);
    // Only the time of creation differs.
    assert_eq!((a.disk, a.content), (b.disk, b.content));
    assert_eq!(copy.times.load(Ordering::SeqCst), 1);
    // Other content under the same name is imported.
    copy.gate.add_permits(1);
    let other = first
        .import(&n, &home.archive("two"), &copy, &Progress::none())
        .await
        .unwrap();
    assert_eq!(copy.times.load(Ordering::SeqCst), 2);
    assert_eq!(
        content(
            &home
                .dir
                .path()
                .join(format!("images/disks/{}.raw", other.record.disk))
        ),
        "two"
    );
}

#[tokio::test]
async fn a_dropped_import_leaves_nothing() {
    let home = Home::new();
    let (store, path, n, copy) = (home.store(), home.archive("one"), name("n"), Copy::closed());
    let (progress, mut steps) = Progress::channel();
    let halfway = async {
        wait_for(&mut steps, "copying").await;
        assert_eq!(home.files("building").len(), 2);
    };
    tokio::select! {
        _ = store.import(&n, &path, &copy, &progress) => panic!("the gate is closed"),
        () = halfway => {}
    }
    home.assert_nothing_is_left();
    copy.gate.add_permits(1);
    store.import(&n, &path, &copy, &progress).await.unwrap();
}

/// The child process of the next test.
#[tokio::test]
#[ignore = "part of a_killed_process_leaves_only_leftovers"]
async fn child_that_is_killed() {
    let dir = PathBuf::from(std::env::var_os("SNOWGLOBE_TEST_DIR").expect("set by the parent"));
    let store = ImageStore::open(&dir, Arc::new(|| Ok(Vec::new()))).unwrap();
    let _handle = store.lease(&key("used"), "the child").unwrap();
    let (progress, mut steps) = Progress::channel();
    let say = async {
        wait_for(&mut steps, "copying").await;
        writeln!(std::io::stderr(), "child: ready").unwrap();
    };
    let (copy, n, path) = (Copy::closed(), name("n"), dir.join("two.tar"));
    let _ = tokio::join!(store.import(&n, &path, &copy, &progress), say);
}

#[tokio::test]
async fn a_killed_process_leaves_only_leftovers() {
    let home = Home::new();
    let (store, path) = (home.store(), home.archive("one"));
    home.archive("two");
    store
        .import(&name("used"), &path, &Copy::open(), &Progress::none())
        .await
        .unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "image::tests::child_that_is_killed",
        ])
        .env("SNOWGLOBE_TEST_DIR", home.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "child: ready"));

    let error = store.remove(&key("used")).unwrap_err().to_string();
    assert!(
        error.contains(&format!("the child (process {})", child.id())),
        "{error}"
    );
    store.sweep().unwrap();
    let building = home.files("building");
    assert!(
        building.len() == 2 && building[1] == "n",
        "the directories of a running build stay: {building:?}"
    );
    let (progress, mut steps) = Progress::channel();
    let kill = async {
        wait_for(&mut steps, "waiting for another").await;
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let (copy, n) = (Copy::open(), name("n"));
    let path = home.archive("two");
    let (made, ()) = tokio::join!(store.import(&n, &path, &copy, &progress), kill);
    made.unwrap();
    store.remove(&key("used")).unwrap();
    store.remove(&key("n")).unwrap();
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn leftovers_of_a_crash_are_swept_at_the_next_start() {
    let home = Home::new();
    home.store();
    let images = home.dir.path().join("images");
    fs::create_dir(images.join("building/n")).unwrap();
    fs::write(images.join("building/n/root.raw"), "half").unwrap();
    // A crash after the disk was moved, before a record named it.
    let id = DiskId::random();
    fs::write(images.join(format!("disks/{id}.raw")), "whole").unwrap();
    fs::write(images.join(format!("disks/{id}.json")), "{}").unwrap();
    fs::write(
        images.join(format!("uses/{id}.0123456789abcdef")),
        "a process that died",
    )
    .unwrap();
    assert!(home.store().list().unwrap().is_empty());
    home.assert_nothing_is_left();
}

/// An image as if pulled, with an archive of `text`.
fn pulled(store: &ImageStore, home: &Home, reference: &str, text: &str, seconds: i64) -> ImageKey {
    let path = home.archive(text);
    let blobs = store.blobs();
    let content =
        archive::import_root(&path, &RunConfig::default(), blobs, &Progress::none()).unwrap();
    let disk = DiskRecord {
        format: 2,
        disk: DiskId::random(),
        key: content.disk_key(),
        bytes: 1 << 20,
        entries: 1,
        accounts: Accounts::default(),
    };
    let raw = home.dir.path().join("raw");
    fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let record = ImageRecord {
        format: 2,
        key: ImageKey::of(&reference.parse().unwrap()),
        disk: disk.disk.clone(),
        created: jiff::Timestamp::from_second(seconds).unwrap(),
        source: Source::Registry {
            reference: reference.into(),
            digest: content.manifest.clone(),
        },
        content,
    };
    let held = store.lock().unwrap();
    store.publish_disk(&held, &raw, &disk).unwrap();
    let image = store.publish(&held, record).unwrap();
    let file = home
        .dir
        .path()
        .join(format!("images/names/{}.json", image.record.key.file()));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
    File::open(file).unwrap().set_modified(time).unwrap();
    image.record.key
}

#[tokio::test]
async fn images_of_the_same_layers_share_a_disk() {
    let home = Home::new();
    let store = home.store();
    let (copy, path) = (Copy::open(), home.archive("one"));
    let first = store
        .import(&name("a"), &path, &copy, &Progress::none())
        .await
        .unwrap();
    let second = store
        .import(&name("b"), &path, &copy, &Progress::none())
        .await
        .unwrap();
    assert_eq!(
        (&first.disk, copy.times.load(Ordering::SeqCst)),
        (&second.disk, 1)
    );
    // While the disk is in use, one of its two images can be removed.
    let handle = store.lease(&key("a"), "x").unwrap();
    store.remove(&key("b")).unwrap();
    assert!(store.remove(&key("a")).is_err() && handle.disk().exists());
    drop(handle);
    store.remove(&key("a")).unwrap();
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_promises_is_refused() {
    let home = Home::new();
    let store = home.store();
    let tar = tar_of(&[("x", b"evil")]);
    let digest = store.blobs().put(&tar).unwrap();
    let layer = (digest, tar.len() as u64, Compression::Plain);
    // The layer of another image. If this passed, the disk of one image could be used for another.
    let claimed = Digest::of(b"another layer");
    let run = RunConfig::default();
    let content = Content::of_root(store.blobs(), layer, &claimed, &run).unwrap();
    let dir = home.dir.path().join("layout/blobs/sha256");
    fs::create_dir_all(&dir).unwrap();
    for blob in content.blobs() {
        fs::copy(store.blobs().path(blob), dir.join(blob.hex())).unwrap();
    }
    let size = store.blobs().size(&content.manifest).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": content.manifest, "size": size}]});
    fs::write(home.dir.path().join("layout/index.json"), index.to_string()).unwrap();
    fs::write(home.dir.path().join("layout/oci-layout"), "{}").unwrap();
    let reference: ImageRef = format!("oci:{}/layout", home.dir.path().display())
        .parse()
        .unwrap();
    let made = store
        .ensure(
            &reference,
            &Registries::default(),
            &Copy::open(),
            &Progress::none(),
        )
        .await;
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("promises a layer") && error.contains(claimed.as_str()),
        "{error}"
    );
    home.assert_nothing_is_left();
}

#[tokio::test]
async fn a_changed_file_is_imported_again_and_the_image_of_a_removed_one_is_kept() {
    let home = Home::new();
    let store = home.store();
    let path = home.archive("one");
    let reference = ImageRef::Tar(path.clone());
    let copy = Copy::open();
    let none = Registries::default();
    let ensure = async || {
        store
            .ensure(&reference, &none, &copy, &Progress::none())
            .await
            .unwrap()
    };
    let first = ensure().await;
    assert_eq!(ensure().await.record, first.record);
    assert_eq!(copy.times.load(Ordering::SeqCst), 1);
    fs::write(&path, tar_of(&[("etc/motd", b"another one")])).unwrap();
    let second = ensure().await;
    assert_ne!(second.record.disk, first.record.disk);
    fs::remove_file(&path).unwrap();
    assert_eq!(ensure().await.record, second.record);
    assert_eq!(home.files("disks").len(), 2);
}

#[test]
fn the_least_recently_used_image_is_evicted_first_unless_it_is_in_use() {
    let home = Home::new();
    let store = home.store();
    let all: Vec<ImageKey> = ["r.io/a", "r.io/b", "r.io/c", "r.io/d"]
        .iter()
        .zip(1i64..)
        .map(|(reference, n)| pulled(&store, &home, reference, reference.split_at(5).1, n * 1000))
        .collect();
    let stray = store.blobs().put(b"not needed").unwrap();
    let handle = store.lease(&all[0], "x").unwrap();
    assert_eq!(
        store.make_room(u64::MAX, &all[3]).unwrap(),
        Pruned::default()
    );
    let total = store.usage().unwrap().total();
    // Half a disk too much: the oldest image is in use, so the second oldest is evicted.
    let pruned = store.make_room(total - (1 << 20) / 2, &all[3]).unwrap();
    assert_eq!(pruned.images, [all[1].clone()]);
    assert_eq!(store.blobs().size(&stray), None);
    let left = store.make_room(0, &all[3]).unwrap();
    assert_eq!(left.images, [all[2].clone()]);
    let known = store.known().unwrap();
    assert_eq!(known, [all[0].clone(), all[3].clone()]);
    for key in &known {
        let image = store.find(key).unwrap().unwrap();
        assert!(
            image
                .record
                .content
                .blobs()
                .all(|blob| store.blobs().size(blob).is_some())
        );
    }
    drop(handle);
    assert_eq!(store.prune(true).unwrap().images.len(), 2);
    home.assert_nothing_is_left();
    assert!(store.blobs().all().unwrap().is_empty());
}

#[tokio::test]
async fn imported_images_are_not_evicted_and_no_blobs_removed_during_a_fetch() {
    let home = Home::new();
    let store = home.store();
    store
        .import(
            &name("mine"),
            &home.archive("one"),
            &Copy::open(),
            &Progress::none(),
        )
        .await
        .unwrap();
    let stray = store.blobs().put(b"on its way").unwrap();
    let fetching = store.keep_blobs().await.unwrap();
    let pruned = store.prune(true).unwrap();
    assert!(pruned.fetching && pruned.images.is_empty());
    assert!(store.blobs().size(&stray).is_some());
    drop(fetching);
    assert!(!store.prune(true).unwrap().fetching);
    assert_eq!(store.blobs().size(&stray), None);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[tokio::test]
async fn a_saved_image_can_be_imported() {
    let home = Home::new();
    let store = home.store();
    let made = store
        .import(
            &name("mine"),
            &home.archive("one"),
            &Copy::open(),
            &Progress::none(),
        )
        .await
        .unwrap();
    let dir = home.dir.path().join("layout");
    let target = SaveTarget::Layout {
        dir: dir.clone(),
        name: "v1".into(),
    };
    for _ in 0..2 {
        store
            .save(&key("mine"), target.clone(), &Progress::none())
            .await
            .unwrap();
    }
    let file = home.dir.path().join("saved.tar");
    store
        .save(
            &key("mine"),
            SaveTarget::Archive(file.clone()),
            &Progress::none(),
        )
        .await
        .unwrap();
    let elsewhere = Home::new();
    let other = elsewhere.store();
    for text in [
        format!("oci:{}:v1", dir.display()),
        format!("docker-archive:{}", file.display()),
    ] {
        let reference: ImageRef = text.parse().unwrap();
        let again = other
            .ensure(
                &reference,
                &Registries::default(),
                &Copy::open(),
                &Progress::none(),
            )
            .await
            .unwrap();
        assert_eq!(again.record.content.layers, made.record.content.layers);
        assert_eq!(again.record.content.run, made.record.content.run);
    }
    let wrong: ImageRef = format!("oci:{}:v2", dir.display()).parse().unwrap();
    let error = other
        .ensure(
            &wrong,
            &Registries::default(),
            &Copy::open(),
            &Progress::none(),
        )
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no image named v2; there are: v1"),
        "{error}"
    );
}

#[test]
fn nothing_is_removed_when_a_file_can_not_be_read() {
    let prepare = || {
        let home = Home::new();
        let store = home.store();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for image in ["kept", "used", "lost"] {
            let (unpacker, none) = (Copy::open(), Progress::none());
            let (name, path) = (name(image), home.archive(image));
            let import = store.import(&name, &path, &unpacker, &none);
            runtime.block_on(import).unwrap();
        }
        let handle = store.lease(&key("used"), "x").unwrap();
        // Their records are removed as by a crash; disks and blobs are left.
        let images = home.dir.path().join("images");
        for image in ["used", "lost"] {
            fs::remove_file(images.join(format!("names/{}.json", key(image).file()))).unwrap();
        }
        fs::create_dir(images.join("building/dead")).unwrap();
        fs::write(images.join("partial/00"), "00").unwrap();
        ((store, handle, home), images)
    };
    fn described(error: impl std::error::Error + 'static) -> String {
        crate::describe(&error)
    }
    let asked = each_question_may_fail(prepare, |(store, ..)| {
        store.sweep().map(drop).map_err(described)
    });
    assert!(
        asked > 10,
        "{asked} questions: files are read without `presence`"
    );
    let asked = each_question_may_fail(prepare, |(store, ..)| {
        store.remove_blobs().map(drop).map_err(described)
    });
    assert!(asked > 10);
    let asked = each_question_may_fail(prepare, |(store, ..)| {
        let word = ImageRef::Name(name("kept"));
        store.resolve(&word).map(drop).map_err(described)
    });
    assert!(asked > 0, "looking for a record is a question");
    let (store, handle, home) = prepare().0;
    store.sweep().unwrap();
    store.remove_blobs().unwrap();
    assert!(handle.disk().exists());
    assert_eq!(
        (home.files("disks").len(), home.files("blobs/sha256").len()),
        (4, 3)
    );
    assert!(home.files("building").is_empty() && home.files("partial").is_empty());
}
