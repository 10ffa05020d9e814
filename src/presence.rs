//! Whether something is there: what can't be read is not absent.
//!
//! Whoever removes what nothing needs asks here what needs it. Only a name that is not in its directory counts as
//! absent; anything else that keeps a file from being read (a link that leads nowhere or in circles, a directory in
//! its place, a disk that fails) is an error, over which nothing may be removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// A file's content; nothing where there is no such name.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) => gone(path, error).map(|()| None),
    }
}

/// Whether there is a file, or a link to one; an error where there is something else.
pub(crate) fn is_file(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(_) => Err(io::Error::other("it is no file")),
        Err(error) => gone(path, error).map(|()| false),
    }
}

/// Whether there is such a name, whatever stands behind it.
pub(crate) fn is_name(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a process holds the lock of that name; a name that isn't there is held by nobody.
pub(crate) fn is_held(lock: &Path) -> io::Result<bool> {
    if !is_file(lock)? {
        return Ok(false);
    }
    match File::open(lock)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Nothing where a file could not be had because there is no such name; else the error.
fn gone(path: &Path, error: io::Error) -> io::Result<()> {
    // A link that leads nowhere is not found either, but it is there.
    match error.kind() == ErrorKind::NotFound && !is_name(path)? {
        true => Ok(()),
        false => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A name, and what puts something at a path.
    type Way = (&'static str, fn(&Path));

    /// Puts something that can't be read as a file at a path, in each way that needs no other user.
    pub(crate) const UNREADABLE: [Way; 3] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link to itself", |path| symlink(path, path).unwrap()),
        ("a link to nowhere", |path| {
            symlink("/no/such/file", path).unwrap()
        }),
    ];

    #[test]
    fn only_a_missing_name_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(read(&path).unwrap().is_none());
        assert!(!is_file(&path).unwrap() && !is_held(&path).unwrap());
        for (how, make) in UNREADABLE {
            let path = dir.path().join(how);
            make(&path);
            assert!(read(&path).is_err(), "{how}");
            assert!(is_file(&path).is_err() && is_held(&path).is_err(), "{how}");
            assert!(is_name(&path).unwrap(), "{how}");
        }
        fs::write(&path, "content").unwrap();
        let below = path.join("file");
        assert!(read(&below).is_err() && is_file(&below).is_err() && is_held(&below).is_err());
        assert_eq!(read(&path).unwrap().unwrap(), b"content");
        let lock = File::open(&path).unwrap();
        assert!(!is_held(&path).unwrap());
        lock.lock().unwrap();
        assert!(is_held(&path).unwrap());
    }
}
