//! The shared directory as a file system for the guest.
//!
//! A file is found by its node's place ([`super::nodes`]): one component at a time from the nearest open directory, never
//! through a symbolic link, and then compared with the node's identity. A file that is not where it was is stale, and the
//! guest's kernel looks it up anew.
//!
//! The guest opens and closes files without a request, so a request names a node and no handle. All files belong to one
//! user in the guest, and on the host to the runner's.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Statx,
    Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use snowglobe_init::wire::share::TOUCHED;
use snowglobe_runner::status::{status, type_of};
use virtiofsd::filesystem::{
    Context, DirEntry, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, GetxattrReply,
    ListxattrReply, OpenOptions, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::oslib::WritevFlags;
use virtiofsd::soft_idmap::{GuestGid, GuestUid};

use super::descriptors::{Access, Descriptors, Opened};
use super::known::{Known, lock};
use super::nodes::{Identity, Name, NodeId, Nodes, Place, ROOT, Watched};
use super::watch::Watch;

/// How long the guest believes what it was told where changes are reported to it.
const REPORTED: Duration = Duration::from_secs(3600);

/// How long it believes it where they are not.
const UNREPORTED: Duration = Duration::from_secs(1);

/// The longest value and the longest list of extended attributes in Linux.
const LONGEST_XATTR: usize = 64 << 10;

/// The longest directory listing that is read at once, in bytes.
const LONGEST_LISTING: usize = 64 << 10;

/// How often files that were written are looked for while there are none.
const IDLE: Duration = Duration::from_millis(500);

/// The file system.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<Opened>,
    known: Arc<Mutex<Known>>,
    watch: Option<Arc<Watch>>,
    guest_id: u32,
    /// The directory of this process's descriptors.
    own_files: OwnedFd,
}

/// Opens the file `name` of this type; never waits for a writer of a pipe.
fn open(
    directory: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    access: Access,
) -> rustix::io::Result<Opened> {
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let with = |flags: OFlags, access: Access| {
        let opened = rustix::fs::openat(directory, name, common | flags, Mode::empty())?;
        Ok(Opened::new(opened, access))
    };
    match (access, kind) {
        (Access::Path, FileType::Directory) => with(OFlags::DIRECTORY, Access::Read)
            .or_else(|_: Errno| with(OFlags::PATH | OFlags::DIRECTORY, Access::Path)),
        (Access::Path, _) => with(OFlags::PATH, Access::Path),
        (Access::Read, FileType::Directory) => with(OFlags::DIRECTORY, Access::Read),
        (Access::Read, FileType::RegularFile) => with(OFlags::RDONLY, Access::Read),
        (Access::Write, FileType::RegularFile) => {
            with(OFlags::RDWR, Access::Write).or_else(|error| match error {
                Errno::ACCESS => with(OFlags::WRONLY, Access::Write),
                other => Err(other),
            })
        }
        // What else there is has its other end in the guest.
        _ => Err(Errno::NXIO),
    }
}

impl Tree {
    /// The directory `root`, whose files belong to `guest_id`.
    pub(super) fn new(
        root: OwnedFd,
        own_files: OwnedFd,
        guest_id: u32,
        open_files: u64,
        watch: impl FnOnce(&Arc<Mutex<Known>>) -> Option<Arc<Watch>>,
    ) -> io::Result<Self> {
        let identity = Identity::from(&status(root.as_fd(), c"")?);
        let known = Arc::new(Mutex::new(Known {
            nodes: Nodes::new(identity),
            descriptors: Descriptors::new(open_files),
            told: HashMap::new(),
        }));
        Ok(Self {
            root: Arc::new(Opened::new(root, Access::Read)),
            watch: watch(&known),
            known,
            guest_id,
            own_files,
        })
    }

    /// The node's identity, and the paths at which it was seen, relative to the shared directory.
    pub(super) fn paths(&self, id: NodeId) -> io::Result<(Identity, Vec<Vec<u8>>)> {
        let known = self.known();
        let identity = known.nodes.identity(id).ok_or(Errno::STALE)?;
        let places = known.nodes.places(id);
        let paths = places.iter().filter_map(|place| known.nodes.path(place));
        Ok((identity, paths.collect()))
    }

