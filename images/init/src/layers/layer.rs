//! Applying a layer's entries to the root directory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Uid};
use rustix::io::Errno;

use super::archive::TarStream;
use super::attributes::{modified, set_owner, set_xattrs, umask};
use super::entry::{Entry, Kind, split};
use super::error::{LayerError, at, lossy};
use super::remove::{names, prune};
use super::sparse::Sparse;
use super::tree::{Dir, DirId, Tree};

/// What a layer contained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Metadata of a directory that is set when its content is complete: new content changes the time and inherits ACLs.
struct Pending {
    path: Vec<u8>,
    mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    reset: bool,
}

/// The names that this layer created, by directory. Whiteouts spare them.
#[derive(Default)]
struct Created(HashMap<DirId, HashSet<Vec<u8>>>);

impl Created {
    fn has(&self, dir: DirId, name: &[u8]) -> bool {
        self.0.get(&dir).is_some_and(|names| names.contains(name))
    }
}

/// A layer that is being applied.
pub(super) struct Layer {
    tree: Tree,
    /// `None`: this layer has no whiteouts.
    created: Option<Created>,
    pending: Vec<Pending>,
    pub(super) applied: Applied,
    umask: Option<u32>,
    /// This process's user and group.
    me: (u32, u32),
}

impl Layer {
    pub(super) fn new(tree: Tree, whiteouts: bool) -> Self {
        Self {
            tree,
            created: whiteouts.then(Created::default),
            pending: Vec::new(),
            applied: Applied::default(),
            umask: umask(),
            me: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        }
    }

