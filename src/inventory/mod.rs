//! What Snowglobe keeps on the disk, for which directory, and what nothing needs. Looking changes nothing.
//!
//! The parts are disjoint and cover the data directory and the cache, so their sum is what `du` says of both. Only an
//! image's size counts what it shares with others.

mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::agent::session::{self, Kept};
use crate::config::Dirs;
use crate::disk::{self, Owners, StoreError, StoreFacts};
use crate::image::ImageStore;
use crate::login::{self, Login};
use crate::logs;
use crate::rundir::Running;
use usage::Usage;

/// What lies on the disk.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Inventory {
    /// The data directory.
    pub(crate) data_dir: String,
    /// The directory of what can be made again.
    pub(crate) cache_dir: String,
    /// The images, with what no image needs.
    pub(crate) images: Images,
    /// The data of each sandbox.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// What `snowglobe agent` keeps of each project.
    pub(crate) conversations: Vec<Conversations>,
    /// Logs of sandboxes without data.
    pub(crate) stale_logs: Part,
    /// SSH hosts and their keys of sandboxes without data.
    pub(crate) stale_ssh: Part,
    /// The key that logs in to every sandbox.
    pub(crate) ssh_key: Part,
    /// What can be made again.
    pub(crate) cache: Part,
    /// The files that `snowglobe allow` makes.
    pub(crate) consents: Part,
    /// The token of `serve --http`.
    pub(crate) token: Part,
    /// Files of other programs, and the directories themselves.
    pub(crate) other: Part,
    /// All of these, in bytes.
    pub(crate) bytes: u64,
}

/// A part of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Part {
    /// How many files.
    pub(crate) files: usize,
    /// What they take, in bytes.
    pub(crate) bytes: u64,
    #[serde(skip)]
    pub(crate) paths: Vec<PathBuf>,
}

/// The images.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Images {
    /// What all take, shared parts once, in bytes.
    pub(crate) bytes: u64,
    /// What no image, snapshot and machine needs of it, in bytes.
    pub(crate) unneeded_bytes: u64,
    /// Each image.
    pub(crate) images: Vec<ImageData>,
}

/// An image.
#[derive(Debug, Serialize)]
pub(crate) struct ImageData {
    /// Its name or reference.
    pub(crate) name: String,
    /// What its disk and layers take, in bytes.
    pub(crate) bytes: u64,
    /// What no other image shares of that, in bytes.
    pub(crate) own_bytes: u64,
}

/// The data of a sandbox.
#[derive(Debug, Serialize)]
pub(crate) struct Sandbox {
    /// Its name.
    pub(crate) name: String,
    /// The directories that it belongs to.
    pub(crate) directories: Vec<String>,
    /// Whether these are there: `there`, `gone`, or `unknown`.
    pub(crate) directory: &'static str,
    /// Whether a machine uses it, or a process keeps it.
    pub(crate) running: bool,
    /// Whether it belongs to a client's session.
    pub(crate) session: bool,
    /// Its snapshots.
    pub(crate) snapshots: Vec<Saved>,
    /// Whether it has a copy of its directory, which may have changes that were not applied.
    pub(crate) workspace_copy: bool,
    /// How many changes that copy was left with that were not applied; none: there is no copy, or it is unknown.
    pub(crate) unapplied_changes: Option<u64>,
    /// What nothing needs of it, in bytes.
    pub(crate) unneeded_bytes: u64,
    /// What its logs take, in bytes.
    pub(crate) log_bytes: u64,
    /// What its SSH hosts and keys take, in bytes.
    pub(crate) ssh_bytes: u64,
    /// Whether `ssh-config --install` added hosts for it.
    pub(crate) ssh_hosts: bool,
    /// What all of it takes, its logs and SSH hosts included, in bytes.
    pub(crate) bytes: u64,
    #[serde(skip)]
    pub(crate) dead_session: bool,
}

/// What `snowglobe agent` keeps of a project.
#[derive(Debug, Serialize)]
pub(crate) struct Conversations {
    /// The project's directory, if it is known.
    pub(crate) directory: Option<String>,
    /// Whether that is there: `there`, `gone`, or `unknown`.
    pub(crate) state: &'static str,
    /// Whether a process has one of them open.
    pub(crate) open: bool,
    /// How many there are.
    pub(crate) sessions: usize,
    /// What they take, with the logs of the project's servers, in bytes.
    pub(crate) bytes: u64,
    #[serde(skip)]
    pub(crate) kept: Kept,
}

/// A snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Saved {
    /// Its name.
    pub(crate) name: String,
    /// What its newest layer takes, in bytes.
    pub(crate) bytes: u64,
}

/// What a file beside the stores belongs to.
enum Owner<'a> {
    Sandbox(&'a mut Sandbox),
    /// A sandbox without data.
    Gone,
    Other,
}

