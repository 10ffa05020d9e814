//! Which files of a host directory a copy has.
//!
//! In a repository these are the files that git tracks, those that it neither tracks nor ignores, and `.git` itself; so in
//! submodules and in repositories within. Elsewhere all files. Pipes, sockets and devices never belong to it, and neither
//! do files that this user can't read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::error::{CopyError, io_error};
use crate::presence;
use crate::workspace::git_program;

/// The most entries of a copy.
const MOST: usize = 2_000_000;

/// How deep repositories may lie within each other.
const DEEPEST: usize = 16;

/// The name of git's own directory or file.
const GIT: &[u8] = b".git";

/// Which files of a repository belong to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Those that git does not ignore.
    #[default]
    NotIgnored,
    /// All.
    All,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// The state of a file on the host: if it is the same, so is the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStamp {
    /// When its content or status changed, in nanoseconds since the Unix epoch.
    pub ctime_ns: i64,
    /// Its inode.
    pub inode: u64,
}

/// An entry of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits, without those of setuid, setgid and sticky.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its state.
    pub stamp: HostStamp,
    /// The target of a link; empty for anything else.
    pub target: Vec<u8>,
}

/// What belongs to a copy.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The entries by their paths, which are relative. Each entry's directories are there, too.
    pub entries: BTreeMap<Vec<u8>, Listed>,
    /// Whether git said what belongs to it.
    pub of_git: bool,
    /// What was left out, with the reason: at most [`Self::NAMED`] of it.
    pub left_out: Vec<(Vec<u8>, &'static str)>,
}

impl Listing {
    /// How many of the files that were left out are named.
    pub const NAMED: usize = 20;

    /// Lists what belongs to a copy of `root`. `hidden` says whether a path is hidden from the sandbox. Blocks.
    pub fn of(
        root: &Path,
        which: Which,
        hidden: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Self, CopyError> {
        let mut listing = Self::default();
        let mut adding = Adding {
            root,
            which,
            hidden,
            git: git_program(root),
            listing: &mut listing,
        };
        adding.directory(b"", 0)?;
        Ok(listing)
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| entry.size);
        sizes.fold(0, u64::saturating_add)
    }
}

/// The path on the host of a path in the tree.
pub(crate) fn on_host(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

/// A path below another.
fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

struct Adding<'a> {
    root: &'a Path,
    which: Which,
    hidden: &'a dyn Fn(&[u8]) -> bool,
    git: Option<PathBuf>,
    listing: &'a mut Listing,
}

