//! The directory of one sandbox: its layers, and a directory for each of its VMs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{StoreError, io_error};
use super::record::Record;
use crate::blocking::blocking_here;
use crate::names::SandboxName;
use crate::{files, presence, private};

/// The file in a VM's directory that names the image's disk below its layers.
pub(super) const BASE: &str = "base.json";

/// One sandbox's directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) name: SandboxName,
    pub(super) dir: PathBuf,
    pub(super) session: Option<Arc<Session>>,
}

/// What the store of a client's session holds. Dropping it removes the store.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dir: PathBuf,
    pub(super) _lock: File,
    /// The store of the sandbox itself.
    pub(super) from: Store,
    /// The snapshot that its machines start from, and the lock on its layers there.
    pub(super) start: Option<(Record, VmDir)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        left_behind(&self.dir, blocking_here(|| fs::remove_dir_all(&self.dir)));
    }
}

/// A running VM's directory, locked while its owner lives. The runner removes its files.
#[derive(Debug, Clone)]
pub struct VmDir {
    path: PathBuf,
    _lock: Arc<File>,
}

impl VmDir {
    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it again, where no runner came to know it.
    pub fn give_up(self) {
        if let Err(error) = files::remove_dir(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "could not remove a VM's directory");
        }
    }

    /// Notes the image's disk below the layers, which is then kept as the layers are.
    pub(super) fn set_base(&self, disk: &Path) -> Result<(), StoreError> {
        let path = self.path.join(BASE);
        let text = serde_json::to_vec(disk).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(io_error("write", &path))
    }

    /// Writes the list of the VM's layers; to be called before they are used.
    pub fn set_layers(&self, layers: &[String]) -> Result<(), StoreError> {
        let path = self.path.join("layers.json");
        let text = serde_json::to_vec(layers).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(io_error("write", &path))
    }
}

impl Store {
    /// The store of the sandbox `name` under the data directory; made if it is not there.
    pub fn open(data_dir: &Path, name: &SandboxName) -> Result<Self, StoreError> {
        let all = data_dir.join("sandboxes");
        let dir = all.join(name.as_str());
        let parts = ["layers", "snapshots", "run"].map(|part| dir.join(part));
        for path in [&all, &dir].into_iter().chain(&parts) {
            private::dir(path).map_err(io_error("make the directory", path))?;
        }
        Ok(Self {
            name: name.clone(),
            dir,
            session: None,
        })
    }

    /// The store of the sandbox `name`, to look at it and to delete snapshots. Makes nothing: a sandbox that never ran
    /// has an empty store.
    pub fn look(data_dir: &Path, name: &SandboxName) -> Self {
        Self {
            name: name.clone(),
            dir: data_dir.join("sandboxes").join(name.as_str()),
            session: None,
        }
    }

    /// The store in an existing directory.
    pub(super) fn at(dir: PathBuf) -> Self {
        Self {
            name: SandboxName::of_directory(dir.file_name().unwrap_or_default()),
            dir,
            session: None,
        }
    }

    /// The sandbox's name.
    pub fn name(&self) -> &SandboxName {
        &self.name
    }

    /// The directory for the log of the sandbox's network and for its certificate authority; made if it is not there.
    pub fn network_dir(&self) -> Result<PathBuf, StoreError> {
        let dir = self.network_path();
        private::dir(&dir).map_err(io_error("make the directory", &dir))?;
        Ok(dir)
    }

    /// The path of that directory.
    pub fn network_path(&self) -> PathBuf {
        self.dir.join("network")
    }

    /// Locks the store against other processes until dropped.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        files::lock(&path).map_err(io_error("lock", &path))
    }

    /// The path of a layer, existing or new.
    pub fn layer(&self, file: &str) -> PathBuf {
        let started = self.session.as_ref().and_then(|session| {
            let (record, _) = session.start.as_ref()?;
            let holds = record.all_layers().any(|layer| layer == file);
            holds.then(|| session.from.layer(file))
        });
        started.unwrap_or_else(|| self.dir.join("layers").join(file))
    }

    /// A name for a new layer.
    pub fn new_layer(&self) -> String {
        format!("{:016x}.qcow2", rand::random::<u64>())
    }

    /// A directory for a new VM.
    pub fn new_vm(&self) -> Result<VmDir, StoreError> {
        let _held = self.lock()?;
        let path = self
            .dir
            .join("run")
            .join(format!("{:08x}", rand::random::<u32>()));
        let make = || {
            private::new_dir(&path)?;
            let lock = private::file()
                .write(true)
                .create_new(true)
                .open(path.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let made = make().map_err(io_error("make the directory", &path));
        let lock = made.inspect_err(|_| {
            files::remove_dir(&path).ok();
        })?;
        Ok(VmDir {
            path,
            _lock: Arc::new(lock),
        })
    }
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

/// What a file takes on the disk, in bytes; 0 if it is not there.
pub(super) fn taken(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}
