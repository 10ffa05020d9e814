//! The runtime directory: where running sandboxes have their sockets and keys.
//!
//! Files in it are trusted: a socket is a sandbox, a key is a guest's. So readers and writers alike open it here, and only
//! if no other user except root can change it: it is a directory and no link, belongs to this user, has mode 0700 (checked
//! on the opened descriptor), and lies below directories that no other user can rename. A wrong mode is an error and is
//! never repaired silently, since another user may already have written there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, stat};
use rustix::io::Errno;

use super::RunDirError;

/// How many entries of the directory are read.
const MOST_NAMES: usize = 10_000;

/// The runtime directory, opened and checked.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    dir: OwnedFd,
}

fn unfit(path: &Path, why: impl Into<io::Error>) -> RunDirError {
    RunDirError::File {
        operation: "use the runtime directory",
        path: path.to_owned(),
        source: why.into(),
    }
}

fn because(why: String) -> io::Error {
    io::Error::other(format!(
        "{why}; set SNOWGLOBE_RUNTIME_DIR to a directory of your own with mode 0700"
    ))
}

impl RuntimeDir {
    /// Opens the directory at that path; makes it if it is not there.
    pub fn make(path: &Path) -> Result<Self, RunDirError> {
        // Missing parents get the same mode.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| match error.kind() {
                // A dangling link or no directory: opening it says which.
                io::ErrorKind::AlreadyExists => {
                    Self::open(path).err().unwrap_or_else(|| unfit(path, error))
                }
                _ => unfit(path, error),
            })?;
        Self::open(path)?.ok_or_else(|| unfit(path, Errno::NOENT))
    }

    /// Opens the directory at that path; `None` if there is no such name.
    pub fn open(path: &Path) -> Result<Option<Self>, RunDirError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let why = "it is a link or no directory".to_owned();
                return Err(unfit(path, because(why)));
            }
            Err(errno) => return Err(unfit(path, errno)),
        };
        let seen = fstat(dir.as_fd()).map_err(|errno| unfit(path, errno))?;
        let own = rustix::process::geteuid().as_raw();
        check(&seen, own).map_err(|why| unfit(path, because(why)))?;
        // From here on the path has no links, and no other user can replace a part of it.
        let path = path.canonicalize().map_err(|error| unfit(path, error))?;
        for above in path.ancestors().skip(1) {
            let seen = stat(above).map_err(|errno| unfit(&path, errno))?;
            check_above(&seen, own).map_err(|why| {
                let why = format!("{} above it {why}", above.display());
                unfit(&path, because(why))
            })?;
        }
        let same = stat(&path)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (seen.st_dev, seen.st_ino));
        if !same {
            let why = "it was replaced while it was looked at".to_owned();
            return Err(unfit(&path, because(why)));
        }
        Ok(Some(Self { path, dir }))
    }

    /// Its path, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directories in it, by name.
    pub(super) fn directories(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir)?.take(MOST_NAMES) {
            let entry = entry?;
            let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if let Some(name) = entry
                .file_name()
                .to_str()
                .ok()
                .filter(|name| is_dir && !name.starts_with('.'))
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a directory in it.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_dir_all(self.path.join(name))
    }
}

/// Checks that no other user can use the directory; the error says who can.
fn check(seen: &Stat, own: u32) -> Result<(), String> {
    if seen.st_uid != own {
        return Err(format!(
            "it belongs to user {}, not to you (user {own})",
            seen.st_uid
        ));
    }
    let mode = Mode::from_raw_mode(seen.st_mode);
    let shown = mode.as_raw_mode() & 0o7777;
    // Do not repair it: others may have put files there, or it may be meant for everybody.
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(format!("others can write there (mode {shown:04o})"));
    }
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(format!(
            "others can enter it (mode {shown:04o}); close it with chmod 700 if it is Snowglobe's alone"
        ));
    }
    Ok(())
}

/// Checks that no other user can replace entries of this directory.
fn check_above(seen: &Stat, own: u32) -> Result<(), String> {
    if seen.st_uid != own && seen.st_uid != 0 && !is_unmapped(seen.st_uid) {
        return Err(format!("belongs to user {}", seen.st_uid));
    }
    let mode = Mode::from_raw_mode(seen.st_mode);
    let group = rustix::process::getegid().as_raw();
    let foreign_group = seen.st_gid != group && seen.st_gid != 0;
    let open = mode.contains(Mode::WOTH) || (mode.contains(Mode::WGRP) && foreign_group);
    match open && !mode.contains(Mode::SVTX) {
        true => Err("can be written by other users".to_owned()),
        false => Ok(()),
    }
}

/// Whether a user has no id in this user namespace: in some containers that is how root's directories look.
fn is_unmapped(uid: u32) -> bool {
    let number = |path| -> Option<u32> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mapped = map.lines().any(|line| {
        let mut words = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (first, _, count) = (words.next(), words.next(), words.next());
        matches!((first, count), (Some(first), Some(count)) if (first..first + count).contains(&uid.into()))
    });
    number("/proc/sys/kernel/overflowuid") == Some(uid) && !mapped
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn private(path: &Path) {
        crate::private::new_dir(path).unwrap();
    }

    fn refused(path: &Path, says: &str) {
        for opened in [
            RuntimeDir::open(path).map(drop),
            RuntimeDir::make(path).map(drop),
        ] {
            let error = crate::describe(&opened.unwrap_err());
            assert!(
                error.contains(says) && error.contains("SNOWGLOBE_RUNTIME_DIR"),
                "{error}"
            );
        }
    }

    #[test]
    fn only_ones_own_closed_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(RuntimeDir::open(&at("none")).unwrap().is_none());
        let made = RuntimeDir::make(&at("a/b")).unwrap();
        for made in [made.path().to_owned(), at("a")] {
            assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        symlink(at("a/b"), at("link")).unwrap();
        refused(&at("link"), "link or no directory");
        symlink("/no/such/place", at("dangling")).unwrap();
        refused(&at("dangling"), "link or no directory");
        fs::write(at("file"), "").unwrap();
        refused(&at("file"), "link or no directory");
        for (mode, says) in [
            (0o755, "others can enter it"),
            (0o701, "others can enter it"),
            (0o770, "others can write there"),
            (0o1777, "others can write there"),
        ] {
            fs::set_permissions(at("a/b"), fs::Permissions::from_mode(mode)).unwrap();
            refused(&at("a/b"), says);
        }
    }

    #[test]
    fn what_others_could_replace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("above/below");
        fs::create_dir(dir.path().join("above")).unwrap();
        private(&below);
        let above = |mode| {
            fs::set_permissions(dir.path().join("above"), fs::Permissions::from_mode(mode))
                .unwrap();
        };
        above(0o777);
        refused(&below, "can be written by other users");
        above(0o1777);
        assert!(RuntimeDir::open(&below).unwrap().is_some());
        // Reached by a link above it, it is the same directory.
        symlink(dir.path().join("above"), dir.path().join("link")).unwrap();
        let opened = RuntimeDir::open(&dir.path().join("link/below"))
            .unwrap()
            .unwrap();
        assert_eq!(opened.path(), below.canonicalize().unwrap());
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give files away; for other users the root directory, which is root's, serves as the example.
            refused(Path::new("/"), "belongs to user 0");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (of_other, below) = (dir.path().join("other"), dir.path().join("other/below"));
        private(&of_other);
        private(&below);
        chown(&of_other, Some(12_345), Some(12_345)).unwrap();
        refused(&of_other, "belongs to user 12345");
        refused(&below, "belongs to user 12345");
    }
}