impl Part {
    fn add(&mut self, path: PathBuf, usage: &mut Usage) {
        let bytes = usage.of(&path);
        self.bytes += bytes;
        self.files += match path.is_dir() {
            true => listed(&path).len(),
            false => 1,
        };
        self.paths.push(path);
    }
}

impl Sandbox {
    /// Whether nothing needs it: all its directories are gone, and nothing runs.
    pub(crate) fn is_orphan(&self) -> bool {
        self.directory == "gone" && !self.running && !self.session
    }
}

impl Conversations {
    fn of(kept: Kept, usage: &mut Usage) -> Self {
        Self {
            directory: kept.project.as_ref().map(|path| path.display().to_string()),
            state: match kept.is_there {
                Some(true) => "there",
                Some(false) => "gone",
                None => "unknown",
            },
            open: kept.open,
            sessions: kept.sessions,
            bytes: usage.of(&kept.path),
            kept,
        }
    }

    /// Whether nothing needs them: the project's directory is gone, and none is open.
    pub(crate) fn is_orphan(&self) -> bool {
        self.state == "gone" && !self.open
    }
}

impl Inventory {
    /// Looks at everything. `running` are the sandboxes that run with this data directory.
    pub(crate) fn look(dirs: &Dirs, running: &[Running]) -> Result<Self, StoreError> {
        let mut usage = Usage::default();
        let mut found = Self {
            data_dir: dirs.data.display().to_string(),
            cache_dir: dirs.cache.display().to_string(),
            images: Images::look(&dirs.data, &mut usage)?,
            ..Self::default()
        };
        found.other.bytes += usage.of_directory(&dirs.data);
        let stores = disk::stores(&dirs.data)?;
        let sandboxes = dirs.data.join("sandboxes");
        found.other.bytes += usage.of_directory(&sandboxes);
        found.sandboxes = stores
            .iter()
            .map(|store| Sandbox::of(store, running, &mut usage))
            .collect();
        found.add_logs(&dirs.data, running, &mut usage);
        let agent = dirs.data.join("agent");
        found.other.bytes += usage.of_directory(&agent);
        for kept in session::kept(&dirs.data) {
            found
                .conversations
                .push(Conversations::of(kept, &mut usage));
        }
        found.add_ssh(&dirs.data, running, &mut usage);
        for path in listed(&dirs.cache) {
            let ours = |name: &str| name.starts_with("vmlinux-") || name == "kvm.json";
            match file_name(&path).is_some_and(ours) {
                true => found.cache.add(path, &mut usage),
                false => found.other.add(path, &mut usage),
            }
        }
        found.other.bytes += usage.of_directory(&dirs.cache);
        for path in listed(&dirs.data) {
            let part = match file_name(&path) {
                Some("allowed") => &mut found.consents,
                Some("http-token") => &mut found.token,
                Some("agent" | "images" | "logs" | "sandboxes" | "ssh") => continue,
                _ => &mut found.other,
            };
            part.add(path, &mut usage);
        }
        let strays = [&sandboxes, &agent].map(|dir| listed(dir));
        for path in strays.into_iter().flatten().filter(|path| !path.is_dir()) {
            found.other.add(path, &mut usage);
        }
        found.bytes = found.sum();
        Ok(found)
    }

    fn add_logs(&mut self, data_dir: &Path, running: &[Running], usage: &mut Usage) {
        let dir = logs::dir(data_dir);
        self.other.bytes += usage.of_directory(&dir);
        for path in listed(&dir) {
            match self.owner(file_name(&path).and_then(logs::sandbox_of), running) {
                Owner::Sandbox(sandbox) => {
                    let bytes = usage.of(&path);
                    sandbox.log_bytes += bytes;
                    sandbox.bytes += bytes;
                }
                Owner::Gone => self.stale_logs.add(path, usage),
                Owner::Other => self.other.add(path, usage),
            }
        }
    }

    fn add_ssh(&mut self, data_dir: &Path, running: &[Running], usage: &mut Usage) {
        let login = Login::of(data_dir);
        self.other.bytes += usage.of_directory(login.dir());
        for path in listed(login.dir()) {
            match self.owner(file_name(&path).and_then(login::sandbox_of), running) {
                Owner::Sandbox(sandbox) => {
                    let bytes = usage.of(&path);
                    sandbox.ssh_bytes += bytes;
                    sandbox.bytes += bytes;
                    sandbox.ssh_hosts |= login::is_hosts(&path);
                }
                Owner::Gone => self.stale_ssh.add(path, usage),
                Owner::Other if path == login.user_file() => self.ssh_key.add(path, usage),
                Owner::Other => self.other.add(path, usage),
            }
        }
    }

