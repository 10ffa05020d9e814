//! Changes of the workspace by the host.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Tree, nanoseconds, split, status};
use crate::reason::plain;
use crate::system::users::Account;
use crate::wire::tree::{EntryKind, MAX_PATHS, Placed, PlacedResult, unescape};
use crate::wire::{Report, WireError};

/// Makes the changes in their order. One that fails does not end the others.
pub(crate) fn place(
    root: &Path,
    owner: &Account,
    changes: &[Placed],
    input: &mut dyn Read,
) -> Result<Report, WireError> {
    if changes.len() > MAX_PATHS {
        let message = format!("make {} changes; at most {MAX_PATHS} are", changes.len());
        return Err(WireError::invalid(message));
    }
    let placing = Placing {
        tree: Tree::open(root)?,
        owner,
    };
    let mut results = Vec::with_capacity(changes.len());
    for change in changes {
        let size = match change.kind {
            EntryKind::File => change.size,
            _ => 0,
        };
        let mut content = input.take(size);
        let made = placing.make(change, &mut content);
        // The next file's content follows.
        io::copy(&mut content, &mut io::sink()).ok();
        results.push(match made {
            Ok(ctime) => PlacedResult::Done(ctime),
            Err(error) => PlacedResult::Failed(plain(&error)),
        });
    }
    Ok(Report::Placed { results })
}

struct Placing<'a> {
    tree: Tree,
    owner: &'a Account,
}

impl Placing<'_> {
    /// Makes one change; gives the time of its last change of status.
    fn make(&self, change: &Placed, content: &mut dyn Read) -> io::Result<i64> {
        let path = unescape(&change.path);
        let (parent, name) = split(&path);
        if change.kind == EntryKind::Absent {
            return self.remove(parent, name).map(|()| 0);
        }
        let dir = self.directory(parent)?;
        let mode = Mode::from_raw_mode(change.mode & 0o777);
        match change.kind {
            EntryKind::Directory => self.make_directory(&dir, name, mode)?,
            EntryKind::Link => {
                let target = unescape(&change.target);
                let new = temporary(&dir, name)?;
                rustix::fs::symlinkat(target, &dir, &new)?;
                self.put(&dir, &new, name)?;
            }
            EntryKind::File => {
                let new = temporary(&dir, name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&dir, &new, flags, Mode::RUSR | Mode::WUSR)?;
                let written = self.fill(file.into(), content, change, mode);
                if let Err(error) = written.and_then(|()| self.put(&dir, &new, name)) {
                    rustix::fs::unlinkat(&dir, &new, AtFlags::empty()).ok();
                    return Err(error);
                }
            }
            EntryKind::Other | EntryKind::Absent => {
                return Err(io::Error::other(
                    "only files, directories and links are made",
                ));
            }
        }
        Ok(nanoseconds(&status(&dir, name)?.stx_ctime))
    }

    fn fill(
        &self,
        mut file: File,
        content: &mut dyn Read,
        change: &Placed,
        mode: Mode,
    ) -> io::Result<()> {
        let written = io::copy(content, &mut file)?;
        if written != change.size {
            return Err(io::Error::other(format!(
                "its content ended after {written} of {} bytes",
                change.size
            )));
        }
        self.own(&file)?;
        rustix::fs::fchmod(&file, mode)?;
        let mtime = Timespec {
            tv_sec: change.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: change.mtime_ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps {
            last_access: mtime,
            last_modification: mtime,
        };
        Ok(rustix::fs::futimens(&file, &times)?)
    }

    fn own(&self, file: &File) -> io::Result<()> {
        let owner = &self.owner.credentials;
        std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
    }

    /// Gives what has a temporary name its own one.
    fn put(&self, dir: &OwnedFd, new: &OsStr, name: &OsStr) -> io::Result<()> {
        let owner = &self.owner.credentials;
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(owner.uid),
            rustix::fs::Gid::from_raw(owner.gid),
        );
        rustix::fs::chownat(dir, new, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let renamed = match rustix::fs::renameat(dir, new, dir, name) {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
                    .and_then(|()| rustix::fs::renameat(dir, new, dir, name))
            }
            renamed => renamed,
        };
        if renamed.is_err() {
            rustix::fs::unlinkat(dir, new, AtFlags::empty()).ok();
        }
        Ok(renamed?)
    }

    fn make_directory(&self, dir: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<()> {
        let made = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Err(Errno::EXIST) if !is_directory(dir, name)? => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                rustix::fs::mkdirat(dir, name, Mode::RWXU)
            }
            made => made,
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made: File = rustix::fs::openat(dir, name, flags, Mode::empty())?.into();
        self.own(&made)?;
        Ok(rustix::fs::fchmod(&made, mode)?)
    }

    /// The directory at a path; missing ones are made.
    fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.tree.at(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {
                let (parent, name) = split(path);
                let above = self.directory(parent)?;
                let mode = Mode::from_raw_mode(0o755);
                self.make_directory(&above, name, mode)?;
                self.tree.at(path, OFlags::PATH | OFlags::DIRECTORY)
            }
            opened => opened,
        }
    }

    fn remove(&self, parent: &[u8], name: &OsStr) -> io::Result<()> {
        let dir = match self.tree.at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir?,
        };
        let removed = match is_directory(&dir, name) {
            Ok(true) => rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR),
            Ok(false) => rustix::fs::unlinkat(&dir, name, AtFlags::empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        Ok(removed?)
    }
}

fn is_directory(dir: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let mode = u32::from(status(dir, name)?.stx_mode);
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

/// The name of a file until it has its own name. A machine that ended may have left one; the next machine is given the
/// same file again.
fn temporary(dir: &OwnedFd, name: &OsStr) -> io::Result<OsString> {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let new = format!(".snowglobe-{:016x}", hasher.finish());
    match rustix::fs::unlinkat(dir, &new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(new.into()),
        Err(error) => Err(error.into()),
    }
}
