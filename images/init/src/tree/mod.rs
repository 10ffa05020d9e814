//! The workspace as a copy of a directory of the host: the host asks what is in it, fetches contents, and makes changes.
//!
//! All of it runs as root, since programs of the guest may close files even to their owner. Paths are resolved beneath the
//! workspace without following links: one that a program plants leads to no other file of the guest. What is called `.git`
//! is not listed: the host takes commits in another way.

mod fetch;
mod list;
mod place;

pub(crate) use fetch::fetch;
pub(crate) use list::{list, look};
pub(crate) use place::place;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::reason::plain;
use crate::wire::{ErrorKind, WireError};

/// How much output is sent at once, in bytes.
const PIECE: usize = 64 << 10;

/// The workspace, opened.
struct Tree(OwnedFd);

impl Tree {
    fn open(root: &Path) -> Result<Self, WireError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, root, flags, Mode::empty());
        let opened = opened.map_err(|error| {
            let why = plain(&error.into());
            WireError::new(
                ErrorKind::Other,
                format!("open the workspace {}: {why}", root.display()),
            )
        });
        Ok(Self(opened?))
    }

    /// Opens what is at a path in it; the empty path is the workspace itself.
    fn at(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path {
            b"" => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                // A directory was moved meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }
}

/// The directory of a path, and its last name.
fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

/// The status of what has a name in a directory.
fn status(dir: &OwnedFd, name: &OsStr) -> io::Result<Statx> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let wanted = StatxFlags::BASIC_STATS;
    Ok(rustix::fs::statx(dir, name, flags, wanted)?)
}

/// A time in nanoseconds since the Unix epoch.
fn nanoseconds(time: &rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec.into())
}

#[cfg(test)]
mod tests;
