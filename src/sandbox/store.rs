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
//! once a record names it; a layer that neither a record nor a living VM names is garbage and is swept. Where one of
//! these can't be read, nothing is swept at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snowglobe_init::boot::ImageUser;

use super::session::{Session, family};
use crate::image::human_bytes;
use crate::{files, presence, private};

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
    /// It would be more than snapshots may take.
    #[error(
        "save the snapshot `{name}`: it would take {}, and snapshots of this sandbox take {} of the {} that they may \
         (snapshot_gib in the configuration); delete some first{}",
        human_bytes(*.adds), human_bytes(*.taken), human_bytes(*.limit), largest(.known)
    )]
    Full {
        /// The name.
        name: String,
        /// What it would take, in bytes.
        adds: u64,
        /// What others take.
        taken: u64,
        /// What all may take.
        limit: u64,
        /// Those that there are, with what each takes.
        known: Vec<(String, u64)>,
    },
    /// A record or one of its layers is damaged.
    #[error("use the snapshot `{name}`: {problem}")]
    Damaged {
        /// The name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A layer is not what was written here.
    #[error("stand on the disk layer {path}: it {problem}; nothing was started on it")]
    Layer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// What tells which layers are needed makes no sense.
    #[error("find out which layers are needed: {path} {problem}; move it away if nothing needs it")]
    Unclear {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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

fn largest(known: &[(String, u64)]) -> String {
    let mut known: Vec<_> = known.iter().collect();
    known.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let shown: Vec<String> = known
        .into_iter()
        .take(5)
        .map(|(name, bytes)| format!("{name} ({})", human_bytes(*bytes)))
        .collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(": {}", shown.join(", ")),
    }
}

pub(super) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError {
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
    pub(super) dir: PathBuf,
    pub(super) session: Option<Arc<Session>>,
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
        files::replace(&path, &text).map_err(io_error("write", &path))
    }
}

impl Store {
    /// The store of the sandbox `name` under the data directory; made when it is not there.
    pub fn open(data_dir: &Path, name: &str) -> Result<Self, StoreError> {
        let all = data_dir.join("sandboxes");
        let dir = all.join(name);
        let parts = ["layers", "snapshots", "run"].map(|part| dir.join(part));
        for path in [&all, &dir].into_iter().chain(&parts) {
            private::dir(path).map_err(io_error("make the directory", path))?;
        }
        Ok(Self { dir, session: None })
    }

    /// Its name among the stores.
    pub fn name(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The snapshot of that name that machines start from: of a session's store it is the one that was named for it.
    pub fn start(&self, name: &str) -> Result<Record, StoreError> {
        match self
            .session
            .as_ref()
            .and_then(|session| session.start.as_ref())
        {
            Some((record, _)) => Ok(record.clone()),
            None => self.get(name),
        }
    }

    /// Holds the store against other processes until dropped.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        files::lock(&path).map_err(io_error("lock", &path))
    }

    /// Where a layer is, or will be.
    pub fn layer(&self, file: &str) -> PathBuf {
        let started = self.session.as_ref().and_then(|session| {
            let (record, _) = session.start.as_ref()?;
            let holds = record.layers.iter().any(|layer| layer == file);
            holds.then(|| session.from.layer(file))
        });
        started.unwrap_or_else(|| self.dir.join("layers").join(file))
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
            private::new_dir(&path)?;
            let lock = File::create(path.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = make().map_err(io_error("make the directory", &path))?;
        Ok(RunDir { path, _lock: lock })
    }

    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.snapshots().join(format!("{name}.json"))
    }

