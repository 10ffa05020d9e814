//! Owners, times and extended attributes.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::Entry;
use super::error::{LayerError, at, lossy};
use super::tree::Dir;

pub(super) fn set_owner(parent: &Dir, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(&parent.fd, name, Some(uid), Some(gid), flags)
        .map_err(at("set the owner of", &entry.path))
}

pub(super) fn modified(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

/// The process's umask, read without changing it; `None` if the kernel does not tell it.
pub(super) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// A file with extended attributes: an open file, or a path whose last part is not followed.
pub(super) trait Attributed {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno>;
    fn unset(&self, name: &[u8]) -> Result<(), Errno>;
}

impl Attributed for BorrowedFd<'_> {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        fs::flistxattr(self, buffer)
    }
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        fs::fsetxattr(self, name, value, XattrFlags::empty())
    }
    fn unset(&self, name: &[u8]) -> Result<(), Errno> {
        fs::fremovexattr(self, name)
    }
}

impl Attributed for &[u8] {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        fs::llistxattr(*self, buffer)
    }
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        fs::lsetxattr(*self, name, value, XattrFlags::empty())
    }
    fn unset(&self, name: &[u8]) -> Result<(), Errno> {
        fs::lremovexattr(*self, name)
    }
}

/// Sets extended attributes. With `reset`, also removes all others (left by a lower layer, or inherited from the
/// parent).
pub(super) fn set_xattrs(
    on: impl Attributed,
    path: &[u8],
    wanted: &[(Vec<u8>, Vec<u8>)],
    reset: bool,
) -> Result<(), LayerError> {
    if reset {
        let mut buffer = vec![0; 64 << 10];
        let length = match on.list(&mut buffer) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(at("list the extended attributes of", path)(errno)),
        };
        let there = buffer[..length].split(|byte| *byte == 0);
        // The running system sets labels, not the layer.
        let stale = there.filter(|name| !name.is_empty() && *name != b"security.selinux");
        for name in stale.filter(|name| wanted.iter().all(|(wanted, _)| wanted != name)) {
            let step = || format!("remove the extended attribute {:?} of", lossy(name));
            on.unset(name).map_err(|errno| at(step(), path)(errno))?;
        }
    }
    for (name, value) in wanted {
        match on.set(name, value) {
            Ok(()) => {}
            // For example the ACLs of an NFS server, which no disk can hold.
            Err(Errno::OPNOTSUPP)
                if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_") => {}
            Err(errno) => {
                let step = format!("set the extended attribute {:?} of", lossy(name));
                return Err(at(step, path)(errno));
            }
        }
    }
    Ok(())
}
