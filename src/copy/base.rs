//! A tree of the host as a disk, with a list of what is in it. It is never changed again.
//!
//! ```text
//! <dir>/disk.raw    the disk
//!      /tree.json   the list
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ferrosys::ext::Reader;
use serde::{Deserialize, Serialize};
use snowglobe_init::wire::tree::{escape, unescape};

use super::error::{CopyError, io_error};
use super::image::{self, Guise, on_disk};
use super::listed::{HostStamp, Kind, Listed, Origin};
use super::listing::Listing;
use crate::disk::{base_disk, base_list};
use crate::{files, private};

/// The version of the lists written here.
const VERSION: u32 = 1;

/// How often the disk is written anew because files changed meanwhile.
const ATTEMPTS: usize = 3;

/// A base.
#[derive(Debug, Clone)]
pub struct Base {
    dir: PathBuf,
    stamp_ns: i64,
    owner: (u32, u32),
    of_git: bool,
    entries: BTreeMap<Vec<u8>, Listed>,
}

/// The list as stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    version: u32,
    stamp_ns: i64,
    uid: u32,
    gid: u32,
    of_git: bool,
    entries: Vec<Row>,
}

/// An entry as stored: path, kind, mode, size, time of change, state on the host, target, whether git ignores it.
#[derive(Serialize, Deserialize)]
struct Row(
    String,
    Kind,
    u32,
    u64,
    i64,
    HostStamp,
    #[serde(default)] String,
    #[serde(default)] bool,
);

impl Base {
    /// Writes the listed files of `root` as a disk into a new directory below `bases`. In the guest they belong to `owner`
    /// (uid and gid). Blocks.
    pub fn write(
        bases: &Path,
        root: &Path,
        listing: Listing,
        owner: (u32, u32),
    ) -> Result<Self, CopyError> {
        let name = format!("{:016x}", rand::random::<u64>());
        let dir = bases.join(name);
        private::new_dir(&dir).map_err(io_error("make the directory", &dir))?;
        let base = Self {
            dir: dir.clone(),
            stamp_ns: now_ns(),
            owner,
            of_git: listing.of_git,
            entries: listing.entries.clone(),
        };
        let written = base
            .write_disk(root, &listing)
            .and_then(|()| base.write_list());
        match written {
            Ok(()) => Ok(base),
            Err(error) => {
                // Nothing knows of it yet.
                fs::remove_dir_all(&dir).ok();
                Err(error)
            }
        }
    }

    fn write_disk(&self, root: &Path, listing: &Listing) -> Result<(), CopyError> {
        let path = self.disk();
        let guise = Guise {
            uid: self.owner.0,
            gid: self.owner.1,
            stamp_ns: self.stamp_ns,
        };
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let file = private::file()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .map_err(io_error("make the disk", &path))?;
            match image::write(root, listing, guise, &file) {
                Ok(()) => return Ok(()),
                Err(error) => said = error.to_string(),
            }
            let free = files::free_bytes(&self.dir).unwrap_or(u64::MAX);
            if free < listing.bytes() {
                return Err(CopyError::Disk {
                    operation: "write the disk",
                    path,
                    said,
                });
            }
        }
        Err(CopyError::Restless {
            dir: root.to_owned(),
            said,
        })
    }

    fn write_list(&self) -> Result<(), CopyError> {
        let path = base_list(&self.dir);
        let row = |(path, entry): (&Vec<u8>, &Listed)| {
            Row(
                escape(path),
                entry.kind,
                entry.mode,
                entry.size,
                entry.mtime_ns,
                entry.stamp,
                escape(&entry.target),
                entry.ignored,
            )
        };
        let list = List {
            version: VERSION,
            stamp_ns: self.stamp_ns,
            uid: self.owner.0,
            gid: self.owner.1,
            of_git: self.of_git,
            entries: self.entries.iter().map(row).collect(),
        };
        let text = serde_json::to_vec(&list).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(io_error("write", &path))
    }

    /// Opens a base. Blocks.
    pub fn open(dir: &Path) -> Result<Self, CopyError> {
        let path = base_list(dir);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        let unclear = |said: String| CopyError::List {
            path: path.clone(),
            said,
        };
        let list: List =
            serde_json::from_slice(&text).map_err(|error| unclear(error.to_string()))?;
        if list.version != VERSION {
            return Err(unclear(format!("version {}", list.version)));
        }
        let entry = |Row(path, kind, mode, size, mtime_ns, stamp, target, ignored): Row| {
            let listed = Listed {
                kind,
                mode,
                size,
                mtime_ns,
                stamp,
                target: unescape(&target),
                ignored,
                origin: Origin::Here,
            };
            (unescape(&path), listed)
        };
        Ok(Self {
            dir: dir.to_owned(),
            stamp_ns: list.stamp_ns,
            owner: (list.uid, list.gid),
            of_git: list.of_git,
            entries: list.entries.into_iter().map(entry).collect(),
        })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of the disk.
    fn disk(&self) -> PathBuf {
        base_disk(&self.dir)
    }

    /// The time of the last change of status that each of its files has in a guest, in nanoseconds since the Unix epoch.
    pub fn stamp_ns(&self) -> i64 {
        self.stamp_ns
    }

    /// The user and the group that own its files in a guest.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Whether git said what belongs to it.
    pub fn is_of_git(&self) -> bool {
        self.of_git
    }

    /// What is in it, by path.
    pub fn entries(&self) -> &BTreeMap<Vec<u8>, Listed> {
        &self.entries
    }

    /// Its files, for reading.
    pub(super) fn files(&self) -> Result<BaseFiles, CopyError> {
        let path = self.disk();
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let reader = Reader::open(file).map_err(|error| CopyError::Disk {
            operation: "read the disk",
            path: path.clone(),
            said: error.to_string(),
        })?;
        Ok(BaseFiles { path, reader })
    }
}

/// The files of a base.
pub(super) struct BaseFiles {
    path: PathBuf,
    reader: Reader<File>,
}

impl BaseFiles {
    /// Writes the content of the file at a path to `to`.
    pub(super) fn read(&mut self, path: &[u8], to: impl Write) -> Result<(), CopyError> {
        let found = self.reader.lookup_no_follow(&on_disk(path));
        let read = found.and_then(|(_, inode)| self.reader.read_data_to(&inode, to));
        read.map(drop).map_err(|error| CopyError::Disk {
            operation: "read a file of the disk",
            path: self.path.clone(),
            said: error.to_string(),
        })
    }
}

/// The present time, in nanoseconds since the Unix epoch.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
