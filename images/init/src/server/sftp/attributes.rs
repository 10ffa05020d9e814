//! Attributes of files: reading them for a client, and setting those that it sends.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use russh_sftp::protocol::{FileAttributes, OpenFlags};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, UTIME_OMIT};

use super::protocol::open_flags;

/// The attributes of a file. The library's own conversion marks pipes, sockets and devices as regular files.
pub(super) fn attributes(metadata: &Metadata) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    FileAttributes {
        size: Some(metadata.size()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
        ..FileAttributes::empty()
    }
}

/// The file whose attributes are set.
pub(super) enum Target<'a> {
    Path(&'a Path),
    File(&'a File),
}

impl Target<'_> {
    /// Sets as many attributes as possible and returns the first error: a client that may not change the owner still wants
    /// the times set. The owner comes before the mode, since changing it clears the setuid bit. The times come last.
    pub(super) fn apply(&self, attrs: &FileAttributes) -> io::Result<()> {
        let size = attrs.size.map_or(Ok(()), |size| self.set_size(size));
        let owner = match (attrs.uid, attrs.gid) {
            (None, None) => Ok(()),
            (uid, gid) => self.set_owner(uid, gid),
        };
        let mode = attrs
            .permissions
            .map_or(Ok(()), |mode| self.set_mode(mode & 0o7777));
        let times = match (attrs.atime, attrs.mtime) {
            (None, None) => Ok(()),
            (atime, mtime) => self.set_times(atime, mtime),
        };
        size.and(owner).and(mode).and(times)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_len(size),
            Self::Path(path) => {
                let file = rustix::fs::open(*path, open_flags(OpenFlags::WRITE), Mode::empty())?;
                File::from(file).set_len(size)
            }
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match self {
            Self::File(file) => std::os::unix::fs::fchown(file, uid, gid),
            Self::Path(path) => std::os::unix::fs::chown(path, uid, gid),
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let permissions = PermissionsExt::from_mode(mode);
        match self {
            Self::File(file) => file.set_permissions(permissions),
            Self::Path(path) => fs::set_permissions(path, permissions),
        }
    }

    fn set_times(&self, atime: Option<u32>, mtime: Option<u32>) -> io::Result<()> {
        let time = |seconds: Option<u32>| match seconds {
            Some(seconds) => Timespec {
                tv_sec: seconds.into(),
                tv_nsec: 0,
            },
            None => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
        };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        match self {
            Self::File(file) => rustix::fs::futimens(file, &times)?,
            Self::Path(path) => rustix::fs::utimensat(CWD, *path, &times, AtFlags::empty())?,
        }
        Ok(())
    }
}
