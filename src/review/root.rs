//! A directory of the host that changes are applied to. Every path is resolved beneath it without following links, so
//! nothing outside of it is ever read or changed.
//!
//! Other programs change the directory at any moment. So a file is first moved out of its place and then compared with
//! what was expected there: what differs is moved back, and nothing is removed that was not looked at after it had lost
//! its name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use snowglobe_init::wire::tree::{escape, unescape};

use super::entry::{Entry, MODE};
use crate::copy::{Contents, HostStamp, epoch_ns};
use crate::{holes, presence};

/// A directory of the host.
#[derive(Debug)]
pub struct Root<'a> {
    directory: BorrowedFd<'a>,
    umask: u32,
}

/// The permissions that this user's new files lack. (To ask the system for them changes them for a moment.)
static UMASK: LazyLock<u32> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
    umask.unwrap_or(0o022) & MODE
});

/// The directory of a path, and its last name.
fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

impl<'a> Root<'a> {
    /// The open directory.
    pub fn new(directory: BorrowedFd<'a>) -> Self {
        let umask = *UMASK;
        Self { directory, umask }
    }

    /// The same, where new files lack these permissions.
    #[cfg(test)]
    pub fn with_umask(self, umask: u32) -> Self {
        Self { umask, ..self }
    }

    /// The permissions that new files lack.
    pub fn umask(&self) -> u32 {
        self.umask
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path {
            b"" => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        loop {
            match rustix::fs::openat2(self.directory, path, flags, Mode::empty(), resolve) {
                // A directory was moved meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// The directory that has the path's last name, and that name.
    fn parent<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (dir, name) = split(path);
        Ok((self.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
    }

    /// The open directory of a path, and what the system says of the path. `None`: nothing is there.
    fn found<'p>(&self, path: &'p [u8]) -> io::Result<Option<(OwnedFd, &'p OsStr, Statx)>> {
        let (dir, name) = match self.parent(path) {
            Err(error) if presence::is_no_path(&error) => return Ok(None),
            found => found?,
        };
        match stat(&dir, name) {
            Err(error) if presence::is_no_path(&error) => Ok(None),
            found => Ok(Some((dir, name, found?))),
        }
    }

    /// Whether a path may have this; no content is read. `None`: nothing.
    pub fn may_have(&self, path: &[u8], entry: Option<&Entry>) -> io::Result<bool> {
        let stat = self.found(path)?.map(|(_, _, stat)| stat);
        let kind = |stat: &Statx| FileType::from_raw_mode(stat.stx_mode.into());
        Ok(match (stat, entry) {
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
            (Some(stat), Some(Entry::File { size, .. })) => {
                kind(&stat) == FileType::RegularFile && stat.stx_size == *size
            }
            (Some(stat), Some(Entry::Directory { .. })) => kind(&stat) == FileType::Directory,
            (Some(stat), Some(Entry::Link { .. })) => kind(&stat) == FileType::Symlink,
        })
    }

    /// The state of what is at a path. `None`: nothing is there.
    pub fn stamp(&self, path: &[u8]) -> io::Result<Option<HostStamp>> {
        let stat = self.found(path)?.map(|(_, _, stat)| stat);
        Ok(stat.map(|stat| HostStamp {
            ctime_ns: epoch_ns(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec.into()),
            inode: stat.stx_ino,
        }))
    }

    /// What is at a path; a file's content is kept among `contents`. `None`: nothing is there. What can't be in a copy is
    /// an error that is [in the way](is_in_the_way).
    pub fn look(&self, path: &[u8], contents: &Contents) -> io::Result<Option<Entry>> {
        let Some((dir, name, stat)) = self.found(path)? else {
            return Ok(None);
        };
        let mode = u32::from(stat.stx_mode);
        Ok(Some(match FileType::from_raw_mode(mode) {
            FileType::Directory => Entry::Directory { mode: mode & MODE },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
                Entry::Link {
                    target: escape(target.as_bytes()),
                }
            }
            FileType::RegularFile => {
                let file = match self.open(path, OFlags::RDONLY) {
                    Err(error) if presence::is_no_path(&error) => return Ok(None),
                    opened => File::from(opened?),
                };
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(no_part_of_a_copy());
                }
                let size = found.len();
                let hash = contents.add(&mut &file, size).map_err(io::Error::other)?;
                Entry::File {
                    hash,
                    size,
                    mode: found.mode() & 0o7777,
                }
            }
            _ => return Err(no_part_of_a_copy()),
        }))
    }

    /// The names in a directory.
    pub fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Writes a file or a link under a temporary name beside its path, on the disk. Whatever has that name is complete:
    /// until then a file has the name of its [`part`].
    pub fn stage(
        &self,
        path: &[u8],
        entry: &Entry,
        temporary: &str,
        contents: &Contents,
    ) -> io::Result<()> {
        let (dir, _) = self.parent(path)?;
        match entry {
            Entry::Directory { .. } => Ok(()),
            Entry::Link { target } => Ok(rustix::fs::symlinkat(unescape(target), &dir, temporary)?),
            Entry::File { hash, mode, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let part = part(temporary);
                let made = rustix::fs::openat(&dir, &part, flags, Mode::RUSR | Mode::WUSR)?;
                let made = File::from(made);
                let content = contents.open(hash).map_err(io::Error::other)?;
                holes::copy(&content, &made)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(*mode & 0o7777))?;
                made.sync_all()?;
                Ok(rustix::fs::renameat(&dir, &part, &dir, temporary)?)
            }
        }
    }

    /// Gives a staged file or link its own name, in place of `old`; `None`: of nothing. If another program has put anything
    /// else there, that keeps the name, and the answer is false.
    pub fn swap(
        &self,
        path: &[u8],
        temporary: &str,
        old: Option<&Entry>,
        contents: &Contents,
    ) -> io::Result<bool> {
        let (dir, name) = self.parent(path)?;
        let Some(old) = old else {
            return name_it(&dir, temporary, name);
        };
        let exchange =
            || rustix::fs::renameat_with(&dir, temporary, &dir, name, RenameFlags::EXCHANGE);
        match exchange() {
            Err(Errno::NOENT) => return Ok(false),
            // Without an exchange a moment is left in which a change of another program is not seen.
            Err(error) if is_unknown_rename(error) => {
                return match self.has(path, old, contents)? {
                    true => Ok(rustix::fs::renameat(&dir, temporary, &dir, name).map(|()| true)?),
                    false => Ok(false),
                };
            }
            exchanged => exchanged?,
        }
        let is_expected = self.has(&beside(path, temporary), old, contents);
        match is_expected {
            Ok(true) => Ok(rustix::fs::unlinkat(&dir, temporary, AtFlags::empty()).map(|()| true)?),
            other => {
                exchange()?;
                other
            }
        }
    }

    /// Removes a file or a link, which must be `old`. If another program has put anything else there, that keeps the name,
    /// and the answer is false.
    pub fn take_away(
        &self,
        path: &[u8],
        temporary: &str,
        old: &Entry,
        contents: &Contents,
    ) -> io::Result<bool> {
        let (dir, name) = self.parent(path)?;
        match rustix::fs::renameat(&dir, name, &dir, temporary) {
            Err(Errno::NOENT) => return Ok(false),
            renamed => renamed?,
        }
        let is_expected = self.has(&beside(path, temporary), old, contents);
        match is_expected {
            Ok(true) => Ok(rustix::fs::unlinkat(&dir, temporary, AtFlags::empty()).map(|()| true)?),
            other => {
                // If the name was taken again, recovering finds the temporary one.
                name_it(&dir, temporary, name)?;
                other
            }
        }
    }

    /// Gives back its name to a file of another program that was moved to a temporary name. `stands` is whether a file of a
    /// step has the name now, which then gets the temporary one. False: another file has the name.
    pub fn put_back(&self, path: &[u8], temporary: &str, stands: bool) -> io::Result<bool> {
        let (dir, name) = self.parent(path)?;
        if !stands {
            return name_it(&dir, temporary, name);
        }
        match rustix::fs::renameat_with(&dir, temporary, &dir, name, RenameFlags::EXCHANGE) {
            Err(error) if error == Errno::NOENT || is_unknown_rename(error) => Ok(false),
            exchanged => Ok(exchanged.map(|()| true)?),
        }
    }

    /// Whether a path has exactly this entry.
    fn has(&self, path: &[u8], entry: &Entry, contents: &Contents) -> io::Result<bool> {
        match self.look(path, contents) {
            Err(error) if is_in_the_way(&error) => Ok(false),
            found => Ok(found?.as_ref() == Some(entry)),
        }
    }

    /// Removes a name beside a path, if it is there.
    pub fn unstage(&self, path: &[u8], temporary: &str) -> io::Result<()> {
        let (dir, _) = match self.parent(path) {
            Err(error) if is_in_the_way(&error) => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(&dir, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory. One that comes back gets exactly the mode that it had.
    pub fn make_directory(&self, path: &[u8], mode: u32, comes_back: bool) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let mode = Mode::from_raw_mode(mode & MODE);
        rustix::fs::mkdirat(&dir, name, mode)?;
        if comes_back {
            let made = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::fchmod(made, mode)?;
        }
        Ok(())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
    }

    /// Puts the entries of a path's directory on the disk.
    pub fn sync(&self, path: &[u8]) -> io::Result<()> {
        match self.parent(path) {
            Ok((dir, _)) => Ok(rustix::fs::fsync(dir.as_fd())?),
            Err(error) if presence::is_no_path(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn stat(dir: &OwnedFd, name: &OsStr) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::statx(
        dir,
        name,
        flags,
        StatxFlags::BASIC_STATS,
    )?)
}

/// What can't be in a copy.
fn no_part_of_a_copy() -> io::Error {
    let said = "it is a pipe, a socket or a device";
    io::Error::new(io::ErrorKind::Unsupported, said)
}

/// Whether an error says that another program has put something else at a path or above it. What can't be read for any
/// other reason may be what was expected.
pub fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    // Besides these: a link above, and what can't be in a copy.
    matches!(
        error.kind(),
        Kind::NotFound
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::AlreadyExists
            | Kind::DirectoryNotEmpty
    ) || match error.raw_os_error() {
        Some(number) => number == Errno::LOOP.raw_os_error(),
        None => error.kind() == Kind::Unsupported,
    }
}

/// Whether a file system knows only the plain rename.
fn is_unknown_rename(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Gives a file that has a temporary name its own, unless something has it.
fn name_it(dir: &OwnedFd, temporary: &str, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::renameat_with(dir, temporary, dir, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(false),
        Err(error) if is_unknown_rename(error) => {
            match rustix::fs::linkat(dir, temporary, dir, name, AtFlags::empty()) {
                Err(Errno::EXIST) => return Ok(false),
                linked => linked?,
            }
            Ok(rustix::fs::unlinkat(dir, temporary, AtFlags::empty()).map(|()| true)?)
        }
        renamed => Ok(renamed.map(|()| true)?),
    }
}

/// The path of a temporary name beside a path.
pub fn beside(path: &[u8], temporary: &str) -> Vec<u8> {
    match split(path).0 {
        b"" => temporary.as_bytes().to_vec(),
        dir => [dir, b"/", temporary.as_bytes()].concat(),
    }
}

/// The name of a staged file that is not complete.
pub fn part(temporary: &str) -> String {
    format!("{temporary}.part")
}

/// A temporary name that nothing has.
pub fn temporary() -> String {
    format!(".snowglobe-{:016x}", rand::random::<u64>())
}

/// A path's directories, the highest first.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}