    /// Whether the file has a name on the host.
    pub(super) fn is_somewhere(&self, id: NodeId) -> io::Result<bool> {
        Ok(self.status(id)?.stx_nlink > 0)
    }

    /// Writes bytes to a file.
    pub(super) fn write_bytes(&self, id: NodeId, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let opened = self.opened(id, Access::Write)?;
        opened.file.write_all_at(bytes, offset)?;
        Ok(bytes.len())
    }

    /// Where the file ends.
    pub(super) fn end(&self, id: NodeId) -> io::Result<u64> {
        Ok(self.status(id)?.stx_size)
    }

    /// The guest keeps what it appended as if the file ended at `believed` now. If that is not so, others have changed the
    /// file, and the guest must read it anew.
    pub(super) fn appended(&self, id: NodeId, believed: u64) {
        if let Some(watch) = &self.watch
            && self.end(id).ok() != Some(believed)
        {
            watch.contents_changed(id);
        }
    }

    /// Closes files that were written, from a thread of its own.
    pub(super) fn close_unused(&self) {
        let known = Arc::downgrade(&self.known);
        std::thread::spawn(move || {
            while let Some(known) = known.upgrade() {
                let next = lock(&known).descriptors.close_written(Instant::now());
                drop(known);
                std::thread::sleep(
                    next.unwrap_or(IDLE)
                        .max(Duration::from_millis(50))
                        .min(IDLE),
                );
            }
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// The node's descriptor for this access.
    fn opened(&self, id: NodeId, access: Access) -> io::Result<Arc<Opened>> {
        if id == ROOT {
            return Ok(self.root.clone());
        }
        let now = Instant::now();
        let (places, identity) = {
            let mut known = self.known();
            if let Some(opened) = known.descriptors.get(id, access, now) {
                return Ok(opened);
            }
            let identity = known.nodes.identity(id).ok_or(Errno::STALE)?;
            (known.nodes.places(id), identity)
        };
        let mut failed = Errno::STALE.into();
        for place in places {
            match self.open_at(&place, identity, access) {
                Ok((opened, again)) => {
                    let opened = Arc::new(opened);
                    self.known().descriptors.put(id, &opened, again, now);
                    return Ok(opened);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Opens what is at a place, if it is the file with this identity. Gives also whether that will work again.
    fn open_at(
        &self,
        place: &Place,
        identity: Identity,
        access: Access,
    ) -> io::Result<(Opened, bool)> {
        let directory = self.directory(place.parent)?;
        let stat =
            status(directory.as_fd(), &place.name).map_err(|error| stale_if_gone(error.into()))?;
        if Identity::from(&stat) != identity {
            return Err(Errno::STALE.into());
        }
        let opened = open(directory.as_fd(), &place.name, type_of(&stat), access)
            .map_err(|error| stale_if_gone(error.into()))?;
        // It may have been replaced in the meantime.
        match Identity::from(&status(opened.as_fd(), c"")?) == identity {
            true => Ok((opened, true)),
            false => Err(Errno::STALE.into()),
        }
    }

    /// The directory's descriptor: those on the way to it are opened, too.
    fn directory(&self, id: NodeId) -> io::Result<Arc<Opened>> {
        if id == ROOT {
            return Ok(self.root.clone());
        }
        let now = Instant::now();
        let (mut at, steps) = {
            let mut known = self.known();
            let descriptors = &known.descriptors;
            let route = known.nodes.route(id, |id| descriptors.contains(id));
            let route = route.ok_or(Errno::STALE)?;
            let at = match route.from {
                ROOT => Some(self.root.clone()),
                from => known.descriptors.get(from, Access::Path, now),
            };
            (at.ok_or(Errno::STALE)?, route.steps)
        };
        for (id, name) in steps {
            let opened = open(at.as_fd(), &name, FileType::Directory, Access::Path)
                .map_err(|error| stale_if_gone(error.into()))?;
            let found = Identity::from(&status(opened.as_fd(), c"")?);
            let mut known = self.known();
            if known.nodes.identity(id) != Some(found) {
                return Err(Errno::STALE.into());
            }
            at = Arc::new(opened);
            known.descriptors.put(id, &at, true, now);
        }
        Ok(at)
    }

    /// The node's status.
    fn status(&self, id: NodeId) -> io::Result<Statx> {
        if id == ROOT {
            return Ok(status(self.root.as_fd(), c"")?);
        }
        let (opened, places, identity) = {
            let mut known = self.known();
            let opened = known.descriptors.get(id, Access::Path, Instant::now());
            let identity = known.nodes.identity(id).ok_or(Errno::STALE)?;
            (opened, known.nodes.places(id), identity)
        };
        if let Some(opened) = opened {
            return Ok(status(opened.as_fd(), c"")?);
        }
        for place in places {
            let directory = self.directory(place.parent)?;
            if let Ok(stat) = status(directory.as_fd(), &place.name)
                && Identity::from(&stat) == identity
            {
                return Ok(stat);
            }
        }
        Err(Errno::STALE.into())
    }

    /// Has changes in a directory reported from now on, if that is possible; gives whether they are.
    fn watch(&self, id: NodeId, directory: &Opened) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        match self.known().nodes.watched(id) {
            Watched::Yes => return true,
            Watched::No => return false,
            Watched::NotYet => {}
        }
        let watched = match watch.add(id, directory.as_fd()) {
            Ok(()) => Watched::Yes,
            Err(_) => Watched::No,
        };
        self.known().nodes.set_watched(id, watched);
        watched == Watched::Yes
    }

    fn attributes(&self, stat: &Statx) -> Attr {
        let unsigned = |seconds: i64| seconds.cast_unsigned();
        Attr {
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: unsigned(stat.stx_atime.tv_sec),
            mtime: unsigned(stat.stx_mtime.tv_sec),
            ctime: unsigned(stat.stx_ctime.tv_sec),
            atimensec: stat.stx_atime.tv_nsec,
            mtimensec: stat.stx_mtime.tv_nsec,
            ctimensec: stat.stx_ctime.tv_nsec,
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink,
            uid: GuestUid::from(self.guest_id),
            gid: GuestGid::from(self.guest_id),
            rdev: 0,
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }

    /// How long attributes are believed: a file with several names can change under one whose directory is not watched.
    fn attributes_last(&self, id: NodeId, stat: &Statx) -> Duration {
        let several = stat.stx_nlink > 1 && type_of(stat) != FileType::Directory;
        if several {
            self.tell_contents(id, stat);
        }
        let known = self.known();
        let places = known.nodes.places(id);
        let reported = match id {
            ROOT => known.nodes.watched(ROOT) == Watched::Yes,
            _ => places
                .iter()
                .any(|place| known.nodes.watched(place.parent) == Watched::Yes),
        };
        match reported && !several {
            true => REPORTED,
            false => UNREPORTED,
        }
    }

    /// Tells the guest that the contents of a file changed, if they did since it was told of the file.
    fn tell_contents(&self, id: NodeId, stat: &Statx) {
        let now = (stat.stx_size, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        let before = self.known().told.insert(id, now);
        if let Some(watch) = &self.watch
            && before.is_some_and(|before| before != now)
        {
            watch.contents_changed(id);
        }
    }

    /// The guest is told of a file.
    fn entry(
        &self,
        parent: NodeId,
        name: &CStr,
        stat: &Statx,
        reported: bool,
    ) -> io::Result<Entry> {
        let place = Place {
            parent,
            name: Name::from(name),
        };
        let inode = self.known().nodes.look_up(place, Identity::from(stat));
        let inode = inode.ok_or(Errno::NFILE)?;
        if reported && type_of(stat) == FileType::Directory {
            // A program may watch it without looking into it.
            if let Ok(directory) = self.directory(inode) {
                self.watch(inode, &directory);
            }
        }
        Ok(Entry {
            inode,
            generation: 0,
            attr: self.attributes(stat),
            attr_timeout: self.attributes_last(inode, stat),
            entry_timeout: match reported {
                true => REPORTED,
                false => UNREPORTED,
            },
        })
    }

    /// The entry of a file that a request has just made.
    fn made(&self, parent: NodeId, directory: &Opened, name: &CStr) -> io::Result<Entry> {
        let reported = self.watch(parent, directory);
        let stat = status(directory.as_fd(), name)?;
        self.entry(parent, name, &stat, reported)
    }

    /// Holds what loses the name `place`, since the guest may have it open, if it would not be found by another name.
    fn hold(&self, place: &Place) -> io::Result<()> {
        let (id, names) = {
            let known = self.known();
            let id = known.nodes.at(place).filter(|id| *id != ROOT);
            (id, id.map_or(0, |id| known.nodes.places(id).len()))
        };
        let Some(id) = id else {
            return Ok(());
        };
        let Ok(stat) = self.status(id) else {
            return Ok(());
        };
        // The guest need not know all names of a file that the host linked.
        if names > 1 && stat.stx_nlink > 1 {
            return Ok(());
        }
        let opened = [Access::Write, Access::Read, Access::Path]
            .into_iter()
            .find_map(|access| self.opened(id, access).ok());
        let held = opened.is_some_and(|opened| self.known().descriptors.hold(id, opened));
        // Only a file has contents that would be lost.
        match held || type_of(&stat) != FileType::RegularFile {
            true => Ok(()),
            false => Err(Errno::MFILE.into()),
        }
    }

    /// The file at `place` is not removed after all.
    fn release(&self, place: &Place) {
        let mut known = self.known();
        if let Some(id) = known.nodes.at(place) {
            known.descriptors.release(id);
        }
    }

    /// Removes a name with `remove`.
    fn remove(&self, parent: NodeId, name: &CStr, flags: AtFlags) -> io::Result<()> {
        let directory = self.directory(parent)?;
        let place = Place {
            parent,
            name: name.into(),
        };
        self.hold(&place)?;
        if let Err(error) = rustix::fs::unlinkat(directory.as_fd(), name, flags) {
            self.release(&place);
            return Err(error.into());
        }
        self.known().nodes.take(&place);
        Ok(())
    }

    fn forget(&self, id: NodeId, times: u64) {
        let watched = self.known().nodes.watched(id) == Watched::Yes;
        // The watch of a directory that is gone needs its descriptor, which only a known node has.
        let directory = watched.then(|| self.directory(id).ok()).flatten();
        let mut known = self.known();
        if known.nodes.forget(id, times) {
            known.descriptors.close(id);
            known.told.remove(&id);
            drop(known);
            if let Some(watch) = &self.watch {
                watch.remove(id, directory.as_deref().map(AsFd::as_fd));
            }
        }
    }

    /// The path of an open file among this process's own.
    fn own_path(opened: &Opened) -> io::Result<CString> {
        Ok(CString::new(opened.file.as_raw_fd().to_string())?)
    }

    fn set_mode(&self, id: NodeId, mode: u32) -> io::Result<()> {
        let opened = self.opened(id, Access::Path)?;
        // Through a link of the kernel to just this file: a name could lead to another one by now.
        let path = Self::own_path(&opened)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        Ok(rustix::fs::chmodat(
            &self.own_files,
            path,
            mode,
            AtFlags::empty(),
        )?)
    }

    fn set_times(&self, id: NodeId, attr: &SetattrIn, valid: SetattrValid) -> io::Result<()> {
        let time = |set, now, seconds: u64, nanoseconds: u32| {
            let tv_nsec = match (valid.contains(set), valid.contains(now)) {
                (_, true) => rustix::fs::UTIME_NOW,
                (true, false) => nanoseconds.min(999_999_999).into(),
                (false, false) => rustix::fs::UTIME_OMIT,
            };
            Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec,
            }
        };
        let times = Timestamps {
            last_access: time(
                SetattrValid::ATIME,
                SetattrValid::ATIME_NOW,
                attr.atime,
                attr.atimensec,
            ),
            last_modification: time(
                SetattrValid::MTIME,
                SetattrValid::MTIME_NOW,
                attr.mtime,
                attr.mtimensec,
            ),
        };
        if type_of(&self.status(id)?) == FileType::Symlink {
            let place = self.known().nodes.places(id).pop().ok_or(Errno::STALE)?;
            let directory = self.directory(place.parent)?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            return Ok(rustix::fs::utimensat(
                directory.as_fd(),
                &*place.name,
                &times,
                flags,
            )?);
        }
        let opened = self.opened(id, Access::Path)?;
        let path = Self::own_path(&opened)?;
        Ok(rustix::fs::utimensat(
            &self.own_files,
            path,
            &times,
            AtFlags::empty(),
        )?)
    }

    /// The file, to read or write extended attributes: only directories and regular files have some.
    fn with_xattrs(&self, id: NodeId) -> io::Result<Arc<Opened>> {
        self.opened(id, Access::Read)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EACCES) => self.opened(id, Access::Write),
                _ => Err(error),
            })
    }
}

/// A file that is not where it was is looked up anew.
fn stale_if_gone(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Errno::STALE.into(),
        _ => error,
    }
}

/// Entries of a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    entries: std::vec::IntoIter<Listed>,
    last: Option<Listed>,
}

#[derive(Debug)]
struct Listed {
    inode: u64,
    offset: u64,
    kind: u32,
    name: CString,
}

impl Listing {
    /// Whether it has no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.as_slice().is_empty()
    }

    /// The offset at which the directory goes on after it.
    pub(super) fn end(&self) -> Option<u64> {
        self.entries.as_slice().last().map(|entry| entry.offset)
    }

    /// Leaves names out.
    pub(super) fn without(self, is_out: impl Fn(&CStr) -> bool) -> Self {
        let kept: Vec<_> = self.entries.filter(|entry| !is_out(&entry.name)).collect();
        Self {
            entries: kept.into_iter(),
            last: None,
        }
    }
}

impl DirectoryIterator for Listing {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        self.last = self.entries.next();
        self.last.as_ref().map(|entry| DirEntry {
            ino: entry.inode,
            offset: entry.offset,
            type_: entry.kind,
            name: &entry.name,
        })
    }
}

