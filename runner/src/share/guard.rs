//! The rules for a guest's requests to a share.
//!
//! The guest controls its kernel, so each request may be an attack. Besides the permissions of the runner's user:
//! - a name is one component: no `..` and no `/` leads out of the directory;
//! - an offset is one that a file can have: the file server panics at others;
//! - ownership never changes: all files belong to one id in the guest, and a change to another is refused;
//! - nothing becomes setuid or setgid, no device node is made, and of extended attributes only `user.*` exist:
//!   a file that the guest leaves has no power on the host beyond its contents;
//! - what the host's programs run by themselves is not changed, and hidden files look absent ([`snowglobe_runner::rules`]).

use std::ffi::CStr;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use snowglobe_init::wire::share::MOST;
use snowglobe_runner::rules::{Change, Kind};
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::{GuestGid, GuestUid};

use super::judge::Judge;
use super::nodes::{Identity, ROOT};
use super::tree::{Tree, appends, is_touch, sized};

type Inode = <Tree as FileSystem>::Inode;
type Handle = <Tree as FileSystem>::Handle;

/// The longest name in Linux, in bytes.
const LONGEST_NAME: usize = 255;

/// The most bytes that a request copies.
const MOST_COPIED: u64 = 16 << 20;

/// The file system behind these rules.
#[derive(Debug)]
pub(super) struct Guard {
    inner: Tree,
    guest_id: u32,
    judge: Arc<Judge>,
}

impl Guard {
    /// Puts `inner`, whose files belong to `guest_id`, behind the rules.
    pub(super) fn new(inner: Tree, guest_id: u32, judge: Arc<Judge>) -> Self {
        Self {
            inner,
            guest_id,
            judge,
        }
    }

    /// The paths of a node as they are now, in the tree that the rules see. A file that was moved and not found since is
    /// stale; one that was removed has none.
    fn paths(&self, id: Inode) -> io::Result<Vec<Vec<u8>>> {
        if id == ROOT {
            return Ok(vec![self.judge.in_tree(b"")]);
        }
        let (identity, paths) = self.inner.paths(id)?;
        let mut paths: Vec<_> = paths.iter().map(|path| self.judge.in_tree(path)).collect();
        paths.retain(|path| self.is_at(identity, path));
        if paths.is_empty() && self.inner.is_somewhere(id)? {
            return Err(error(libc::ESTALE));
        }
        Ok(paths)
    }

    fn is_at(&self, identity: Identity, path: &[u8]) -> bool {
        let found = self.judge.found_at(path);
        found.is_ok_and(|found| found.is_some_and(|stat| Identity::from(&stat) == identity))
    }

    /// The path of a directory.
    fn directory(&self, id: Inode) -> io::Result<Vec<u8>> {
        self.paths(id)?.pop().ok_or_else(|| error(libc::ENOENT))
    }

    /// The path of a name in a directory.
    fn path(&self, parent: Inode, name: &CStr) -> io::Result<Vec<u8>> {
        Ok(joined(&self.directory(parent)?, name))
    }

    /// Whether a name in a directory looks absent.
    fn hides(&self, parent: Inode, name: &CStr) -> bool {
        self.judge.hides_any()
            && self
                .path(parent, name)
                .is_ok_and(|path| self.judge.hides(&path))
    }

    /// Refuses a change of a file that is forbidden under one of its names.
    fn allow_each<'a>(
        &self,
        paths: &'a [Vec<u8>],
        change: impl Fn(&'a [u8]) -> Change<'a>,
    ) -> io::Result<()> {
        paths
            .iter()
            .try_for_each(|path| self.judge.allow(&change(path)))
    }

    /// Refuses the making of a file.
    fn allow_new(&self, parent: Inode, name: &CStr, kind: Kind) -> io::Result<()> {
        let path = self.path(parent, name)?;
        if self.judge.found_at(&path)?.is_some() {
            return Err(error(libc::EEXIST));
        }
        self.judge.allow(&Change::Create { path: &path, kind })
    }

    /// Refuses a change of the contents of a file to those that it has with `bytes` at `offset`.
    fn allow_written(&self, paths: &[Vec<u8>], offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.allow_each(paths, |path| Change::Write {
            path,
            offset,
            data: bytes,
        })
    }

