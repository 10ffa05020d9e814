//! Writing files.
//!
//! The whole content is there before anything is touched, so content that ends early changes nothing. Then, in this
//! order of preference:
//!
//! 1. [`beside`]: a new file beside the old one, renamed over it. Atomic: a reader sees the old or the new content. It
//!    takes over the old file's owner, mode, extended attributes and ACL.
//! 2. [`in_place`], where 1 would change more than the content (other hard links, an owner or attributes that the user
//!    can't give the new file) or can't be (a directory that the user may not write, a file that is a mount point). The
//!    result says so, since a reader may see parts of both. Room on the disk is reserved first, and what goes wrong
//!    all the same puts the old content back.
//!
//! Adding to the end is neither: it is one `O_APPEND` write, so that nothing is lost of several at once, nothing is
//! copied, and a program that has the file open goes on with it.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, XattrFlags};
use rustix::io::Errno;

use super::path::Places;
use super::{file_error, kind};
use crate::wire::{ErrorKind, Report, WireError, WriteRequest};

/// The mode of a new file.
const NEW_MODE: u32 = 0o644;

/// The longest old content that is held to be put back, in bytes.
const PUT_BACK: u64 = 16 << 20;

/// How much of the content is reckoned with before it comes, in bytes.
const FORESEEN: u64 = 16 << 20;

/// The longest list of names, and the longest value, of extended attributes on Linux.
const XATTR_MAX: usize = 64 << 10;

/// Writes what `input` gives. Runs on the user's thread.
pub(crate) fn write(
    places: &Places,
    turn: &Mutex<()>,
    request: &WriteRequest,
    input: &mut dyn Read,
) -> Result<Report, WireError> {
    let mut notes = Vec::new();
    let path = places.find(&request.path, &mut notes)?;
    if request.path.ends_with('/') {
        return Err(WireError::invalid(format!(
            "write {}: the path names a directory; add a file name",
            path.display()
        )));
    }
    if let Some(mode) = request.mode.filter(|mode| *mode > 0o7777) {
        return Err(WireError::invalid(format!(
            "write {}: the mode {mode:o} is out of range; expected 0 to 7777 (octal)",
            path.display()
        )));
    }
    let failed = |e: &io::Error| file_error("write", &path, e);
    let content = whole(request.bytes, input).map_err(|e| failed(&e))?;
    // An addition between an edit's reading and its renaming would be lost.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let target = follow(&path).map_err(|e| failed(&e))?;
    let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(|e| file_error("make the directory", &parent, &e))?;
    let note = if request.append {
        check_kind(&target)?;
        append(&target, &content, request.mode)
            .map(|()| None)
            .map_err(|e| failed(&e))?
    } else {
        replace(&target, &content, request.mode)?
    };
    notes.extend(note);
    let resolved = target.canonicalize().unwrap_or(target);
    Ok(Report::Write {
        path: resolved.to_string_lossy().into_owned(),
        bytes: request.bytes,
        notes,
    })
}