    fn read(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let damaged = |problem: String| StoreError::Damaged {
            name: name.to_owned(),
            problem,
        };
        let path = self.record_path(name);
        let read = presence::read(&path);
        let Some(text) =
            read.map_err(|e| damaged(format!("{} can't be read ({e})", path.display())))?
        else {
            return Ok(None);
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
        let damaged = |path: &Path, what: String| StoreError::Damaged {
            name: name.to_owned(),
            problem: format!("its disk {} {what}", path.display()),
        };
        for path in record
            .layers
            .iter()
            .map(|layer| self.layer(layer))
            .chain([record.base.disk.clone()])
        {
            match presence::is_file(&path) {
                Ok(true) => {}
                Ok(false) => return Err(damaged(&path, "is missing".into())),
                Err(e) => return Err(damaged(&path, format!("can't be read ({e})"))),
            }
        }
        Ok(record)
    }

    /// Refuses a name that can't be saved under: a bad one, or one that is taken (by a stray file, too).
    pub fn check_free(&self, name: &str) -> Result<(), StoreError> {
        check_snapshot_name(name)?;
        let path = self.record_path(name);
        match presence::is_name(&path).map_err(io_error("look for", &path))? {
            true => Err(StoreError::Exists(name.to_owned())),
            false => Ok(()),
        }
    }

    /// Refuses a snapshot of the layer `newest` that would take more than all of this sandbox's, of every session,
    /// may take together.
    pub fn check_size(&self, name: &str, newest: &str, limit: u64) -> Result<(), StoreError> {
        let adds = taken(&self.layer(newest));
        let all = self.dir.parent().unwrap_or(&self.dir);
        let name_of = |dir: &Path| dir.file_name()?.to_str().map(str::to_owned);
        let own = self.name();
        let of_family =
            |dir: &PathBuf| name_of(dir).is_some_and(|name| family(&name) == family(&own));
        let mut frozen = 0_u64;
        for dir in entries(all)?.into_iter().filter(of_family) {
            let store = Store { dir, session: None };
            // One that is being made or removed just now has none yet, or none any more.
            for layer in store.layers_of_snapshots().unwrap_or_default() {
                frozen = frozen.saturating_add(taken(&store.layer(&layer)));
            }
        }
        if frozen.saturating_add(adds) <= limit {
            return Ok(());
        }
        let known = self.list()?.into_iter();
        Err(StoreError::Full {
            name: name.to_owned(),
            adds,
            taken: frozen,
            limit,
            known: known.map(|record| (record.name, record.bytes)).collect(),
        })
    }

    /// Writes a snapshot's record; its layers are frozen from here on. Loses nothing if the name was taken meanwhile.
    pub fn save(&self, name: &str, base: Base, layers: Vec<String>) -> Result<Record, StoreError> {
        self.check_free(name)?;
        let bytes = layers.last().map_or(0, |layer| taken(&self.layer(layer)));
        let record = Record {
            version: VERSION,
            name: name.to_owned(),
            created: now(),
            base,
            layers,
            bytes,
        };
        let path = self.record_path(name);
        let dir = self.snapshots();
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(&serde_json::to_vec_pretty(&record)?)?;
            file.as_file().sync_all()?;
            file.persist_noclobber(&path)?;
            let synced = files::sync_dir(&dir);
            if synced.is_err() {
                // Not saved is not there: else it might go with the host's power.
                let _ = fs::remove_file(&path);
            }
            synced
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
            // Before its layers go: a record that comes back after a crash must not lack them.
            let removed = fs::remove_file(&path).and_then(|()| files::sync_dir(&self.snapshots()));
            removed.map_err(io_error("delete", &path))?;
            record
        };
        self.sweep();
        Ok(record)
    }

    /// Removes what nothing stands on: layers no record and no living VM names, directories of VMs long gone. Removes
    /// nothing, and says so in the log, where what stands on them can't be found out.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no disk layer of this sandbox is cleared away"
            );
        }
    }

    fn try_sweep(&self) -> Result<(), StoreError> {
        let _held = self.lock()?;
        let mut used = self.layers_of_snapshots()?;
        let mut dead = Vec::new();
        for path in entries(&self.dir.join("run"))? {
            let lock = path.join("lock");
            if presence::is_held(&lock).map_err(io_error("look at the lock", &lock))? {
                used.extend(layers_of_vm(&path)?);
            } else {
                dead.push(path);
            }
        }
        let layers = entries(&self.dir.join("layers"))?;
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let unused = layers
            .into_iter()
            .filter(|path| name(path).is_none_or(|name| !used.contains(&name)));
        for path in unused {
            left_behind(&path, fs::remove_file(&path));
        }
        for path in dead {
            left_behind(&path, fs::remove_dir_all(&path));
        }
        Ok(())
    }

    /// What snapshots stand on. A record that can't be read, or is of another version, may name any layer.
    fn layers_of_snapshots(&self) -> Result<BTreeSet<String>, StoreError> {
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

/// What a living VM stands on; nothing before it has written that down.
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

/// Everything in a directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    presence::entries(dir).map_err(io_error("list", dir))
}

