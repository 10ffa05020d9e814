//! What a sandbox keeps on disk: frozen layers, snapshots, and a directory per running VM.
//!
//! ```text
//! <data>/sandboxes/<name>/lock                 held while any of this is changed
//!                        /layers/<id>.qcow2    disk layers: frozen ones, and the one each VM writes
//!                        /snapshots/<name>.json  a snapshot: its layers, oldest first
//!                        /run/<vm>/lock        held as long as that VM's owner lives
//!                        /run/<vm>/layers.json the layers that VM stands on
//! ```
//!
//! Invariants: a snapshot appears and goes by one rename or unlink of its record; a layer is never written again
//! once a record names it; a layer that neither a record nor a living VM names is garbage and is swept.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snowglobe_init::boot::ImageUser;

/// The version of the records written here.
const VERSION: u32 = 1;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A name that can't be a snapshot's.
    #[error(
        "use the snapshot name {0:?}: a name is 1 to 64 of the characters A-Z a-z 0-9 . _ - , \
         not `.` or `..`, and does not begin with `-`"
    )]
    BadName(String),
    /// The name is taken.
    #[error(
        "save the snapshot `{0}`: there is one of that name already; delete it first, or take another name"
    )]
    Exists(String),
    /// There is no such snapshot.
    #[error("find the snapshot `{name}`: {}", there_are(.known))]
    NotFound {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A record or one of its layers is damaged.
    #[error("use the snapshot `{name}`: {problem}")]
    Damaged {
        /// The name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk said no.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() {
        "there are none yet".into()
    } else {
        format!("there are {}", known.join(", "))
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        operation,
        path,
        source,
    }
}

/// Checks a snapshot's name. Pure.
pub fn check_snapshot_name(name: &str) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=64).contains(&name.len())
        && name.chars().all(allowed)
        && name != "."
        && name != ".."
        && !name.starts_with('-');
    if good {
        Ok(())
    } else {
        Err(StoreError::BadName(name.to_owned()))
    }
}

/// What a VM's disk stands on at the very bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The image's name when the snapshot was saved.
    pub image: String,
    /// The image's root disk, raw and read-only.
    pub disk: PathBuf,
    /// The image's environment.
    pub env: Vec<(String, String)>,
    /// The image's own user, where it names one.
    #[serde(default)]
    pub user: Option<ImageUser>,
    /// The directory that the image's commands expect to start in.
    #[serde(default)]
    pub workdir: Option<String>,
}

/// A snapshot as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Its name.
    pub name: String,
    /// When it was saved.
    pub created: jiff::Timestamp,
    /// What its first layer stands on.
    pub base: Base,
    /// Its layers' file names, oldest first.
    pub layers: Vec<String>,
    /// Bytes on disk of its newest layer: what it added to those before.
    pub bytes: u64,
}