/// The whole input.
fn whole(bytes: u64, input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(bytes.min(FORESEEN) as usize);
    input.take(bytes).read_to_end(&mut content)?;
    if content.len() as u64 != bytes {
        let message = format!(
            "the content ended after {} of {bytes} bytes; the old file is as it was",
            content.len()
        );
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(content)
}

/// What a path leads to, through symlinks whose end may not exist yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Refuses what is there and no ordinary file.
fn check_kind(target: &Path) -> Result<(), WireError> {
    match fs::metadata(target) {
        Ok(meta) if meta.is_dir() => Err(file_error(
            "write",
            target,
            &io::Error::from(io::ErrorKind::IsADirectory),
        )),
        Ok(meta) if !meta.is_file() => Err(WireError::new(
            ErrorKind::WrongKind,
            format!(
                "write {}: it is a special file ({}); use exec",
                target.display(),
                kind(meta.file_type())
            ),
        )),
        _ => Ok(()),
    }
}

/// Puts `content` in place of a file, or makes it; `target` is no symlink. Gives a note if that was not atomic.
pub(crate) fn replace(
    target: &Path,
    content: &[u8],
    mode: Option<u32>,
) -> Result<Option<String>, WireError> {
    check_kind(target)?;
    let failed = |e: io::Error| file_error("write", target, &e);
    let Some(old) = Old::open(target).map_err(failed)? else {
        return match beside(target, content, mode, None) {
            Ok(()) => Ok(None),
            Err(Unfit::Failed(e) | Unfit::Because(_, e)) => Err(failed(e)),
        };
    };
    let because = match old.why_not_beside() {
        Some(because) => because,
        None => match beside(target, content, mode, Some(&old)) {
            Ok(()) => return Ok(None),
            Err(Unfit::Failed(e)) => return Err(failed(e)),
            // A program that runs can't be written; only the first way could have replaced it.
            Err(Unfit::Because(_, e)) if old.file.is_none() => return Err(failed(e)),
            Err(Unfit::Because(because, _)) => because.to_owned(),
        },
    };
    let Some(file) = &old.file else {
        return Err(failed(Errno::TXTBSY.into()));
    };
    in_place(file, &old.meta, content, mode).map_err(failed)?;
    Ok(Some(format!(
        "written in place, not atomically, since {because}"
    )))
}

/// A file that is there and may be written.
struct Old {
    /// Absent if it is a program that runs.
    file: Option<File>,
    meta: Metadata,
}

impl Old {
    /// Opens it for writing. What may not be written is an error, even where its directory would allow to replace it.
    fn open(target: &Path) -> io::Result<Option<Self>> {
        let open = |read| {
            let mut options = File::options();
            // Nothing else than a file is written here, but what is there may have been swapped.
            options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
            options.read(read).write(true).open(target)
        };
        match open(true).or_else(|_| open(false)) {
            Ok(file) => {
                let meta = file.metadata()?;
                Ok(Some(Self {
                    file: Some(file),
                    meta,
                }))
            }
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => Ok(Some(Self {
                file: None,
                meta: fs::metadata(target)?,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why a new file could not take this one's place.
    fn why_not_beside(&self) -> Option<String> {
        let me = rustix::process::geteuid();
        if self.meta.nlink() > 1 {
            Some(format!("the file has {} hard links", self.meta.nlink()))
        } else if !me.is_root() && self.meta.uid() != me.as_raw() {
            Some("the file belongs to another user".to_owned())
        } else {
            None
        }
    }
}

/// Why there is no new file beside the old one.
enum Unfit {
    /// The old file has to be written itself, because of this.
    Because(&'static str, io::Error),
    /// Neither way would do.
    Failed(io::Error),
}

/// A file that goes unless it was renamed.
struct Temporary(PathBuf, bool);

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.1 {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Temporary {
    /// A new file in this directory. Its name is short whatever the target's is: that may be as long as names can be.
    fn new(parent: &Path) -> io::Result<(Self, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unique = now.unwrap_or_default().as_nanos();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".{unique:x}-{number:x}.snowglobe"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok((Self(path, false), file))
    }
}

fn beside(
    target: &Path,
    content: &[u8],
    mode: Option<u32>,
    old: Option<&Old>,
) -> Result<(), Unfit> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    let (mut temporary, mut file) = Temporary::new(parent).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Unfit::Because("its directory can't be written", e)
        }
        _ => Unfit::Failed(e),
    })?;
    if let Some(old) = old {
        // In this order: each of them may change what the next one sets.
        if let Err(e) = own_as(&file, &old.meta) {
            return Err(Unfit::Because(
                "another file could not have its owner and group",
                e,
            ));
        }
        if let Some(from) = &old.file
            && let Err(e) = attributes_as(&file, from)
        {
            return Err(Unfit::Because(
                "another file could not have its extended attributes",
                e.into(),
            ));
        }
    }
    file.write_all(content).map_err(Unfit::Failed)?;
    let mode = mode
        .or_else(|| old.map(|old| old.meta.mode() & 0o7777))
        .unwrap_or(NEW_MODE);
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(Unfit::Failed)?;
    match fs::rename(&temporary.0, target) {
        Ok(()) => {
            temporary.1 = true;
            Ok(())
        }
        Err(e) if old.is_none() => Err(Unfit::Failed(e)),
        Err(e) => match e.kind() {
            io::ErrorKind::PermissionDenied => {
                Err(Unfit::Because("its directory lets nobody replace it", e))
            }
            io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
                Err(Unfit::Because("it is a mount point", e))
            }
            _ => Err(Unfit::Failed(e)),
        },
    }
}

/// Gives `file` the owner and group of the old one.
fn own_as(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    // A shared file system may say yes and do nothing.
    let new = file.metadata()?;
    match (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        true => Ok(()),
        false => Err(Errno::PERM.into()),
    }
}

/// Gives `to` the extended attributes of `from`, ACLs among them, and no others.
fn attributes_as(to: &File, from: &File) -> Result<(), Errno> {
    let (wanted, there) = (attribute_names(from)?, attribute_names(to)?);
    // What the directory's default ACL gave the new file.
    for name in there.iter().filter(|name| !wanted.contains(name)) {
        // A label is the system's to give.
        if !name.starts_with(b"security.") {
            rustix::fs::fremovexattr(to, name.as_slice())?;
        }
    }
    for name in &wanted {
        let value = attribute(from, name)?;
        if there.contains(name) && attribute(to, name)? == value {
            continue;
        }
        rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

fn attribute(of: &File, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; XATTR_MAX];
    let length = rustix::fs::fgetxattr(of, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

fn attribute_names(of: &File) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; XATTR_MAX];
    match rustix::fs::flistxattr(of, names.as_mut_slice()) {
        Ok(length) => names.truncate(length),
        // A file system without any.
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let names = names.split(|byte| *byte == 0);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Makes sure that the disk has room for so many bytes at `offset`; the file's length stays.
fn reserve(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, bytes) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(e.into()),
        // Some file systems can't; then the writing itself finds out.
        _ => Ok(()),
    }
}

/// Writes over the old content.
fn in_place(file: &File, old: &Metadata, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let (length, new) = (old.len(), content.len() as u64);
    if let Err(e) = reserve(file, 0, new) {
        let _ = file.set_len(length);
        return Err(io::Error::new(
            e.kind(),
            format!("{}; the old content is as it was", crate::reason::plain(&e)),
        ));
    }
    let mut before = Vec::new();
    let held = length <= PUT_BACK && file.take(length).read_to_end(&mut before).is_ok();
    let written = file
        .write_all_at(content, 0)
        .and_then(|()| file.set_len(new));
    if let Err(e) = written {
        let put_back = held
            && file.write_all_at(&before, 0).is_ok()
            && file.set_len(before.len() as u64).is_ok();
        let what = match put_back {
            true => "the old content was put back",
            false => "the file has parts of the old and the new content now",
        };
        let message = format!("{}; {what}", crate::reason::plain(&e));
        return Err(io::Error::new(e.kind(), message));
    }
    // Writing takes set-uid and set-gid away.
    let mode = mode.unwrap_or(old.mode() & 0o7777);
    if file.metadata()?.mode() & 0o7777 != mode {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
    Ok(())
}

/// Adds to the end of a file, or makes it.
fn append(target: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).mode(NEW_MODE);
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
    let (mut file, made) = match options.clone().create_new(true).open(target) {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (options.open(target)?, false),
        // The directory may be closed although the file is open to all.
        Err(e) => match options.open(target) {
            Ok(file) => (file, false),
            Err(_) => return Err(e),
        },
    };
    if let Some(mode) = mode.or(made.then_some(NEW_MODE)) {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    reserve(&file, file.metadata()?.len(), content.len() as u64)?;
    let mut added = 0;
    while added < content.len() {
        match file.write(&content[added..]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(more) => added += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if added == 0 => return Err(e),
            Err(e) => {
                let message = format!(
                    "{}; the first {added} of {} bytes were added",
                    crate::reason::plain(&e),
                    content.len()
                );
                return Err(io::Error::new(e.kind(), message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_attribute(path: &Path, name: &str, value: &[u8]) {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
    }

    fn value(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
        attribute(&File::open(path).unwrap(), name.as_bytes())
    }

    /// `user::rw-, user:1234:r--, group::r--, mask::r--, other::r--`, as the kernel keeps it.
    fn acl() -> Vec<u8> {
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (1_u16, 6_u16, u32::MAX),
            (2, 4, 1234),
            (4, 4, u32::MAX),
            (16, 4, u32::MAX),
            (32, 4, u32::MAX),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn what_a_file_has_besides_its_content_stays() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o4750)).unwrap();
        set_attribute(&file, "user.note", b"kept");
        assert_eq!(replace(&file, b"new", None), Ok(None));
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o4750);
        assert_eq!(value(&file, "user.note").unwrap(), b"kept");
        set_attribute(&file, "system.posix_acl_access", &acl());
        assert_eq!(replace(&file, b"newer", None), Ok(None));
        assert_eq!(value(&file, "system.posix_acl_access").unwrap(), acl());
    }

    #[test]
    fn a_directorys_default_acl_is_for_new_files_only() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "old").unwrap();
        set_attribute(dir.path(), "system.posix_acl_default", &acl());
        assert_eq!(replace(&file, b"new", None), Ok(None));
        assert!(value(&file, "system.posix_acl_access").is_err());
    }

    #[test]
    fn hard_links_stay_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("f"), dir.path().join("g"));
        fs::write(&file, "old and longer").unwrap();
        fs::hard_link(&file, &other).unwrap();
        let note = replace(&file, b"new", Some(0o640)).unwrap().unwrap();
        assert!(note.contains("2 hard links"), "{note}");
        assert_eq!(fs::read(&other).unwrap(), b"new");
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_longest_names_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["n".repeat(255), "\u{20ac}".repeat(85)] {
            let file = dir.path().join(&name);
            for content in ["one", "two"] {
                assert_eq!(replace(&file, content.as_bytes(), None), Ok(None));
                assert_eq!(fs::read_to_string(&file).unwrap(), content);
            }
        }
        let refused = replace(&dir.path().join("n".repeat(256)), b"", None).unwrap_err();
        assert!(refused.message.contains("name too long"), "{refused}");
    }

    #[test]
    fn additions_at_once_are_all_there_and_the_inode_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for _ in 0..100 {
                        append(file, format!("{writer} line\n").as_bytes(), None).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 400);
        assert!(text.lines().all(|line| line.ends_with(" line")));
        let before = fs::metadata(&file).unwrap().ino();
        append(&file, b"x", Some(0o600)).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!((after.ino(), after.mode() & 0o7777), (before, 0o600));
    }

    /// A full disk of 1 MiB.
    #[test]
    fn what_does_not_fit_leaves_the_old_content() {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a file system: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let options = c"size=1m";
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options,
        )
        .unwrap();
        let (file, other) = (dir.path().join("f"), dir.path().join("g"));
        fs::write(&file, "old").unwrap();
        let long = vec![b'x'; 2 << 20];
        let by_renaming = replace(&file, &long, None).unwrap_err();
        let by_append = append(&file, &long, None).unwrap_err();
        fs::hard_link(&file, &other).unwrap();
        let by_writing = replace(&file, &long, None).unwrap_err();
        let content = fs::read(&file).unwrap();
        let names = fs::read_dir(dir.path()).unwrap().count();
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(by_renaming.kind, ErrorKind::NoSpace);
        assert_eq!(by_append.kind(), io::ErrorKind::StorageFull);
        assert_eq!(by_writing.kind, ErrorKind::NoSpace);
        assert!(by_writing.message.contains("as it was"), "{by_writing}");
        assert_eq!((content.as_slice(), names), (b"old".as_slice(), 2));
    }

    #[test]
    fn what_others_own_or_closed_directories_hold_is_written_in_place() {
        use crate::system::user_thread::{Credentials, become_user};
        assert!(
            rustix::process::geteuid().is_root(),
            "this test changes credentials: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let sticky = dir.path().join("sticky");
        fs::create_dir(&sticky).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
        let (closed, shared) = (dir.path().join("app.conf"), sticky.join("f"));
        for file in [&closed, &shared] {
            fs::write(file, "old").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o666)).unwrap();
        }
        let own = dir.path().join("own");
        fs::write(&own, "old").unwrap();
        std::os::unix::fs::chown(&own, Some(1000), Some(1000)).unwrap();
        let sealed = dir.path().join("sealed");
        fs::write(&sealed, "old").unwrap();
        let files = [closed, shared, own, sealed];
        let theirs = files.clone();
        let results = std::thread::spawn(move || {
            let user = Credentials {
                uid: 1000,
                gid: 1000,
                groups: vec![],
            };
            become_user(&user).unwrap();
            theirs.map(|file| replace(&file, b"new", None))
        });
        let [closed, shared, own, sealed] = results.join().unwrap();
        for (result, says) in [
            (closed, "another user"),
            (shared, "another user"),
            (own, "its directory can't be written"),
        ] {
            let note = result.unwrap().unwrap();
            assert!(note.contains(says), "{note}");
        }
        assert_eq!(sealed.unwrap_err().kind, ErrorKind::PermissionDenied);
        for file in &files[..3] {
            assert_eq!(fs::read(file).unwrap(), b"new");
        }
        assert_eq!(fs::metadata(&files[1]).unwrap().uid(), 0);
    }
}
