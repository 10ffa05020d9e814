//! The new root's directory tree. No path leads out of it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::entry::split;
use super::error::{LayerError, at};

/// How many dangling links are followed to make one parent.
const MAX_LINKS: usize = 40;

/// How many parent directories are kept open.
const OPEN_PARENTS: usize = 32;

/// A directory's identity: device and inode.
pub(super) type DirId = (u64, u64);

/// An open directory below the root.
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) id: DirId,
    /// New files in it take its group.
    pub(super) setgid: bool,
    /// New files in it inherit ACLs from it.
    pub(super) default_acl: bool,
}

/// How to make a directory.
#[derive(Clone, Copy)]
pub(super) struct Make {
    pub(super) mode: u32,
    pub(super) owner: u32,
    /// Whether to replace a file of another kind.
    pub(super) replace: bool,
}

/// A parent directory that no entry describes.
const PARENT: Make = Make {
    mode: 0o755,
    owner: 0,
    replace: true,
};

/// The tree below the root.
pub(super) struct Tree {
    root: OwnedFd,
    /// The parents that were used last, the latest last. Valid until a directory or a link is removed.
    pub(super) open: Vec<(Vec<u8>, Rc<Dir>)>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = root.as_os_str().as_encoded_bytes();
        Ok(Self {
            root: fs::open(root, flags, Mode::empty()).map_err(at("open the root", name))?,
            open: Vec::new(),
        })
    }

    /// Opens a directory; links are followed within the root.
    fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.root, path, flags, Mode::empty(), within) {
                // A rename elsewhere kept the kernel from checking that `..` stays inside.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// The directory at `path`, or `None` where there is none.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>, LayerError> {
        if let Some(index) = self.open.iter().rposition(|(known, _)| known == path) {
            let found = Rc::clone(&self.open[index].1);
            let last = self.open.len() - 1;
            if index < last {
                self.open[index..].rotate_left(1);
            }
            return Ok(Some(found));
        }
        let fd = match self.resolve(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(at("open the directory", path)(errno)),
        };
        let stat = fs::fstat(&fd).map_err(at("look at the directory", path))?;
        let acl = fs::fgetxattr(&fd, "system.posix_acl_default", &mut [0u8; 0][..]);
        let dir = Rc::new(Dir {
            id: (stat.st_dev, stat.st_ino),
            setgid: stat.st_mode & 0o2000 != 0,
            default_acl: acl.is_ok(),
            fd,
        });
        if self.open.len() == OPEN_PARENTS {
            self.open.remove(0);
        }
        self.open.push((path.to_vec(), Rc::clone(&dir)));
        Ok(Some(dir))
    }

    /// The directory at `path`, made with its parents where missing.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>, LayerError> {
        if let Some(dir) = self.find(path)? {
            return Ok(dir);
        }
        self.ensure(path, PARENT, 0)?;
        self.find(path)?
            .ok_or_else(|| LayerError::refused(path, "its directory vanished while it was made"))
    }

    /// Makes the directory at `path` and its parents, where missing. For a dangling link, makes its target.
    pub(super) fn ensure(
        &mut self,
        path: &[u8],
        make: Make,
        links: usize,
    ) -> Result<(), LayerError> {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(index, _)| index)
            .chain([path.len()]);
        let mut parent = self.resolve(b"").map_err(at("open the root", path))?;
        for end in ends {
            let (prefix, (_, name)) = (&path[..end], split(&path[..end]));
            if matches!(name, b"" | b"." | b"..") && end < path.len() {
                // `.` and `..` come from a link's target; the kernel resolves them.
                if !prefix.is_empty() {
                    parent = self.resolve(prefix).map_err(at("follow", prefix))?;
                }
                continue;
            }
            let last = if end == path.len() {
                make
            } else {
                Make {
                    mode: 0o755,
                    owner: 0,
                    ..make
                }
            };
            let missing = match self.resolve(prefix) {
                Ok(found) => {
                    parent = found;
                    continue;
                }
                Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => errno,
                Err(errno) => return Err(at("open the directory", prefix)(errno)),
            };
            self.make(&parent, prefix, missing, last, links)?;
            parent = self
                .resolve(prefix)
                .map_err(at("open the directory", prefix))?;
        }
        Ok(())
    }

    /// Makes one directory. `missing` is the kernel's reason why there is none: nothing there, or another kind of file.
    fn make(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        missing: Errno,
        make: Make,
        links: usize,
    ) -> Result<(), LayerError> {
        let (above, name) = split(path);
        let mode = Mode::from_raw_mode(make.mode);
        match fs::mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) if missing == Errno::NOENT => {
                if links == MAX_LINKS {
                    return Err(LayerError::refused(path, "its links go round in circles"));
                }
                let target = fs::readlinkat(parent, name, Vec::new())
                    .map_err(at("read the link", path))?
                    .into_bytes();
                let target = match target.strip_prefix(b"/") {
                    Some(absolute) => absolute.to_vec(),
                    None if above.is_empty() => target,
                    None => [above, &target].join(&b'/'),
                };
                let target = target.strip_suffix(b"/").unwrap_or(&target);
                return self.ensure(target, make, links + 1);
            }
            Err(Errno::EXIST) if make.replace => {
                fs::unlinkat(parent, name, AtFlags::empty())
                    .map_err(at("replace what is no directory at", path))?;
                self.open.clear();
                fs::mkdirat(parent, name, mode).map_err(at("make the directory", path))?;
            }
            Err(Errno::EXIST) => {
                return Err(LayerError::refused(
                    path,
                    "it is no directory, and the guest needs one there",
                ));
            }
            Err(errno) => return Err(at("make the directory", path)(errno)),
        }
        let (uid, gid) = (Uid::from_raw(make.owner), Gid::from_raw(make.owner));
        fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("set the owner of", path))?;
        fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(at("set the mode of", path))
    }
}