impl Adding<'_> {
    /// Adds a directory's files: those that git names, if it is the root of a repository.
    fn directory(&mut self, dir: &[u8], depth: usize) -> Result<(), CopyError> {
        let is_repository = on_host(self.root, &below(dir, GIT))
            .symlink_metadata()
            .is_ok();
        if !is_repository || depth > DEEPEST {
            return self.all(dir, depth);
        }
        let files = match (&self.git, self.which) {
            (Some(git), Which::NotIgnored) => tracked(git, &on_host(self.root, dir))?,
            _ => return self.all(dir, depth),
        };
        if depth == 0 {
            self.listing.of_git = true;
        }
        for file in files {
            // A repository within that git does not track.
            let name = file.strip_suffix(b"/").unwrap_or(&file);
            let path = below(dir, name);
            if let Some(Kind::Directory) = self.entry(&path)? {
                self.directory(&path, depth + 1)?;
            }
        }
        let git = below(dir, GIT);
        match self.entry(&git)? {
            Some(Kind::Directory) => self.all(&git, depth),
            _ => Ok(()),
        }
    }

    /// Adds all that a directory contains.
    fn all(&mut self, dir: &[u8], depth: usize) -> Result<(), CopyError> {
        let path = on_host(self.root, dir);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.leave_out(dir, "it can't be read");
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("list", &path)(error)),
        };
        for entry in entries {
            let name = entry.map_err(io_error("list", &path))?.file_name();
            let path = below(dir, name.as_bytes());
            // Git makes a lock for each change, and removes it again.
            if dir.split(|byte| *byte == b'/').any(|name| name == GIT)
                && name.as_bytes().ends_with(b".lock")
            {
                continue;
            }
            if let Some(Kind::Directory) = self.entry(&path)? {
                match name.as_bytes() {
                    GIT => self.all(&path, depth)?,
                    _ => self.directory(&path, depth)?,
                }
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8], why: &'static str) {
        if self.listing.left_out.len() < Listing::NAMED {
            self.listing.left_out.push((path.to_vec(), why));
        }
    }

    /// Adds an entry with its directories; gives what it is, if it was added.
    fn entry(&mut self, path: &[u8]) -> Result<Option<Kind>, CopyError> {
        if (self.hidden)(path) {
            return Ok(None);
        }
        if self.listing.entries.len() >= MOST {
            return Err(CopyError::TooMany {
                dir: self.root.to_owned(),
                most: MOST,
            });
        }
        if let Some(at) = path.iter().rposition(|byte| *byte == b'/')
            && !self.listing.entries.contains_key(&path[..at])
            && self.entry(&path[..at])? != Some(Kind::Directory)
        {
            // A directory above is hidden, or a link took its place.
            return Ok(None);
        }
        let on_host = on_host(self.root, path);
        let meta = match on_host.symlink_metadata() {
            Ok(meta) => meta,
            // Git also names files that are removed and not committed as such.
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            Err(error) => return Err(io_error("look at", &on_host)(error)),
        };
        let Some(listed) = self.listed(path, &on_host, &meta)? else {
            return Ok(None);
        };
        let kind = listed.kind;
        self.listing.entries.insert(path.to_vec(), listed);
        Ok(Some(kind))
    }

    fn listed(
        &mut self,
        path: &[u8],
        on_host: &Path,
        meta: &std::fs::Metadata,
    ) -> Result<Option<Listed>, CopyError> {
        let (kind, target) = if meta.is_dir() {
            (Kind::Directory, Vec::new())
        } else if meta.is_symlink() {
            match std::fs::read_link(on_host) {
                Ok(target) => (Kind::Link, target.into_os_string().into_vec()),
                Err(error) if presence::is_no_path(&error) => return Ok(None),
                Err(error) => return Err(io_error("read the link", on_host)(error)),
            }
        } else if meta.is_file() {
            // Only the mode is looked at: to open each file would take long.
            if rustix::fs::access(on_host, rustix::fs::Access::READ_OK).is_err() {
                self.leave_out(path, "it can't be read");
                return Ok(None);
            }
            (Kind::File, Vec::new())
        } else {
            self.leave_out(path, "it is a pipe, a socket or a device");
            return Ok(None);
        };
        Ok(Some(Listed {
            kind,
            mode: meta.mode() & 0o777,
            size: match kind {
                Kind::File => meta.len(),
                Kind::Directory | Kind::Link => 0,
            },
            mtime_ns: epoch_ns(meta.mtime(), meta.mtime_nsec()),
            stamp: HostStamp {
                ctime_ns: epoch_ns(meta.ctime(), meta.ctime_nsec()),
                inode: meta.ino(),
            },
            target,
        }))
    }
}

/// Nanoseconds since the Unix epoch, of a time as the system gives it.
fn epoch_ns(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The files that git tracks, and those that it neither tracks nor ignores. No program of the repository is run.
fn tracked(git: &Path, dir: &Path) -> Result<Vec<Vec<u8>>, CopyError> {
    let output = Command::new(git)
        .current_dir(dir)
        .args([
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .args(["--deduplicate", "--"])
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("run", git))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(CopyError::Git {
            dir: dir.to_owned(),
            said: said.trim().to_owned(),
        });
    }
    let files = output.stdout.split(|byte| *byte == 0);
    Ok(files
        .filter(|file| !file.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}