pub(super) fn left_behind(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "could not be cleared away");
    }
}

/// What a file takes on the disk; nothing where it is not there.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Every snapshot of every sandbox, with the sandbox's name. Fails where one can't be read, so that whoever wants to
/// remove what snapshots stand on doesn't.
pub(super) fn all_records(data_dir: &Path) -> Result<Vec<(String, Record)>, StoreError> {
    let dir = data_dir.join("sandboxes");
    if !presence::is_name(&dir).map_err(io_error("look for", &dir))? {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for dir in entries(&dir)? {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let snapshots = dir.join("snapshots");
        if !presence::is_name(&snapshots).map_err(io_error("look for", &snapshots))? {
            continue;
        }
        let store = Store { dir, session: None };
        for snapshot in entries(&snapshots)? {
            let file = snapshot.file_name().and_then(|file| file.to_str());
            let Some(record) = file.and_then(|file| file.strip_suffix(".json")) else {
                continue;
            };
            let read = store.read(record)?;
            all.extend(read.map(|record| (name.clone(), record)));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::tests::UNREADABLE;
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
        let save = || store.save("one", base.clone(), vec![a.clone()]);
        let (saved, synced) = files::tests::syncs(&store.snapshots(), save);
        assert!(saved.is_ok() && synced, "a snapshot outlives a power cut");
        let names: Vec<_> = store.list().unwrap().into_iter().map(|r| r.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(matches!(
            store.save("one", base, vec![]),
            Err(StoreError::Exists(_))
        ));
        let (deleted, synced) = files::tests::syncs(&store.snapshots(), || store.delete("two"));
        assert!(deleted.is_ok() && synced);
        assert!(store.layer(&a).exists() && !store.layer(&b).exists());
        store.delete("one").unwrap();
        assert!(!store.layer(&a).exists());
        assert!(matches!(
            store.delete("one"),
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
        store.check_size("a", &first, limit).unwrap();
        store.save("a", base.clone(), vec![first.clone()]).unwrap();
        // A layer that two stand on counts once, and what no snapshot holds doesn't.
        store.save("b", base.clone(), vec![first]).unwrap();
        big(&store);
        let session = Store::of_session(dir.path(), "test", None).unwrap();
        let second = big(&session);
        session.save("c", base.clone(), vec![second]).unwrap();
        let third = big(&session);
        session.check_size("d", &third, limit).unwrap();
        session.save("d", base, vec![third]).unwrap();
        let error = store
            .check_size("e", &big(&store), limit)
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
        store.check_size("e", &big(&store), limit).unwrap();
    }

    #[test]
    fn nobody_else_can_enter() {
        let (dir, store, _base) = store();
        let run = store.new_run().unwrap();
        let all = dir.path().join("sandboxes");
        for path in [&all, &store.dir, &store.dir.join("layers"), &run.path] {
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
        let run = store.new_run().unwrap();
        let used = layer(&store);
        run.set_layers(std::slice::from_ref(&used)).unwrap();
        store.try_sweep().unwrap();
        assert!(store.layer(&used).exists());
        let path = run.path.clone();
        drop(run);
        store.try_sweep().unwrap();
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
            let run = store.new_run().unwrap();
            let [kept, used, _unused] = [(); 3].map(|()| layer(&store));
            store.save("good", base, vec![kept]).unwrap();
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

    /// Sweeping a store with a layer that nothing needs and one that a living VM needs.
    fn sweep_beside(damage: impl FnOnce(&Path, &Path)) -> Result<(), String> {
        let (dir, store, _base) = store();
        let run = store.new_run().unwrap();
        let (used, unused) = (layer(&store), layer(&store));
        run.set_layers(std::slice::from_ref(&used)).unwrap();
        let dead = store.dir.join("run/dead");
        fs::create_dir(&dead).unwrap();
        damage(&run.path, &dir.path().join("sandboxes/test/snapshots"));
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