    fn weighs(&self, paths: &[Vec<u8>]) -> io::Result<bool> {
        for path in paths {
            if self.judge.weighs(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a change of the owner, and lets one that changes nothing pass.
    fn check_owner(&self, attr: &SetattrIn, valid: SetattrValid) -> io::Result<()> {
        let user = valid.contains(SetattrValid::UID) && attr.uid != GuestUid::from(self.guest_id);
        let group = valid.contains(SetattrValid::GID) && attr.gid != GuestGid::from(self.guest_id);
        match user || group {
            true => Err(error(libc::EPERM)),
            false => Ok(()),
        }
    }
}

/// The path of a name in the directory with this path.
fn joined(directory: &[u8], name: &CStr) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
    path
}

/// The bytes of a request that writes.
fn bytes_of(mut from: impl ZeroCopyReader, size: u32) -> io::Result<Vec<u8>> {
    let kept = rustix::fs::memfd_create("write", rustix::fs::MemfdFlags::CLOEXEC)?;
    let kept = std::fs::File::from(kept);
    let size = size.min(MOST) as usize;
    let length = from.write_to_file_at(&kept, size, 0, None)?;
    let mut bytes = vec![0; length];
    kept.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A single component that names an entry of its directory.
fn checked(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(error(libc::EINVAL)),
        bytes if bytes.contains(&b'/') => Err(error(libc::EINVAL)),
        bytes if bytes.len() > LONGEST_NAME => Err(error(libc::ENAMETOOLONG)),
        _ => Ok(name),
    }
}

/// An offset in a file, for which the kernel uses a signed number.
fn checked_offset(offset: u64) -> io::Result<u64> {
    match i64::try_from(offset) {
        Ok(_) => Ok(offset),
        Err(_) => Err(error(libc::EINVAL)),
    }
}

/// Whether an allocation needs room on the disk: holes and removed ranges don't.
fn takes_room(mode: u32) -> bool {
    let frees = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE;
    mode & frees.cast_unsigned() == 0
}

/// A mode without setuid and setgid.
fn without_setid(mode: u32) -> u32 {
    mode & !(libc::S_ISUID | libc::S_ISGID)
}

/// Refuses device nodes and unknown file types.
fn check_type(mode: u32) -> io::Result<()> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => Ok(()),
        _ => Err(error(libc::EPERM)),
    }
}

/// Whether an extended attribute is in the namespace `user`.
fn is_user_attribute(attribute: &[u8]) -> bool {
    attribute.starts_with(b"user.")
}

/// The name of a file's ACL.
const ACL: &[u8] = b"system.posix_acl_access\0";

/// The names among NUL-terminated ones that the guest may know: those that are [`is_user_attribute`], and that of an ACL.
/// That one has no value here, and can't be set: it tells a program in the guest that a copy would lack it.
fn listed(names: &[u8]) -> Vec<u8> {
    names
        .split_inclusive(|&byte| byte == 0)
        .filter(|name| is_user_attribute(name) || *name == ACL)
        .flatten()
        .copied()
        .collect()
}

/// Methods that pass a request on unchanged.
macro_rules! pass_on {
    ($(fn $name:ident $(<$generic:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $answer:ty)?;)*) => {
        $(fn $name $(<$generic: $bound>)? (&self, $($arg: $ty),*) $(-> $answer)? {
            self.inner.$name($($arg),*)
        })*
    };
}

impl FileSystem for Guard {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <Tree as FileSystem>::DirIter;