    /// Applies one entry.
    pub(super) fn put<R: Read>(
        &mut self,
        entry: Entry,
        archive: &mut TarStream<R>,
    ) -> Result<(), LayerError> {
        let (above, name) = split(&entry.path);
        if name.is_empty() {
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(LayerError::refused(
                    b"/",
                    "the root must be a directory, and the layer has something else for it",
                )),
            };
        }
        if self.created.is_some() && self.hide(&entry.path, above, name)? {
            return Ok(());
        }
        let parent = self.tree.parent(above)?;
        if let Some(Created(created)) = &mut self.created {
            let names = created.entry(parent.id).or_default();
            if !names.contains(name) {
                names.insert(name.to_vec());
            }
        }
        match &entry.kind {
            Kind::File(sparse) => self.file(&parent, name, &entry, sparse.as_ref(), archive),
            Kind::HardLink(target) => self.hard_link(&parent, name, &entry.path, target),
            Kind::Symlink(target) => {
                self.create(&parent, name, &entry.path, || {
                    fs::symlinkat(target.as_slice(), &parent.fd, name)
                })?;
                self.describe(&parent, name, &entry)
            }
            Kind::Node(kind, device) => {
                let mode = Mode::from_raw_mode(entry.mode);
                self.create(&parent, name, &entry.path, || {
                    fs::mknodat(&parent.fd, name, *kind, mode, *device)
                })?;
                self.describe(&parent, name, &entry)
            }
            Kind::Directory => self.directory(&parent, entry),
        }
    }

    /// Creates a file of any kind, and replaces the one at its name.
    fn create<T>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        create: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                create().map_err(at("create", path))
            }
            result => result.map_err(at("create", path)),
        }
    }

    /// Removes the file or directory at a name.
    fn remove(&mut self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let failed = || at("remove what was at", path);
        let there = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
        if matches!(
            FileType::from_raw_mode(there.st_mode),
            FileType::Directory | FileType::Symlink
        ) {
            // Open parents may have been reached through it.
            self.tree.open.clear();
        }
        prune(parent.fd.as_fd(), name, &|_, _| false, parent.id, 0)
            .map(drop)
            .map_err(failed())
    }

    /// Whether new files in `parent` have this owner from the start.
    fn owned(&self, parent: &Dir, entry: &Entry) -> bool {
        (entry.uid, entry.gid) == self.me && !parent.setgid
    }

    /// Whether new files in `parent` have this mode from the start.
    fn permitted(&self, parent: &Dir, entry: &Entry) -> bool {
        let plain = entry.mode & 0o7000 == 0 && !parent.setgid && !parent.default_acl;
        plain && self.umask.is_some_and(|umask| entry.mode & umask == 0)
    }

    fn file<R: Read>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        entry: &Entry,
        sparse: Option<&Sparse>,
        archive: &mut TarStream<R>,
    ) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut file = self
            .create(parent, name, path, || {
                fs::openat(&parent.fd, name, flags, mode)
            })
            .map(File::from)?;
        let write = |error: std::io::Error| {
            at("write", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let bytes = archive.data;
        match sparse {
            None => archive.copy(archive.data, |chunk| file.write_all(chunk).map_err(write))?,
            Some(sparse) => {
                for &(mut offset, length) in &sparse.pieces {
                    archive.copy(length, |chunk| {
                        file.write_all_at(chunk, offset).map_err(write)?;
                        offset += chunk.len() as u64;
                        Ok(())
                    })?;
                }
                file.set_len(sparse.size).map_err(write)?;
            }
        }
        // Only what came: a header may claim any number.
        self.applied.bytes += bytes;
        if !self.owned(parent, entry) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fs::fchown(&file, Some(uid), Some(gid)).map_err(at("set the owner of", path))?;
        }
        if !self.permitted(parent, entry) {
            fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(at("set the mode of", path))?;
        }
        set_xattrs(file.as_fd(), path, &entry.xattrs, parent.default_acl)?;
        fs::futimens(&file, &modified(entry.mtime)).map_err(at("set the time of", path))
    }

    fn hard_link(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        target: &[u8],
    ) -> Result<(), LayerError> {
        let (above, linked) = split(target);
        let nothing = || {
            let target = lossy(target);
            let why = format!(
                "its hard link target {target:?} does not exist; a file of this layer or a lower one was expected"
            );
            LayerError::refused(path, why)
        };
        let from = self.tree.find(above)?.ok_or_else(nothing)?;
        let link = || fs::linkat(&from.fd, linked, &parent.fd, name, AtFlags::empty());
        let look = |dir: &Dir, name: &[u8]| -> Result<Stat, Errno> {
            fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let failed = |errno| match errno {
            Errno::NOENT => nothing(),
            errno => at(format!("link {:?} as", lossy(target)), path)(errno),
        };
        match link() {
            Err(Errno::EXIST) => {
                let old = look(&from, linked).map_err(failed)?;
                let new = look(parent, name).map_err(at("look at", path))?;
                if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino) {
                    return Ok(());
                }
                self.remove(parent, name, path)?;
                link().map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    /// Sets owner, mode, attributes and time of a new link, device or fifo.
    fn describe(&self, parent: &Dir, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        if !self.owned(parent, entry) {
            set_owner(parent, name, entry)?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) && !self.permitted(parent, entry) {
            fs::chmodat(
                &parent.fd,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .map_err(at("set the mode of", path))?;
        }
        if !entry.xattrs.is_empty() || parent.default_acl {
            // Such a file can't be opened, so it is named through its parent.
            let place = format!("/proc/self/fd/{}/", parent.fd.as_raw_fd());
            let place = [place.as_bytes(), name].concat();
            set_xattrs(place.as_slice(), path, &entry.xattrs, parent.default_acl)?;
        }
        let times = modified(entry.mtime);
        fs::utimensat(&parent.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("set the time of", path))
    }

    fn directory(&mut self, parent: &Dir, entry: Entry) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let (_, name) = split(path);
        let mode = Mode::from_raw_mode(entry.mode);
        let make = || fs::mkdirat(&parent.fd, name, mode);
        let mut reset = parent.default_acl;
        let (mut own, mut permit) = (!self.owned(parent, &entry), !self.permitted(parent, &entry));
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(at("look at", path))?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    reset = true;
                    own = (there.st_uid, there.st_gid) != (entry.uid, entry.gid);
                    permit = own || there.st_mode & 0o7777 != entry.mode;
                    if (there.st_mode ^ entry.mode) & 0o2000 != 0 {
                        // The open parent has the old setgid bit.
                        self.tree.open.clear();
                    }
                } else {
                    self.remove(parent, name, path)?;
                    make().map_err(at("make the directory", path))?;
                }
            }
            Err(errno) => return Err(at("make the directory", path)(errno)),
        }
        if own {
            set_owner(parent, name, &entry)?;
        }
        if permit {
            fs::chmodat(&parent.fd, name, mode, AtFlags::empty())
                .map_err(at("set the mode of", path))?;
        }
        self.pending.push(Pending {
            path: entry.path,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
            reset,
        });
        Ok(())
    }

    /// Carries out a whiteout; `false` if the entry is none.
    fn hide(&mut self, path: &[u8], above: &[u8], name: &[u8]) -> Result<bool, LayerError> {
        let opaque = name == b".wh..wh..opq";
        let private = |part: &[u8]| part.starts_with(b".wh..wh.");
        if !opaque && path.split(|byte| *byte == b'/').any(private) {
            // AUFS's own bookkeeping.
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            return Ok(false);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::refused(
                path,
                "a whiteout must name what it hides: .wh.NAME",
            ));
        }
        let Some(parent) = self.tree.find(above)? else {
            return Ok(true);
        };
        let created = self.created.take().unwrap_or_default();
        self.tree.open.clear();
        let has = |dir: DirId, name: &[u8]| created.has(dir, name);
        let hide = |name: &[u8]| {
            prune(parent.fd.as_fd(), name, &has, parent.id, 0)
                .map(drop)
                .map_err(at("hide what is below", path))
        };
        let result = if opaque {
            names(parent.fd.as_fd())
                .map_err(at("list the directory of", path))
                .and_then(|names| names.iter().try_for_each(|name| hide(name)))
        } else {
            hide(hidden)
        };
        self.created = Some(created);
        result.map(|()| true)
    }

    /// Sets the pending metadata of directories.
    pub(super) fn finish(mut self) -> Result<Applied, LayerError> {
        for Pending {
            path,
            mtime,
            xattrs,
            reset,
        } in std::mem::take(&mut self.pending)
        {
            let (above, name) = split(&path);
            let Some(parent) = self.tree.find(above)? else {
                continue;
            };
            // A later entry may have replaced the directory.
            match fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(at("look at", &path)(errno)),
            }
            if reset || !xattrs.is_empty() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = fs::openat(&parent.fd, name, flags, Mode::empty())
                    .map_err(at("open the directory", &path))?;
                set_xattrs(dir.as_fd(), &path, &xattrs, reset)?;
            }
            let times = modified(mtime);
            fs::utimensat(&parent.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(at("set the time of", &path))?;
        }
        Ok(self.applied)
    }
}