/// Reads the entries from `offset` on, in as many bytes as the guest takes.
fn list(directory: &Opened, size: u32, offset: u64) -> io::Result<Listing> {
    if directory.access < Access::Read {
        return Err(Errno::ACCESS.into());
    }
    let size = (size as usize).clamp(1024, LONGEST_LISTING);
    let mut buffer = Vec::with_capacity(size);
    let mut entries = Vec::new();
    let _position = lock(&directory.position);
    rustix::fs::seek(directory, SeekFrom::Start(offset))?;
    let mut raw = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let kind = entry.file_type().as_raw_mode() >> 12;
        entries.push(Listed {
            inode: entry.ino(),
            offset: entry.next_entry_cookie(),
            kind,
            name: entry.file_name().to_owned(),
        });
        if raw.is_buffer_empty() {
            break;
        }
    }
    Ok(Listing {
        entries: entries.into_iter(),
        last: None,
    })
}

/// Whether init only wants watches to fire.
pub(super) fn is_touch(attr: &SetattrIn, valid: SetattrValid) -> bool {
    let others = SetattrValid::MODE
        | SetattrValid::SIZE
        | SetattrValid::ATIME
        | SetattrValid::UID
        | SetattrValid::GID;
    valid.contains(SetattrValid::MTIME)
        && !valid.intersects(others)
        && (attr.mtime.cast_signed(), attr.mtimensec) == TOUCHED
}

