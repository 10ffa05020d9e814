//! What the copy of a sandbox began with: a base, and how that differs from what the guest was given since.
//!
//! A file of it differs from the base if the host's newer content was brought in, or if a change of the guest was applied
//! to the host. Each such difference is stored as a whole, under another name: snapshots keep the one of their time.
//!
//! What git ignores is copied if that is asked for, and is the sandbox's own from then on: it is not compared any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use snowglobe_init::wire::tree::{escape, unescape};

use super::base::{Base, BaseFiles};
use super::contents::Contents;
use super::error::{CopyError, io_error};
use super::listed::{HostStamp, Kind, Listed};
use crate::files;

/// The version of the differences written here.
const VERSION: u32 = 1;

/// Where the content of a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// In the base, at the same path.
    Base,
    /// Among the contents, by its hash.
    Kept(String),
}

/// An entry that the copy began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// The size of a file, in bytes.
    pub size: u64,
    /// The target of a link ([`escape`]).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Where a file's content is.
    pub content: Content,
    /// The state of the host's file with this content; absent: it may have another.
    pub host: Option<HostStamp>,
    /// The time of the last change of status of the guest's file with this content, in nanoseconds since the Unix epoch.
    pub guest_ctime_ns: i64,
}

/// What a copy began with.
#[derive(Debug, Clone)]
pub struct Began {
    base: Base,
    changed: BTreeMap<Vec<u8>, Option<Known>>,
    /// Those of `changed` that git ignores.
    ignored: BTreeSet<Vec<u8>>,
}

/// The differences as stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    changed: Vec<(String, Option<Known>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<String>,
}

impl Began {
    /// A copy that began with a base.
    pub fn with(base: Base) -> Self {
        Self {
            base,
            changed: BTreeMap::new(),
            ignored: BTreeSet::new(),
        }
    }