    pass_on! {
        fn init(capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy();
        fn forget(ctx: Context, inode: Inode, count: u64);
        fn batch_forget(ctx: Context, requests: Vec<(Inode, u64)>);
        fn getattr(ctx: Context, inode: Inode, handle: Option<Handle>) -> io::Result<(Attr, Duration)>;
        fn readlink(ctx: Context, inode: Inode) -> io::Result<Vec<u8>>;
        fn open(ctx: Context, inode: Inode, kill_priv: bool, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn flush(ctx: Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn release(ctx: Context, inode: Inode, flags: u32, handle: Handle, flush: bool, flock_release: bool,
            lock_owner: Option<u64>) -> io::Result<()>;
        fn statfs(ctx: Context, inode: Inode) -> io::Result<libc::statvfs64>;
        fn opendir(ctx: Context, inode: Inode, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn fsyncdir(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access(ctx: Context, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
        fn syncfs(ctx: Context, inode: Inode) -> io::Result<()>;
    }

    fn readdir(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        mut offset: u64,
    ) -> io::Result<Self::DirIter> {
        if !self.judge.hides_any() {
            return self.inner.readdir(ctx, inode, handle, size, offset);
        }
        let directory = self.directory(inode)?;
        let hidden = |name: &CStr| self.judge.hides(&joined(&directory, name));
        loop {
            let listing = self.inner.readdir(ctx, inode, handle, size, offset)?;
            let Some(end) = listing.end() else {
                return Ok(listing);
            };
            let seen = listing.without(hidden);
            // An empty answer would be the end of the directory.
            if !seen.is_empty() {
                return Ok(seen);
            }
            offset = end;
        }
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        checked_offset(offset.saturating_add(size.into()))?;
        self.inner
            .read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        checked_offset(offset.saturating_add(size.into()))?;
        let _alone = self.judge.alone();
        let paths = self.paths(inode)?;
        self.judge.take_room(&paths, size.into())?;
        if self.weighs(&paths)? {
            let data = bytes_of(r, size)?;
            let at = match appends(flags, delayed_write) {
                true => self.inner.end(inode)?,
                false => offset,
            };
            self.allow_written(&paths, at, &data)?;
            let written = self.inner.write_bytes(inode, &data, at)?;
            if at != offset {
                self.inner.appended(inode, offset + written as u64);
            }
            return Ok(written);
        }
        self.allow_written(&paths, offset, &[])?;
        self.inner.write(
            ctx,
            inode,
            handle,
            r,
            size,
            offset,
            lock_owner,
            delayed_write,
            kill_priv,
            flags,
        )
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        checked_offset(offset.saturating_add(length))?;
        let _alone = self.judge.alone();
        let paths = self.paths(inode)?;
        let size = offset.saturating_add(length);
        self.allow_each(&paths, |path| Change::Truncate { path, size })?;
        if self.weighs(&paths)? {
            // It would be judged as a write of zeros, which programs do instead.
            return Err(error(libc::EOPNOTSUPP));
        }
        if takes_room(mode) {
            self.judge.take_room(&paths, length)?;
        }
        self.inner
            .fallocate(ctx, inode, handle, mode, offset, length)
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: Inode,
        handle_in: Handle,
        offset_in: u64,
        inode_out: Inode,
        handle_out: Handle,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        checked_offset(offset_in)?;
        checked_offset(offset_out)?;
        // No file is longer; the kernel copies what exists.
        let len = len.min(i64::MAX as u64 - offset_in.max(offset_out));
        let _alone = self.judge.alone();
        let paths = self.paths(inode_out)?;
        if self.weighs(&paths)? {
            // Programs read and write instead.
            return Err(error(libc::EOPNOTSUPP));
        }
        self.allow_written(&paths, offset_out, &[])?;
        // Of a longer range no more is copied at once.
        let len = len.min(MOST_COPIED);
        self.judge.take_room(&paths, len)?;
        self.inner.copyfilerange(
            ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
        )
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        let name = checked(name)?;
        match self.hides(parent, name) {
            true => Err(error(libc::ENOENT)),
            false => self.inner.lookup(ctx, parent, name),
        }
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        mut attr: SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        self.check_owner(&attr, valid)?;
        attr.mode = without_setid(attr.mode);
        let _alone = self.judge.alone();
        if !is_touch(&attr, valid) {
            let paths = self.paths(inode)?;
            let others = SetattrValid::all().difference(SetattrValid::SIZE);
            if valid.contains(SetattrValid::SIZE) {
                let size = attr.size;
                self.allow_each(&paths, |path| Change::Truncate { path, size })?;
            }
            if valid.intersects(others) {
                self.allow_each(&paths, |path| Change::Attributes { path })?;
            }
        }
        self.inner.setattr(ctx, inode, attr, handle, valid)
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: Inode,
        name: &CStr,
        _: Extensions,
    ) -> io::Result<Entry> {
        let name = checked(name)?;
        let _alone = self.judge.alone();
        let path = self.path(parent, name)?;
        self.judge.allow(&Change::Symlink {
            path: &path,
            target: target.to_bytes(),
        })?;
        self.inner
            .symlink(ctx, target, parent, name, Extensions::default())
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let name = checked(name)?;
        check_type(mode)?;
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            _ => Kind::File,
        };
        let _alone = self.judge.alone();
        self.allow_new(parent, name, kind)?;
        self.inner.mknod(
            ctx,
            parent,
            name,
            without_setid(mode),
            rdev,
            umask,
            Extensions::default(),
        )
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let name = checked(name)?;
        let _alone = self.judge.alone();
        self.allow_new(parent, name, Kind::Directory)?;
        self.inner.mkdir(
            ctx,
            parent,
            name,
            without_setid(mode),
            umask,
            Extensions::default(),
        )
    }

    fn create(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let mode = without_setid(mode);
        self.inner.create(
            ctx,
            parent,
            checked(name)?,
            mode,
            kill_priv,
            flags,
            umask,
            Extensions::default(),
        )
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        let name = checked(name)?;
        let _alone = self.judge.alone();
        let path = self.path(parent, name)?;
        self.judge.allow(&Change::Remove { path: &path })?;
        self.inner.unlink(ctx, parent, name)
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        let name = checked(name)?;
        let _alone = self.judge.alone();
        let path = self.path(parent, name)?;
        self.judge.allow(&Change::Remove { path: &path })?;
        self.inner.rmdir(ctx, parent, name)
    }

    fn rename(
        &self,
        ctx: Context,
        old_dir: Inode,
        old_name: &CStr,
        new_dir: Inode,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (old_name, new_name) = (checked(old_name)?, checked(new_name)?);
        let _alone = self.judge.alone();
        let from = self.path(old_dir, old_name)?;
        let to = self.path(new_dir, new_name)?;
        self.judge.allow(&Change::Rename {
            from: &from,
            to: &to,
            exchange: flags & libc::RENAME_EXCHANGE != 0,
        })?;
        self.inner
            .rename(ctx, old_dir, old_name, new_dir, new_name, flags)
    }

    fn link(
        &self,
        ctx: Context,
        inode: Inode,
        new_parent: Inode,
        new_name: &CStr,
    ) -> io::Result<Entry> {
        let new_name = checked(new_name)?;
        let _alone = self.judge.alone();
        let to = self.path(new_parent, new_name)?;
        for from in self.paths(inode)? {
            self.judge.allow(&Change::Link {
                from: &from,
                to: &to,
            })?;
        }
        self.inner.link(ctx, inode, new_parent, new_name)
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        if !is_user_attribute(name.to_bytes()) {
            return Err(error(libc::EOPNOTSUPP));
        }
        let _alone = self.judge.alone();
        let paths = self.paths(inode)?;
        self.allow_each(&paths, |path| Change::Attributes { path })?;
        self.inner
            .setxattr(ctx, inode, name, value, flags, extra_flags)
    }

    fn getxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if !is_user_attribute(name.to_bytes()) {
            return Err(error(libc::ENODATA));
        }
        self.inner.getxattr(ctx, inode, name, size)
    }

    fn listxattr(&self, ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        let names = match self.inner.listxattr(ctx, inode, u32::MAX)? {
            ListxattrReply::Names(names) => listed(&names),
            ListxattrReply::Count(_) => Vec::new(),
        };
        sized(names, size, ListxattrReply::Names, ListxattrReply::Count)
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        if !is_user_attribute(name.to_bytes()) {
            return Err(error(libc::ENODATA));
        }
        let _alone = self.judge.alone();
        let paths = self.paths(inode)?;
        self.allow_each(&paths, |path| Change::Attributes { path })?;
        self.inner.removexattr(ctx, inode, name)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn a_name_is_one_component() {
        for bad in [
            c"",
            c".",
            c"..",
            c"/",
            c"a/b",
            c"../x",
            c"/etc/passwd",
            c"a/",
        ] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        for good in [c"a", c"...", c"..a", c".hidden", c"\xff\n"] {
            assert!(checked(good).is_ok(), "{good:?}");
        }
        let of = |length| CString::new(vec![b'x'; length]).unwrap();
        assert!(checked(&of(LONGEST_NAME)).is_ok());
        let refused = checked(&of(LONGEST_NAME + 1)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    }

    #[test]
    fn new_files_have_no_privileges() {
        assert_eq!(without_setid(0o106_755), 0o100_755);
        assert_eq!(without_setid(0o041_777), 0o041_777);
        for kind in [libc::S_IFBLK, libc::S_IFCHR] {
            assert!(check_type(kind | 0o600).is_err());
        }
        assert!(check_type(libc::S_IFIFO | 0o600).is_ok());
    }

    #[test]
    fn only_user_attributes_exist() {
        let names = b"user.a\0security.selinux\0user.b\0system.posix_acl_default\0trusted.x\0";
        assert_eq!(listed(names), b"user.a\0user.b\0");
        let with_acl = [b"user.a\0".as_slice(), ACL].concat();
        assert_eq!(listed(&with_acl), with_acl);
        assert_eq!(listed(b""), b"");
        assert!(
            !is_user_attribute(b"security.capability")
                && !is_user_attribute(b"system.posix_acl_access")
        );
    }
}