/// Whether a write goes to the end of the file, wherever that is. The guest may not know yet that others moved it.
pub(super) fn appends(flags: u32, delayed: bool) -> bool {
    !delayed && flags & libc::O_APPEND.cast_unsigned() != 0
}

/// Answers a question for a value of at most `size` bytes, or for its length.
pub(super) fn sized<T>(
    value: Vec<u8>,
    size: u32,
    whole: impl FnOnce(Vec<u8>) -> T,
    count: impl FnOnce(u32) -> T,
) -> io::Result<T> {
    let length = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    match size {
        0 => Ok(count(length)),
        _ if length <= size => Ok(whole(value)),
        _ => Err(Errno::RANGE.into()),
    }
}

/// A request that this file system does not have.
fn unknown() -> io::Error {
    Errno::NOSYS.into()
}

impl FileSystem for Tree {
    type Inode = NodeId;
    type Handle = u64;
    type DirIter = Listing;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = FsOptions::DO_READDIRPLUS
            | FsOptions::ZERO_MESSAGE_OPEN
            | FsOptions::ZERO_MESSAGE_OPENDIR
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::HANDLE_KILLPRIV_V2;
        let needed = FsOptions::ZERO_MESSAGE_OPEN | FsOptions::ZERO_MESSAGE_OPENDIR;
        match capable.contains(needed) {
            true => Ok(wanted),
            // An older kernel than the product's.
            false => Err(Errno::PROTO.into()),
        }
    }

    fn lookup(&self, _: Context, parent: NodeId, name: &CStr) -> io::Result<Entry> {
        let directory = self.directory(parent)?;
        // Before the question, so that no change after it is missed.
        let reported = self.watch(parent, &directory);
        match status(directory.as_fd(), name) {
            Ok(stat) => self.entry(parent, name, &stat, reported),
            // The guest believes this, too.
            Err(Errno::NOENT) if reported => Ok(Entry {
                inode: 0,
                generation: 0,
                attr: Attr::default(),
                attr_timeout: Duration::ZERO,
                entry_timeout: REPORTED,
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&self, _: Context, inode: NodeId, count: u64) {
        self.forget(inode, count);
    }

    fn getattr(&self, _: Context, id: NodeId, _: Option<u64>) -> io::Result<(Attr, Duration)> {
        let stat = self.status(id)?;
        Ok((self.attributes(&stat), self.attributes_last(id, &stat)))
    }

    fn setattr(
        &self,
        ctx: Context,
        id: NodeId,
        attr: SetattrIn,
        _: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        if is_touch(&attr, valid) {
            return self.getattr(ctx, id, None);
        }
        if valid.contains(SetattrValid::SIZE) {
            let opened = self.opened(id, Access::Write)?;
            let size = i64::try_from(attr.size).map_err(|_| Errno::INVAL)?;
            rustix::fs::ftruncate(&opened.file, size.cast_unsigned())?;
        }
        if valid.contains(SetattrValid::MODE) {
            self.set_mode(id, attr.mode)?;
        }
        let times = SetattrValid::ATIME
            | SetattrValid::MTIME
            | SetattrValid::ATIME_NOW
            | SetattrValid::MTIME_NOW;
        if valid.intersects(times) {
            self.set_times(id, &attr, valid)?;
        }
        self.getattr(ctx, id, None)
    }

    fn readlink(&self, _: Context, id: NodeId) -> io::Result<Vec<u8>> {
        let opened = self.opened(id, Access::Path)?;
        let target = rustix::fs::readlinkat(opened.as_fd(), c"", Vec::new())?;
        Ok(target.into_bytes())
    }

    fn symlink(
        &self,
        _: Context,
        target: &CStr,
        parent: NodeId,
        name: &CStr,
        _: Extensions,
    ) -> io::Result<Entry> {
        let directory = self.directory(parent)?;
        rustix::fs::symlinkat(target, directory.as_fd(), name)?;
        self.made(parent, &directory, name)
    }

    fn mknod(
        &self,
        _: Context,
        parent: NodeId,
        name: &CStr,
        mode: u32,
        _: u32,
        _: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let directory = self.directory(parent)?;
        let permissions = Mode::from_raw_mode(mode & 0o7777);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        if kind != FileType::RegularFile {
            rustix::fs::mknodat(directory.as_fd(), name, kind, permissions, 0)?;
            return self.made(parent, &directory, name);
        }
        // The guest will write to it, whatever its mode is.
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory.as_fd(), name, flags, permissions)?;
        let opened = Arc::new(Opened::new(file, Access::Write));
        let reported = self.watch(parent, &directory);
        let entry = self.entry(parent, name, &status(opened.as_fd(), c"")?, reported)?;
        let again = permissions.contains(Mode::RUSR | Mode::WUSR);
        let mut known = self.known();
        known
            .descriptors
            .put(entry.inode, &opened, again, Instant::now());
        Ok(entry)
    }

    fn mkdir(
        &self,
        _: Context,
        parent: NodeId,
        name: &CStr,
        mode: u32,
        _: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let directory = self.directory(parent)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mkdirat(directory.as_fd(), name, mode)?;
        self.made(parent, &directory, name)
    }

    fn unlink(&self, _: Context, parent: NodeId, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    fn rmdir(&self, _: Context, parent: NodeId, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        _: Context,
        old_parent: NodeId,
        old_name: &CStr,
        new_parent: NodeId,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let flags = RenameFlags::from_bits(flags)
            .filter(|flags| !flags.contains(RenameFlags::WHITEOUT))
            .ok_or(Errno::INVAL)?;
        let (old, new) = (self.directory(old_parent)?, self.directory(new_parent)?);
        let place = |parent, name: &CStr| Place {
            parent,
            name: name.into(),
        };
        let (from, to) = (place(old_parent, old_name), place(new_parent, new_name));
        let replaces = flags.is_empty() && from != to;
        if replaces {
            self.hold(&to)?;
        }
        let renamed =
            rustix::fs::renameat_with(old.as_fd(), old_name, new.as_fd(), new_name, flags);
        if let Err(error) = renamed {
            if replaces {
                self.release(&to);
            }
            return Err(error.into());
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        self.known().nodes.rename(&from, &to, exchange);
        Ok(())
    }

    fn link(&self, _: Context, id: NodeId, parent: NodeId, name: &CStr) -> io::Result<Entry> {
        let (opened, directory) = (self.opened(id, Access::Path)?, self.directory(parent)?);
        let path = Self::own_path(&opened)?;
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(&self.own_files, path, directory.as_fd(), name, follow)?;
        self.known().descriptors.release(id);
        self.made(parent, &directory, name)
    }

    fn open(
        &self,
        _: Context,
        _: NodeId,
        _: bool,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        // The kernel does not ask again, and opens files by itself.
        Err(unknown())
    }

    fn opendir(&self, _: Context, _: NodeId, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        Err(unknown())
    }

    fn create(
        &self,
        _: Context,
        _: NodeId,
        _: &CStr,
        _: u32,
        _: bool,
        _: u32,
        _: u32,
        _: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        // The kernel makes files by `mknod` instead.
        Err(unknown())
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _: Context,
        id: NodeId,
        _: u64,
        mut to: W,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let opened = self.opened(id, Access::Read)?;
        to.read_from_file_at(&opened.file, size as usize, offset, None)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _: Context,
        id: NodeId,
        _: u64,
        mut from: R,
        size: u32,
        offset: u64,
        _: Option<u64>,
        delayed: bool,
        _: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let opened = self.opened(id, Access::Write)?;
        let size = size as usize;
        if !appends(flags, delayed) {
            return from.write_to_file_at(&opened.file, size, offset, None);
        }
        let append = Some(WritevFlags::RWF_APPEND);
        let written = from.write_to_file_at(&opened.file, size, offset, append)?;
        self.appended(id, offset + written as u64);
        Ok(written)
    }

    fn flush(&self, _: Context, _: NodeId, _: u64, _: u64) -> io::Result<()> {
        // Written data is in the host's memory already.
        Err(unknown())
    }

    fn fsync(&self, _: Context, id: NodeId, data_only: bool, _: u64) -> io::Result<()> {
        let opened = self.opened(id, Access::Read)?;
        match data_only {
            true => opened.file.sync_data(),
            false => opened.file.sync_all(),
        }
    }

    fn fsyncdir(&self, ctx: Context, id: NodeId, data_only: bool, handle: u64) -> io::Result<()> {
        self.fsync(ctx, id, data_only, handle)
    }

    fn fallocate(
        &self,
        _: Context,
        id: NodeId,
        _: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let opened = self.opened(id, Access::Write)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        Ok(rustix::fs::fallocate(&opened.file, mode, offset, length)?)
    }

    fn release(
        &self,
        _: Context,
        _: NodeId,
        _: u32,
        _: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn releasedir(&self, _: Context, _: NodeId, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn statfs(&self, _: Context, _: NodeId) -> io::Result<libc::statvfs64> {
        let found = rustix::fs::fstatvfs(&self.root.file)?;
        // SAFETY: all its fields are numbers.
        let mut told: libc::statvfs64 = unsafe { std::mem::zeroed() };
        told.f_bsize = found.f_bsize;
        told.f_frsize = found.f_frsize;
        told.f_blocks = found.f_blocks;
        told.f_bfree = found.f_bfree;
        told.f_bavail = found.f_bavail;
        told.f_files = found.f_files;
        told.f_ffree = found.f_ffree;
        told.f_favail = found.f_favail;
        told.f_namemax = found.f_namemax;
        Ok(told)
    }

    fn readdir(
        &self,
        _: Context,
        id: NodeId,
        _: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Listing> {
        let directory = match id {
            ROOT => self.root.clone(),
            _ => self.opened(id, Access::Read)?,
        };
        self.watch(id, &directory);
        list(&directory, size, offset)
    }

    fn lseek(&self, _: Context, id: NodeId, _: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let opened = self.opened(id, Access::Read)?;
        let to = match whence.cast_signed() {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(&opened.file, to)?)
    }

    fn copyfilerange(
        &self,
        _: Context,
        from: NodeId,
        _: u64,
        mut from_offset: u64,
        to: NodeId,
        _: u64,
        mut to_offset: u64,
        length: u64,
        _: u64,
    ) -> io::Result<usize> {
        let (from, to) = (
            self.opened(from, Access::Read)?,
            self.opened(to, Access::Write)?,
        );
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(rustix::fs::copy_file_range(
            &from.file,
            Some(&mut from_offset),
            &to.file,
            Some(&mut to_offset),
            length,
        )?)
    }

    fn syncfs(&self, _: Context, _: NodeId) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root.file)?)
    }

    fn setxattr(
        &self,
        _: Context,
        id: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        _: SetxattrFlags,
    ) -> io::Result<()> {
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let opened = self.with_xattrs(id)?;
        Ok(rustix::fs::fsetxattr(&opened.file, name, value, flags)?)
    }

    fn getxattr(
        &self,
        _: Context,
        id: NodeId,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        let opened = match self.with_xattrs(id) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(Errno::NODATA.into());
            }
            opened => opened?,
        };
        let mut value = Vec::with_capacity(LONGEST_XATTR);
        rustix::fs::fgetxattr(
            &opened.file,
            name,
            rustix::buffer::spare_capacity(&mut value),
        )?;
        sized(value, size, GetxattrReply::Value, GetxattrReply::Count)
    }

    fn listxattr(&self, _: Context, id: NodeId, size: u32) -> io::Result<ListxattrReply> {
        let mut names = Vec::with_capacity(LONGEST_XATTR);
        match self.with_xattrs(id) {
            Ok(opened) => {
                rustix::fs::flistxattr(&opened.file, rustix::buffer::spare_capacity(&mut names))?;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            Err(error) => return Err(error),
        }
        sized(names, size, ListxattrReply::Names, ListxattrReply::Count)
    }

    fn removexattr(&self, _: Context, id: NodeId, name: &CStr) -> io::Result<()> {
        let opened = self.with_xattrs(id)?;
        Ok(rustix::fs::fremovexattr(&opened.file, name)?)
    }
}
