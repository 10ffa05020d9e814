//! The rules for a guest's requests to a share.
//!
//! The guest controls its kernel, so each request may be an attack. Besides the permissions of the runner's user:
//! - a name is one component: no `..` and no `/` leads out of the directory;
//! - an offset is one that a file can have: the file server panics at others;
//! - ownership never changes: all files belong to one id in the guest, so a change succeeds and does nothing;
//! - nothing becomes setuid or setgid, no device node is made, and of extended attributes only `user.*` exist:
//!   a file that the guest leaves has no power on the host beyond its contents.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

/// The file system behind these rules.
pub(super) struct Guard {
    inner: PassthroughFs,
}

impl Guard {
    /// Puts `inner` behind the rules.
    pub(super) fn new(inner: PassthroughFs) -> Self {
        Self { inner }
    }
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A single component that names an entry of its directory.
fn checked(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(error(libc::EINVAL)),
        bytes if bytes.contains(&b'/') => Err(error(libc::EINVAL)),
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

/// A change of attributes without that of the owner.
fn without_owner(valid: SetattrValid) -> SetattrValid {
    valid.difference(SetattrValid::UID | SetattrValid::GID)
}

/// The name of a file's ACL.
const ACL: &[u8] = b"system.posix_acl_access\0";

/// The name of a directory's default ACL, for new files in it.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default\0";

/// The names among NUL-terminated ones that the guest may know: those that are [`is_user_attribute`], and whether there is an
/// ACL. That one has no value here, and can't be set: it tells a program in the guest that a copy would lack it.
///
/// The inner file system counts the names of ACLs, `counted` bytes with them, but leaves them out.
fn listed(names: &[u8], counted: usize) -> Vec<u8> {
    let left_out = counted.saturating_sub(names.len());
    let acl = left_out != 0 && left_out != DEFAULT_ACL.len();
    names
        .split_inclusive(|&byte| byte == 0)
        .filter(|name| is_user_attribute(name))
        .chain(acl.then_some(ACL))
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
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

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
        fn readdir(ctx: Context, inode: Inode, handle: Handle, size: u32, offset: u64) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access(ctx: Context, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
        fn syncfs(ctx: Context, inode: Inode) -> io::Result<()>;
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
        self.inner.copyfilerange(
            ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
        )
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.inner.lookup(ctx, parent, checked(name)?)
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        mut attr: SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        attr.mode = without_setid(attr.mode);
        self.inner
            .setattr(ctx, inode, attr, handle, without_owner(valid))
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: Inode,
        name: &CStr,
        _: Extensions,
    ) -> io::Result<Entry> {
        self.inner
            .symlink(ctx, target, parent, checked(name)?, Extensions::default())
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
        check_type(mode)?;
        self.inner.mknod(
            ctx,
            parent,
            checked(name)?,
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
        self.inner.mkdir(
            ctx,
            parent,
            checked(name)?,
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
        self.inner.unlink(ctx, parent, checked(name)?)
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        self.inner.rmdir(ctx, parent, checked(name)?)
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
        self.inner.rename(
            ctx,
            old_dir,
            checked(old_name)?,
            new_dir,
            checked(new_name)?,
            flags,
        )
    }

    fn link(
        &self,
        ctx: Context,
        inode: Inode,
        new_parent: Inode,
        new_name: &CStr,
    ) -> io::Result<Entry> {
        self.inner.link(ctx, inode, new_parent, checked(new_name)?)
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
        let counted = match self.inner.listxattr(ctx, inode, 0)? {
            // A count answers only a call that asks for one: the kernel takes it for a broken reply otherwise.
            ListxattrReply::Count(0) if size > 0 => return Ok(ListxattrReply::Names(Vec::new())),
            ListxattrReply::Count(counted) if size > 0 => counted,
            reply => return Ok(reply),
        };
        let names = match self.inner.listxattr(ctx, inode, counted)? {
            ListxattrReply::Names(names) => listed(&names, counted as usize),
            reply @ ListxattrReply::Count(_) => return Ok(reply),
        };
        match names.len() <= size as usize {
            true => Ok(ListxattrReply::Names(names)),
            false => Err(error(libc::ERANGE)),
        }
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        if !is_user_attribute(name.to_bytes()) {
            return Err(error(libc::ENODATA));
        }
        self.inner.removexattr(ctx, inode, name)
    }
}

impl SerializableFileSystem for Guard {
    pass_on! {
        fn prepare_serialization(cancel: Arc<AtomicBool>);
        fn serialize(state_pipe: File) -> io::Result<()>;
        fn deserialize_and_apply(state_pipe: File) -> io::Result<()>;
    }
}

#[cfg(test)]
mod tests {
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
        let names = b"user.a\0security.selinux\0user.b\0trusted.x\0";
        let all = names.len();
        assert_eq!(listed(names, all), b"user.a\0user.b\0");
        assert_eq!(listed(names, all + DEFAULT_ACL.len()), b"user.a\0user.b\0");
        let with_acl = [b"user.a\0user.b\0".as_slice(), ACL].concat();
        assert_eq!(listed(names, all + ACL.len()), with_acl);
        assert_eq!(listed(names, all + ACL.len() + DEFAULT_ACL.len()), with_acl);
        assert_eq!(listed(b"", 0), b"");
        assert!(
            !is_user_attribute(b"security.capability")
                && !is_user_attribute(b"system.posix_acl_access")
        );
    }

    #[test]
    fn the_owner_never_changes() {
        let all = SetattrValid::all();
        let left = without_owner(all);
        assert!(!left.intersects(SetattrValid::UID | SetattrValid::GID));
        assert!(left.contains(SetattrValid::MODE | SetattrValid::SIZE));
    }
}