    /// Reads what is stored under a name. Blocks.
    pub fn read(base: &Path, trees: &Path, name: &str) -> Result<Self, CopyError> {
        let path = file(trees, name);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        let unclear = |said: String| CopyError::List {
            path: path.clone(),
            said,
        };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| unclear(error.to_string()))?;
        if stored.version != VERSION {
            return Err(unclear(format!("version {}", stored.version)));
        }
        let changed = stored.changed.into_iter();
        Ok(Self {
            base: Base::open(base)?,
            changed: changed
                .map(|(path, known)| (unescape(&path), known))
                .collect(),
            ignored: stored.ignored.iter().map(|path| unescape(path)).collect(),
        })
    }

    /// Stores it under a new name, which it gives. Blocks.
    pub fn write(&self, trees: &Path) -> Result<String, CopyError> {
        let name = format!("{:016x}", rand::random::<u64>());
        let path = file(trees, &name);
        let changed = self.changed.iter();
        let stored = Stored {
            version: VERSION,
            changed: changed
                .map(|(path, known)| (escape(path), known.clone()))
                .collect(),
            ignored: self.ignored.iter().map(|path| escape(path)).collect(),
        };
        let text = serde_json::to_vec(&stored).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(io_error("write", &path))?;
        Ok(name)
    }

    /// The contents that a stored difference needs. Blocks.
    pub fn needed(tree: &Path) -> Result<BTreeSet<String>, CopyError> {
        let text = fs::read(tree).map_err(io_error("read", tree))?;
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| CopyError::List {
            path: tree.to_owned(),
            said: error.to_string(),
        })?;
        let known = stored.changed.into_iter().filter_map(|(_, known)| known);
        Ok(known
            .filter_map(|known| match known.content {
                Content::Kept(hash) => Some(hash),
                Content::Base => None,
            })
            .collect())
    }

    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    fn of_base(&self, listed: &Listed) -> Known {
        Known {
            kind: listed.kind,
            mode: listed.mode,
            size: listed.size,
            target: escape(&listed.target),
            content: Content::Base,
            host: Some(listed.stamp),
            guest_ctime_ns: self.base.stamp_ns(),
        }
    }

    /// What was at a path, if git does not ignore it.
    pub fn get(&self, path: &[u8]) -> Option<Known> {
        self.get_also_ignored(path)
            .filter(|_| !self.is_ignored(path))
    }

    /// What was at a path.
    pub fn get_also_ignored(&self, path: &[u8]) -> Option<Known> {
        match self.changed.get(path) {
            Some(known) => known.clone(),
            None => Some(self.of_base(self.base.entries().get(path)?)),
        }
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        match self.changed.contains_key(path) {
            true => self.ignored.contains(path),
            false => {
                let entry = self.base.entries().get(path);
                entry.is_some_and(|entry| entry.ignored)
            }
        }
    }

    /// All that was there and that git does not ignore, by path.
    pub fn all(&self) -> BTreeMap<Vec<u8>, Known> {
        let mut all = self.all_also_ignored();
        all.retain(|path, _| !self.is_ignored(path));
        all
    }

    /// All that was there, by path.
    pub fn all_also_ignored(&self) -> BTreeMap<Vec<u8>, Known> {
        let base = self.base.entries().iter();
        let mut all: BTreeMap<_, _> = base
            .filter(|(path, _)| !self.changed.contains_key(*path))
            .map(|(path, listed)| (path.clone(), self.of_base(listed)))
            .collect();
        for (path, known) in &self.changed {
            if let Some(known) = known {
                all.insert(path.clone(), known.clone());
            }
        }
        all
    }

    /// What differs in another tree of the same base, with what that has.
    pub fn differing(&self, other: &Self) -> Vec<(Vec<u8>, Option<Known>)> {
        let changed = other.changed.iter();
        changed
            .filter(|(path, known)| self.get_also_ignored(path) != **known)
            .map(|(path, known)| (path.clone(), known.clone()))
            .collect()
    }

    /// Notes what a path has now, on both sides; `None`: nothing.
    pub fn set(&mut self, path: &[u8], known: Option<Known>) {
        self.ignored.remove(path);
        self.changed.insert(path.to_vec(), known);
    }

    /// The same for a path that git ignores.
    pub fn set_ignored(&mut self, path: &[u8], known: Option<Known>) {
        self.changed.insert(path.to_vec(), known);
        self.ignored.insert(path.to_vec());
    }

    /// Reads contents of its files.
    pub fn reader<'a>(&'a self, contents: &'a Contents) -> Result<BeganFiles<'a>, CopyError> {
        Ok(BeganFiles {
            began: self,
            base: self.base.files()?,
            contents,
        })
    }
}

fn file(trees: &Path, name: &str) -> PathBuf {
    trees.join(format!("{name}.json"))
}

/// The contents of the files that a copy began with.
pub struct BeganFiles<'a> {
    began: &'a Began,
    base: BaseFiles,
    contents: &'a Contents,
}

impl BeganFiles<'_> {
    /// The hash of the content of the file that was at a path. Blocks.
    pub fn hash(&mut self, path: &[u8]) -> Result<String, CopyError> {
        let known = self.began.get_also_ignored(path);
        if let Some(Content::Kept(hash)) = known.map(|known| known.content) {
            return Ok(hash);
        }
        let mut hash = Hash(Sha256::new());
        self.base.read(path, &mut hash)?;
        Ok(hex::encode(hash.0.finalize()))
    }

    /// Writes the content of the file that was at a path to `to`. Blocks.
    pub fn read(&mut self, path: &[u8], mut to: impl Write) -> Result<(), CopyError> {
        let known = self.began.get_also_ignored(path);
        match known.map(|known| known.content) {
            Some(Content::Kept(hash)) => {
                let mut file = self.contents.open(&hash)?;
                let copied = io::copy(&mut file, &mut to);
                copied
                    .map(drop)
                    .map_err(io_error("read", &self.contents.path(&hash)))
            }
            _ => self.base.read(path, to),
        }
    }
}

/// Hashes what is written to it.
struct Hash(Sha256);

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
