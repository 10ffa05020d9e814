//! Removing files that a later entry replaces or a whiteout hides.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::tree::DirId;

/// The deepest tree that is removed.
const MAX_DEPTH: usize = 512;

/// The names in a directory.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes the file or tree at a name. Keeps names for which `spared` is true, and their parents. Returns whether the
/// name is gone.
pub(super) fn prune(
    dir: BorrowedFd<'_>,
    name: &[u8],
    spared: &dyn Fn(DirId, &[u8]) -> bool,
    id: DirId,
    depth: usize,
) -> Result<bool, Errno> {
    let spare = spared(id, name);
    if !spare {
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = match fs::openat(dir, name, flags, Mode::empty()) {
        Ok(below) => below,
        Err(Errno::NOTDIR | Errno::LOOP) if spare => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let stat = fs::fstat(&below)?;
    let mut gone = !spare;
    for child in names(below.as_fd())? {
        gone &= prune(
            below.as_fd(),
            &child,
            spared,
            (stat.st_dev, stat.st_ino),
            depth + 1,
        )?;
    }
    if gone {
        fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(gone)
}
