//! Whether a file is there: one that can't be read is not absent.
//!
//! Code that removes unneeded files looks here for what needs them. Only a name that is missing from its directory counts
//! as absent; any other obstacle (a dangling or circular link, a directory instead of a file, a failing disk) is an
//! error, after which nothing may be removed.
//!
//! A sweep looks at everything first and removes files only then. Each look passes through [`ask`], where tests inject
//! errors.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::private;

/// How often a name that comes and goes is looked at.
const TRIES: usize = 100;

/// Called before each look at the file system; gives the error that a test injects.
#[cfg(not(test))]
pub(crate) fn ask(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use tests::ask;

/// A file's content; none if there is no such name.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    look(path, || fs::read(path))
}

/// Whether there is a file, or a link to one; an error if there is anything else.
pub(crate) fn is_file(path: &Path) -> io::Result<bool> {
    match look(path, || fs::metadata(path))? {
        Some(meta) if meta.is_file() => Ok(true),
        Some(_) => Err(io::Error::other("it is no file")),
        None => Ok(false),
    }
}

/// The entries of an existing directory; a listing that breaks off is an error.
pub(crate) fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    ask(dir)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        ask(dir)?;
        found.push(entry?.path());
    }
    Ok(found)
}

/// A file's size in bytes; none if there is no such name.
pub(crate) fn size(path: &Path) -> io::Result<Option<u64>> {
    let meta = look(path, || fs::metadata(path))?;
    Ok(meta.map(|meta| meta.len()))
}

/// Whether there is such a name, of whatever kind.
pub(crate) fn is_name(path: &Path) -> io::Result<bool> {
    match ask(path).and_then(|()| fs::symlink_metadata(path)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a process holds the lock file; false if there is none.
pub(crate) fn is_held(lock: &Path) -> io::Result<bool> {
    if !is_file(lock)? {
        return Ok(false);
    }
    ask(lock)?;
    match File::open(lock)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a directory is there; none if its file system, which was mounted there, is not mounted or can't be read.
pub(crate) fn is_there(directory: &Path, mount: &Path) -> Option<bool> {
    match is_name(directory) {
        Ok(true) => Some(true),
        Ok(false) if is_mounted(mount) => Some(false),
        Ok(false) | Err(_) => None,
    }
}

/// The highest directory of a directory's file system.
pub(crate) fn mount_of(directory: &Path) -> PathBuf {
    let own = device(directory);
    let same = |above: &&Path| device(above) == own;
    let highest = directory.ancestors().take_while(same).last();
    highest.unwrap_or(directory).to_owned()
}

/// Whether a file system is mounted there.
fn is_mounted(mount: &Path) -> bool {
    match mount.parent() {
        None => true,
        Some(above) => device(mount).is_some_and(|own| device(above) != Some(own)),
    }
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|meta| meta.dev()).ok()
}

/// Whether the error of an access that follows no links means that nothing has that path.
pub(crate) fn is_no_path(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What a look at a path finds; none if there is no such name.
fn look<T>(path: &Path, look: impl Fn() -> io::Result<T>) -> io::Result<Option<T>> {
    let mut tries = 0;
    loop {
        let error = match ask(path).and_then(|()| look()) {
            Ok(found) => return Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            Err(error) => return Err(error),
        };
        if !is_name(path)? {
            return Ok(None);
        }
        // A dangling link gives "not found", too, but its name is there. Any other name was made just now by another
        // process.
        tries += 1;
        let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        if is_link || tries == TRIES {
            return Err(error);
        }
    }
}

/// Shows, for as long as the returned lock is held, that a directory belongs to a living process.
pub(crate) fn hold(dir: &Path, name: &str) -> io::Result<File> {
    // Lock first, then rename: a visible unlocked file always means a dead owner.
    let new = dir.join(format!("{name}.new"));
    let lock = private::file().write(true).create_new(true).open(&new)?;
    lock.lock()?;
    fs::rename(new, dir.join(name))?;
    Ok(lock)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::symlink;

    use rustix::io::Errno;

    use super::*;

    /// Errors that do not tell whether the file is there.
    const ERRORS: [Errno; 9] = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::IO,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::LOOP,
        Errno::NOTDIR,
        Errno::STALE,
    ];

    thread_local! {
        /// How often this thread has looked, and which look fails with which error.
        static ASKED: Cell<u32> = const { Cell::new(0) };
        static FAILS: Cell<Option<(u32, Errno)>> = const { Cell::new(None) };
    }

    pub(crate) fn ask(_: &Path) -> io::Result<()> {
        let number = ASKED.get();
        ASKED.set(number + 1);
        match FAILS.get() {
            Some((fails, error)) if fails == number => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn questions<T>(fails: Option<(u32, Errno)>, work: impl FnOnce() -> T) -> (T, u32) {
        ASKED.set(0);
        FAILS.set(fails);
        let done = work();
        FAILS.set(None);
        (done, ASKED.get())
    }

    /// Makes each look of `work` fail once with each error: then `work` must fail, and the content of the directory that
    /// `prepare` gives must stay. Gives the number of looks.
    pub(crate) fn each_question_may_fail<T>(
        prepare: impl Fn() -> (T, PathBuf),
        work: impl Fn(&T) -> Result<(), String>,
    ) -> u32 {
        let (done, count) = {
            let (home, _) = prepare();
            questions(None, || work(&home))
        };
        done.unwrap();
        let (home, dir) = prepare();
        let before = tree(&dir);
        for number in 0..count {
            for error in ERRORS {
                let (done, _) = questions(Some((number, error)), || work(&home));
                let after = tree(&dir);
                let place = format!("{error} at question {number} of {count}");
                let gone: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
                assert!(gone.is_empty(), "{place}: {gone:?} are gone");
                assert!(done.is_err(), "{place}: it counts as an answer");
            }
        }
        count
    }

    /// Every path below a directory.
    fn tree(dir: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                paths.extend(tree(&entry.path()));
            }
            paths.push(entry.path());
        }
        paths
    }

    /// A name, and a function that puts something at a path.
    type Way = (&'static str, fn(&Path));

    /// Ways to put something at a path that can't be read as a file, without another user.
    pub(crate) const UNREADABLE: [Way; 3] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link to itself", |path| symlink(path, path).unwrap()),
        ("a link to nowhere", |path| {
            symlink("/no/such/file", path).unwrap()
        }),
    ];

    #[test]
    fn a_file_that_comes_and_goes_meanwhile_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let other = path.clone();
        let flips = std::thread::spawn(move || {
            for _ in 0..5000 {
                fs::write(&other, "x").unwrap();
                fs::remove_file(&other).unwrap();
            }
        });
        let (mut there, mut looks) = (0, 0);
        while !flips.is_finished() {
            there += u32::from(is_file(&path).unwrap());
            looks += 1;
        }
        flips.join().unwrap();
        assert!(there > 0 && there < looks, "{there} of {looks}");
    }

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