    /// What a file belongs to whose name says that it is this sandbox's.
    fn owner(&mut self, name: Option<&str>, running: &[Running]) -> Owner<'_> {
        let Some(name) = name else {
            return Owner::Other;
        };
        let of = self
            .sandboxes
            .iter_mut()
            .find(|sandbox| sandbox.name == name);
        match of {
            Some(sandbox) => Owner::Sandbox(sandbox),
            None if running.iter().any(|other| other.info.name == name) => Owner::Other,
            None => Owner::Gone,
        }
    }

    fn sum(&self) -> u64 {
        let parts = [
            &self.stale_logs,
            &self.stale_ssh,
            &self.ssh_key,
            &self.cache,
            &self.consents,
            &self.token,
            &self.other,
        ];
        let parts: u64 = parts.iter().map(|part| part.bytes).sum();
        let sandboxes: u64 = self.sandboxes.iter().map(|sandbox| sandbox.bytes).sum();
        let conversations = self.conversations.iter().map(|of| of.bytes);
        self.images.bytes + parts + sandboxes + conversations.sum::<u64>()
    }
}

impl Sandbox {
    fn of(store: &StoreFacts, running: &[Running], usage: &mut Usage) -> Self {
        let name = store.name.to_string();
        let unneeded = store.unneeded.iter().flatten();
        let mut alone = Usage::default();
        Self {
            directories: store
                .directories
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            directory: match store.owners {
                Owners::There => "there",
                Owners::Gone => "gone",
                Owners::Unknown => "unknown",
            },
            running: store.used || running.iter().any(|other| other.info.name == name),
            session: store.name.is_session(),
            workspace_copy: store.copy,
            unapplied_changes: store.unapplied,
            snapshots: store
                .snapshots
                .iter()
                .flatten()
                .map(|(name, bytes)| Saved {
                    name: name.clone(),
                    bytes: *bytes,
                })
                .collect(),
            unneeded_bytes: unneeded.map(|path| alone.of(path)).sum(),
            log_bytes: 0,
            ssh_bytes: 0,
            ssh_hosts: false,
            bytes: usage.of(&store.path),
            dead_session: store.dead_session,
            name,
        }
    }
}

impl Images {
    fn look(data_dir: &Path, usage: &mut Usage) -> Result<Self, StoreError> {
        let dir = data_dir.join("images");
        if !dir.is_dir() {
            return Ok(Self::default());
        }
        let mut found = Self {
            bytes: usage.of(&dir),
            ..Self::default()
        };
        let store = ImageStore::look(data_dir);
        let Ok(records) = store.records() else {
            // An unreadable record may need anything.
            return Ok(found);
        };
        let mut images: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
        for record in records {
            let blobs = record.content.blobs();
            let mut paths: BTreeSet<_> = blobs.map(|blob| store.blobs().path(blob)).collect();
            paths.extend(["raw", "json"].map(|part| store.disk_path(&record.disk, part)));
            images.insert(record.key.to_string(), paths);
        }
        let mut uses: BTreeMap<&PathBuf, usize> = BTreeMap::new();
        for path in images.values().flatten() {
            *uses.entry(path).or_default() += 1;
        }
        let bytes = |path: &PathBuf| Usage::default().of(path);
        found.images = images
            .iter()
            .map(|(name, paths)| ImageData {
                name: name.clone(),
                bytes: paths.iter().map(bytes).sum(),
                own_bytes: paths.iter().filter(|path| uses[path] == 1).map(bytes).sum(),
            })
            .collect();
        let kept = kept_disks(data_dir, &dir)?;
        let needed = |path: &PathBuf| {
            let disk = path.file_stem().unwrap_or_default();
            uses.contains_key(path) || kept.contains(disk)
        };
        found.unneeded_bytes = ["blobs/sha256", "disks", "partial", "removed"]
            .iter()
            .flat_map(|part| listed(&dir.join(part)))
            .filter(|path| !needed(path))
            .map(|path| bytes(&path))
            .sum();
        Ok(found)
    }
}

/// The disks that snapshots and processes use, by the stem of their files' names.
fn kept_disks(data_dir: &Path, images: &Path) -> Result<BTreeSet<std::ffi::OsString>, StoreError> {
    let mut kept: BTreeSet<_> = listed(&images.join("uses"))
        .iter()
        .filter_map(|path| path.file_stem().map(ToOwned::to_owned))
        .collect();
    let records = disk::all_records(data_dir)?;
    let disks = records
        .iter()
        .filter_map(|(_, record)| record.base.disk.file_stem());
    kept.extend(disks.map(ToOwned::to_owned));
    let pinned = disk::pinned_disks(data_dir)?;
    let pinned = pinned.iter().filter_map(|(_, disk)| disk.file_stem());
    kept.extend(pinned.map(ToOwned::to_owned));
    Ok(kept)
}

/// The entries of a directory; none if there is no such directory.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
