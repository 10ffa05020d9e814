//! A directory of the host that changes are applied to. Every path is resolved beneath it without following links, so
//! nothing outside of it is ever read or changed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use snowglobe_init::wire::tree::{escape, unescape};

use super::entry::{Entry, MODE};
use crate::copy::{Contents, HostStamp, epoch_ns};
use crate::presence;

/// A directory of the host.
#[derive(Debug)]
pub struct Root<'a>(BorrowedFd<'a>);

/// The directory of a path, and its last name.
fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

impl<'a> Root<'a> {
    /// The open directory.
    pub fn new(directory: BorrowedFd<'a>) -> Self {
        Self(directory)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path {
            b"" => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        loop {
            match rustix::fs::openat2(self.0, path, flags, Mode::empty(), resolve) {
                // A directory was moved meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// The directory that has the path's last name, and that name.
    fn parent<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (dir, name) = split(path);
        Ok((self.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
    }

    /// What is at a path, and its state; a file's content is kept among `contents`. `None`: nothing is there, or what is
    /// there can't be in a copy.
    pub fn look(&self, path: &[u8], contents: &Contents) -> io::Result<Option<(Entry, HostStamp)>> {
        let (dir, name) = match self.parent(path) {
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            found => found?,
        };
        let stat = match stat(&dir, name) {
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            found => found?,
        };
        let mode = u32::from(stat.stx_mode);
        let stamp = stamp(&stat);
        let entry = match FileType::from_raw_mode(mode) {
            FileType::Directory => Entry::Directory { mode: mode & MODE },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
                Entry::Link {
                    target: escape(target.as_bytes()),
                }
            }
            FileType::RegularFile => {
                let file = File::from(self.open(path, OFlags::RDONLY)?);
                let size = file.metadata()?.len();
                let hash = contents.add(&mut &file, size).map_err(io::Error::other)?;
                Entry::File {
                    hash,
                    size,
                    mode: mode & 0o7777,
                }
            }
            _ => return Err(io::Error::other("it is a pipe, a socket or a device")),
        };
        Ok(Some((entry, stamp)))
    }

    /// The state of what is at a path; `None`: nothing.
    pub fn stamp(&self, path: &[u8]) -> io::Result<Option<HostStamp>> {
        let (dir, name) = match self.parent(path) {
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            found => found?,
        };
        match stat(&dir, name) {
            Err(error) if presence::is_no_path(&error) => Ok(None),
            found => Ok(Some(stamp(&found?))),
        }
    }

    /// The names in a directory.
    pub fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Writes a file or a link under a temporary name beside its path, on the disk; gives the name.
    pub fn stage(
        &self,
        path: &[u8],
        entry: &Entry,
        temporary: &str,
        contents: &Contents,
    ) -> io::Result<()> {
        let (dir, _) = self.parent(path)?;
        match entry {
            Entry::Directory { .. } => Ok(()),
            Entry::Link { target } => Ok(rustix::fs::symlinkat(unescape(target), &dir, temporary)?),
            Entry::File { hash, mode, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&dir, temporary, flags, Mode::RUSR | Mode::WUSR)?;
                let mut made = File::from(made);
                let mut content = contents.open(hash).map_err(io::Error::other)?;
                io::copy(&mut content, &mut made)?;
                made.flush()?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(*mode & 0o7777))?;
                made.sync_all()
            }
        }
    }

    /// Gives a staged file its own name. What has it is replaced if it `replaces`; otherwise that is an error.
    pub fn swap(&self, path: &[u8], temporary: &str, replaces: bool) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        if replaces {
            return Ok(rustix::fs::renameat(&dir, temporary, &dir, name)?);
        }
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&dir, temporary, &dir, name, flags) {
            // Some file systems can't do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&dir, temporary, &dir, name, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&dir, temporary, AtFlags::empty())?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Removes a temporary name beside a path, if it is there.
    pub fn unstage(&self, path: &[u8], temporary: &str) -> io::Result<()> {
        let (dir, _) = match self.parent(path) {
            Err(error) if presence::is_no_path(&error) => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(&dir, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory.
    pub fn make_directory(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::mkdirat(
            &dir,
            name,
            Mode::from_raw_mode(mode & MODE),
        )?)
    }

    /// Removes a file or a link, or an empty directory.
    pub fn remove(&self, path: &[u8], directory: bool) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let flags = match directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        Ok(rustix::fs::unlinkat(&dir, name, flags)?)
    }

    /// Puts the entries of a path's directory on the disk.
    pub fn sync(&self, path: &[u8]) -> io::Result<()> {
        match self.parent(path) {
            Ok((dir, _)) => Ok(rustix::fs::fsync(dir.as_fd())?),
            Err(error) if presence::is_no_path(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn stat(dir: &OwnedFd, name: &OsStr) -> io::Result<rustix::fs::Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::statx(
        dir,
        name,
        flags,
        StatxFlags::BASIC_STATS,
    )?)
}

fn stamp(stat: &rustix::fs::Statx) -> HostStamp {
    let ctime = &stat.stx_ctime;
    HostStamp {
        ctime_ns: epoch_ns(ctime.tv_sec, ctime.tv_nsec.into()),
        inode: stat.stx_ino,
    }
}

/// A temporary name that nothing has.
pub fn temporary() -> String {
    format!(".snowglobe-{:016x}", rand::random::<u64>())
}

/// A path's directories, the highest first.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}