/// One sandbox's directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A running VM's directory; its files are the runner's to remove.
#[derive(Debug)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Writes down the layers that the VM stands on, before they are used.
    pub fn set_layers(&self, layers: &[String]) -> Result<(), StoreError> {
        let path = self.path.join("layers.json");
        let text = serde_json::to_vec(layers).unwrap_or_default();
        replace(&path, &text).map_err(io_error("write", &path))
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

impl Store {
    /// The store of the sandbox `name` under the data directory; made when it is not there.
    pub fn open(data_dir: &Path, name: &str) -> Result<Self, StoreError> {
        let dir = data_dir.join("sandboxes").join(name);
        for part in ["layers", "snapshots", "run"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("make the directory", &path))?;
        }
        Ok(Self { dir })
    }

    /// Holds the store against other processes until dropped.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let lock = || {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(io_error("lock", &path))
    }

    /// Where a layer is, or will be.
    pub fn layer(&self, file: &str) -> PathBuf {
        self.dir.join("layers").join(file)
    }

    /// A name for a new layer.
    pub fn new_layer(&self) -> String {
        format!("{:016x}.qcow2", rand::random::<u64>())
    }

    /// A directory for a new VM.
    pub fn new_run(&self) -> Result<RunDir, StoreError> {
        let _held = self.lock()?;
        let path = self
            .dir
            .join("run")
            .join(format!("{:08x}", rand::random::<u32>()));
        let make = || {
            fs::create_dir(&path)?;
            let lock = File::create(path.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = make().map_err(io_error("make the directory", &path))?;
        Ok(RunDir { path, _lock: lock })
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.dir.join("snapshots").join(format!("{name}.json"))
    }

    fn read(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let damaged = |problem: String| StoreError::Damaged {
            name: name.to_owned(),
            problem,
        };
        let path = self.record_path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(damaged(format!("{} can't be read ({e})", path.display()))),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|e| {
            damaged(format!(
                "{} is no snapshot's record ({e}); move it away",
                path.display()
            ))
        })?;
        if record.version != VERSION || record.name != name {
            return Err(damaged(format!(
                "{} belongs to another version or name; move it away",
                path.display()
            )));
        }
        Ok(Some(record))
    }

    /// Every snapshot, by name. Stray files are passed over with a warning.
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        let dir = self.dir.join("snapshots");
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let file = entry.map_err(io_error("list", &dir))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            let record = name
                .filter(|name| check_snapshot_name(name).is_ok())
                .map(|name| self.read(name));
            match record {
                Some(Ok(Some(record))) => records.push(record),
                Some(Ok(None)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "passed over a stray file among the snapshots")
                }
                None => tracing::warn!(?file, "passed over a stray file among the snapshots"),
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn names(&self) -> Vec<String> {
        self.list()
            .unwrap_or_default()
            .into_iter()
            .map(|record| record.name)
            .collect()
    }

    /// The snapshot of that name, its layers checked to be there.
    pub fn get(&self, name: &str) -> Result<Record, StoreError> {
        check_snapshot_name(name)?;
        let Some(record) = self.read(name)? else {
            return Err(StoreError::NotFound {
                name: name.to_owned(),
                known: self.names(),
            });
        };
        let missing = |path: &Path| StoreError::Damaged {
            name: name.to_owned(),
            problem: format!("its disk {} is missing", path.display()),
        };
        for path in record
            .layers
            .iter()
            .map(|layer| self.layer(layer))
            .chain([record.base.disk.clone()])
        {
            if !path.is_file() {
                return Err(missing(&path));
            }
        }
        Ok(record)
    }

    /// Refuses a name that can't be saved under: a bad one, or one that is taken (by a stray file, too).
    pub fn check_free(&self, name: &str) -> Result<(), StoreError> {
        check_snapshot_name(name)?;
        if fs::symlink_metadata(self.record_path(name)).is_ok() {
            return Err(StoreError::Exists(name.to_owned()));
        }
        Ok(())
    }

    /// Writes a snapshot's record; its layers are frozen from here on. Loses nothing if the name was taken meanwhile.
    pub fn save(&self, name: &str, base: Base, layers: Vec<String>) -> Result<Record, StoreError> {
        self.check_free(name)?;
        let top = layers.last().map(|layer| self.layer(layer));
        let bytes = top
            .and_then(|path| fs::metadata(path).ok())
            .map_or(0, |meta| meta.blocks() * 512);
        let record = Record {
            version: VERSION,
            name: name.to_owned(),
            created: now(),
            base,
            layers,
            bytes,
        };
        let path = self.record_path(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(self.dir.join("snapshots"))?;
            file.write_all(&serde_json::to_vec_pretty(&record)?)?;
            file.as_file().sync_all()?;
            file.persist_noclobber(&path)?;
            Ok(())
        };
        let _held = self.lock()?;
        match write() {
            Ok(()) => Ok(record),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::AlreadyExists => {
                Err(StoreError::Exists(name.to_owned()))
            }
            Err(error) => Err(io_error("write", &path)(error)),
        }
    }

    /// Deletes a snapshot; layers that nothing else stands on go with it.
    pub fn delete(&self, name: &str) -> Result<Record, StoreError> {
        check_snapshot_name(name)?;
        let record = {
            let _held = self.lock()?;
            let Some(record) = self.read(name)? else {
                return Err(StoreError::NotFound {
                    name: name.to_owned(),
                    known: self.names(),
                });
            };
            let path = self.record_path(name);
            fs::remove_file(&path).map_err(io_error("delete", &path))?;
            record
        };
        self.sweep()?;
        Ok(record)
    }

    /// Removes what nothing stands on: layers no record and no living VM names, directories of VMs long gone.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let _held = self.lock()?;
        let mut used: BTreeSet<String> = BTreeSet::new();
        let snapshots = self.dir.join("snapshots");
        for entry in fs::read_dir(&snapshots)
            .map_err(io_error("list", &snapshots))?
            .flatten()
        {
            let Ok(text) = fs::read(entry.path()) else {
                continue;
            };
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) => used.extend(record.layers),
                // A record of another version may name layers this one can't see: nothing is swept then.
                Err(_) if entry.path().extension().is_some_and(|e| e == "json") => return Ok(()),
                Err(_) => {}
            }
        }
        let run = self.dir.join("run");
        for entry in fs::read_dir(&run)
            .map_err(io_error("list", &run))?
            .flatten()
        {
            if alive(&entry.path()) {
                let layers = fs::read(entry.path().join("layers.json")).unwrap_or_default();
                used.extend(serde_json::from_slice::<Vec<String>>(&layers).unwrap_or_default());
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let layers = self.dir.join("layers");
        for entry in fs::read_dir(&layers)
            .map_err(io_error("list", &layers))?
            .flatten()
        {
            if entry
                .file_name()
                .to_str()
                .is_none_or(|name| !used.contains(name))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Whether the owner of a VM's directory lives: it holds the lock.
fn alive(run: &Path) -> bool {
    match File::open(run.join("lock")) {
        Ok(lock) => matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Every snapshot of every sandbox, with the sandbox's name. Fails where one can't be read, so that whoever wants to
/// remove what snapshots stand on doesn't.
pub(super) fn all_records(data_dir: &Path) -> Result<Vec<(String, Record)>, StoreError> {
    let dir = data_dir.join("sandboxes");
    let sandboxes = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", &dir))?,
    };
    let mut all = Vec::new();
    for sandbox in sandboxes.flatten() {
        let store = Store {
            dir: sandbox.path(),
        };
        let name = sandbox.file_name().to_string_lossy().into_owned();
        if store.dir.join("snapshots").is_dir() {
            all.extend(
                store
                    .list()?
                    .into_iter()
                    .map(|record| (name.clone(), record)),
            );
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store() -> (tempfile::TempDir, Store, Base) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "test").unwrap();
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
    fn bad_names_are_refused_with_the_rule() {
        let long = "a".repeat(65);
        for name in [
            "", ".", "..", "../evil", "a/b", "a b", " a", "a\n", "a\0", "a@b", "-a", "é", &long,
        ] {
            let error = check_snapshot_name(name).unwrap_err().to_string();
            assert!(error.contains("1 to 64"), "{error}");
        }
        for name in ["a", "A.b_c-9", "...", "_-", &"a".repeat(64)] {
            check_snapshot_name(name).unwrap();
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_a_plain_file_name(name in ".{0,70}") {
            if check_snapshot_name(&name).is_ok() {
                prop_assert_eq!(Path::new(&name).components().count(), 1);
                prop_assert!(Path::new(&name).file_name().is_some());
            }
        }
    }

    #[test]
    fn a_snapshot_is_saved_listed_and_deleted_with_its_layers() {
        let (_dir, store, base) = store();
        let (a, b) = (layer(&store), layer(&store));
        store
            .save("two", base.clone(), vec![a.clone(), b.clone()])
            .unwrap();
        store.save("one", base.clone(), vec![a.clone()]).unwrap();
        let names: Vec<_> = store.list().unwrap().into_iter().map(|r| r.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(matches!(
            store.save("one", base, vec![]),
            Err(StoreError::Exists(_))
        ));
        store.delete("two").unwrap();
        assert!(store.layer(&a).exists() && !store.layer(&b).exists());
        store.delete("one").unwrap();
        assert!(!store.layer(&a).exists());
        assert!(matches!(
            store.delete("one"),
            Err(StoreError::NotFound { .. })
        ));
    }

    #[test]
    fn a_living_vm_keeps_its_layers_and_a_dead_one_does_not() {
        let (_dir, store, _base) = store();
        let run = store.new_run().unwrap();
        let used = layer(&store);
        run.set_layers(std::slice::from_ref(&used)).unwrap();
        store.sweep().unwrap();
        assert!(store.layer(&used).exists());
        let path = run.path.clone();
        drop(run);
        store.sweep().unwrap();
        assert!(!store.layer(&used).exists() && !path.exists());
    }

    #[test]
    fn stray_files_lose_nothing() {
        let (dir, store, base) = store();
        let a = layer(&store);
        store.save("good", base.clone(), vec![a.clone()]).unwrap();
        let snapshots = dir.path().join("sandboxes/test/snapshots");
        fs::write(snapshots.join("stray.json"), "what is this").unwrap();
        fs::write(snapshots.join("readme.txt"), "hello").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        assert!(matches!(
            store.save("stray", base, vec![]),
            Err(StoreError::Exists(_))
        ));
        assert!(matches!(
            store.get("stray"),
            Err(StoreError::Damaged { .. })
        ));
        assert!(matches!(
            store.delete("stray"),
            Err(StoreError::Damaged { .. })
        ));
        store.sweep().unwrap();
        assert!(store.layer(&a).exists() && snapshots.join("stray.json").exists());
    }

    #[test]
    fn a_snapshot_whose_layer_is_gone_says_so() {
        let (_dir, store, base) = store();
        let a = layer(&store);
        store.save("good", base, vec![a.clone()]).unwrap();
        fs::remove_file(store.layer(&a)).unwrap();
        assert!(
            store
                .get("good")
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }
}
