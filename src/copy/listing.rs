//! Which files of a host directory a copy has.
//!
//! In a repository these are the files that git tracks, those that it neither tracks nor ignores, and `.git` itself; so in
//! submodules and in repositories within. A worktree's repository, which lies elsewhere, comes as `.git` ([`GitDir`]).
//! What git ignores comes too if that is asked for, and is marked. Elsewhere all files. Pipes, sockets and devices never
//! belong to it, and neither do files that this user can't read.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{CopyError, io_error};
use super::git_dir::GitDir;
use super::listed::{GIT, HostStamp, Kind, Listed, Origin, below, epoch_ns, on_host};
use crate::presence;
use crate::workspace::{Repository, git_program};

/// The most entries of a copy.
const MOST: usize = 2_000_000;

/// How deep repositories may lie within each other.
const DEEPEST: usize = 16;

/// Which files of a repository belong to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Those that git does not ignore.
    #[default]
    NotIgnored,
    /// Those that git ignores, too.
    All,
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

    /// Lists what belongs to a copy of `root`, with its repository if that lies outside. `hidden` says whether a path is
    /// hidden from the sandbox. Blocks.
    pub fn of(
        root: &Path,
        repository: Option<&Repository>,
        which: Which,
        hidden: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Self, CopyError> {
        let mut listing = Self::default();
        let mut adding = Adding {
            root,
            which,
            hidden,
            git: git_program(root),
            outside: repository.map(|repository| GitDir::of(repository, root)),
            ignored: false,
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

struct Adding<'a> {
    root: &'a Path,
    which: Which,
    hidden: &'a dyn Fn(&[u8]) -> bool,
    git: Option<PathBuf>,
    /// The repository of the root, if that lies outside.
    outside: Option<GitDir>,
    /// Whether git ignores what is added now.
    ignored: bool,
    listing: &'a mut Listing,
}

impl Adding<'_> {
    /// Adds a directory's files: those that git names, if it is the root of a repository.
    fn directory(&mut self, dir: &[u8], depth: usize) -> Result<(), CopyError> {
        let is_repository = on_host(self.root, &below(dir, GIT))
            .symlink_metadata()
            .is_ok();
        if !is_repository || depth > DEEPEST || self.ignored {
            return self.all(dir, depth);
        }
        let Some(git) = self.git.clone() else {
            return self.all(dir, depth);
        };
        let on_host = on_host(self.root, dir);
        let files = asked(&git, &on_host, &NOT_IGNORED)?;
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
        if self.which == Which::All {
            self.ignored = true;
            let added = self.ignored(dir, asked(&git, &on_host, &IGNORED)?, depth);
            self.ignored = false;
            added?;
        }
        self.dot_git(dir, depth)
    }

    /// Adds what git ignores in the repository at `dir`: files, and directories whose names end with a slash.
    fn ignored(&mut self, dir: &[u8], files: Vec<Vec<u8>>, depth: usize) -> Result<(), CopyError> {
        for file in files {
            let path = below(dir, file.strip_suffix(b"/").unwrap_or(&file));
            if let Some(Kind::Directory) = self.entry(&path)? {
                self.all(&path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Adds the git directory of a repository, or the file that leads there.
    fn dot_git(&mut self, dir: &[u8], depth: usize) -> Result<(), CopyError> {
        let path = below(dir, GIT);
        let Some(outside) = &self.outside else {
            return match self.entry(&path)? {
                Some(Kind::Directory) => self.all(&path, depth),
                _ => Ok(()),
            };
        };
        if dir.is_empty() {
            let files = outside.files()?;
            for (path, place) in files {
                self.entry_at(&path, place)?;
            }
            return Ok(());
        }
        match self.entry_at(&path, on_host(self.root, &path))? {
            Some(Kind::Directory) => self.all(&path, depth),
            _ => Ok(()),
        }
    }

    /// Adds a file of git's that lies at this place on the host, with the text that the copy has of it.
    fn entry_at(&mut self, path: &[u8], place: PathBuf) -> Result<Option<Kind>, CopyError> {
        if let Some(there) = self.listing.entries.get(path) {
            return Ok(Some(there.kind));
        }
        let kind = self.entry_of(path, &place)?;
        if kind == Some(Kind::File)
            && let Some(outside) = &self.outside
        {
            let text = outside.text(path, &place)?;
            if let Some(listed) = self.listing.entries.get_mut(path) {
                if let Some(text) = &text {
                    listed.size = text.len() as u64;
                }
                listed.origin = text.map_or(Origin::At(place), Origin::Text);
            }
        }
        Ok(kind)
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
            if name.as_bytes() == GIT {
                self.dot_git(dir, depth)?;
            } else if let Some(Kind::Directory) = self.entry(&path)? {
                self.directory(&path, depth)?;
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
        self.entry_of(path, &on_host(self.root, path))
    }

    /// The same for one that is at this place on the host. One that is there already stays.
    fn entry_of(&mut self, path: &[u8], on_host: &Path) -> Result<Option<Kind>, CopyError> {
        if let Some(there) = self.listing.entries.get(path) {
            return Ok(Some(there.kind));
        }
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
            && self.entry(&path[..at])? != Some(Kind::Directory)
        {
            // A directory above is hidden, or a link took its place.
            return Ok(None);
        }
        let meta = match on_host.symlink_metadata() {
            Ok(meta) => meta,
            // Git also names files that are removed and not committed as such.
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            Err(error) => return Err(io_error("look at", on_host)(error)),
        };
        let Some(listed) = self.listed(path, on_host, &meta)? else {
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
            ignored: self.ignored,
            origin: Origin::Here,
        }))
    }
}

/// Asks git for the files that it tracks, and those that it neither tracks nor ignores.
const NOT_IGNORED: [&str; 3] = ["--cached", "--others", "--deduplicate"];

/// Asks git for the files that it ignores; a directory stands for all that is in it.
const IGNORED: [&str; 4] = [
    "--others",
    "--ignored",
    "--directory",
    "--no-empty-directory",
];

/// The files that git names. No program of the repository is run.
fn asked(git: &Path, dir: &Path, which: &[&str]) -> Result<Vec<Vec<u8>>, CopyError> {
    let output = Command::new(git)
        .current_dir(dir)
        .args([
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(["ls-files", "-z", "--exclude-standard"])
        .args(which)
        .arg("--")
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
