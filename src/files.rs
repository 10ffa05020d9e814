//! Files that appear whole or not at all, and locks between processes.
//!
//! A file that is being written has a name of its own ([`temporary`]) until it is complete, and its writer locks it. So one
//! without a lock is what a killed writer left, and the next writer in that directory removes it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{presence, private};

/// Syncs a directory: renames, new and removed entries then survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    File::open(dir)?.sync_all()
}

/// Replaces a file: at every moment it has either its old or its new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    written(dir, content)?.persist(path)?;
    sync_dir(dir)
}

/// A [`temporary`] file whose content is complete and on the disk; its writer renames it.
pub(crate) fn written(dir: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = temporary(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// What the names of files begin with that are being written.
const TEMPORARY: &str = ".tmp";

/// A new file for a writer who renames it once it is complete; otherwise it goes when it is dropped. Removes what killed
/// writers left in the directory.
pub(crate) fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    remove_abandoned(abandoned_temporary(dir)?)?;
    one_more_temporary(dir)
}

/// The same, but leaves what killed writers left: to list a directory for each of many files takes too long.
pub(crate) fn one_more_temporary(dir: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(dir)?;
        file.as_file().lock()?;
        // Before it was locked, another process may have removed it as an abandoned one.
        if leads_to(file.path(), file.as_file())? {
            return Ok(file);
        }
    }
}

/// A file that no process writes any more, locked so that none begins to.
pub(crate) type Abandoned = (PathBuf, File);

/// What killed writers left of temporary files in a directory.
pub(crate) fn abandoned_temporary(dir: &Path) -> io::Result<Vec<Abandoned>> {
    let mut files = list(dir)?;
    files.retain(|file| file.starts_with(TEMPORARY));
    abandoned(dir, &files)
}

/// Those of a directory's files that no process writes.
pub(crate) fn abandoned(dir: &Path, files: &[String]) -> io::Result<Vec<Abandoned>> {
    let mut all = Vec::new();
    for path in files.iter().map(|file| dir.join(file)) {
        presence::ask(&path)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            // It is complete, or given up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) if leads_to(&path, &file)? => all.push((path, file)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(all)
}

/// Removes abandoned files; gives the bytes that they had.
pub(crate) fn remove_abandoned(files: Vec<Abandoned>) -> io::Result<u64> {
    let mut freed = 0;
    for (path, held) in files {
        freed += held.metadata().map_or(0, |meta| meta.len());
        remove_file(&path)?;
    }
    Ok(freed)
}

/// Whether a path still leads to an open file.
pub(crate) fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match path.symlink_metadata() {
        Ok(meta) => Ok(id(meta) == id(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The free space of a directory's file system, in bytes.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory with its content, if it is there.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    presence::ask(path)?;
    private::file()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}

/// Takes an exclusive lock, held until dropped. Waits, so it is for locks that are held briefly.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let file = open_lock(path)?;
    file.lock()?;
    Ok(file)
}

/// Takes a shared lock, held until dropped. Waits for an exclusive holder.
pub(crate) fn lock_shared(path: &Path) -> io::Result<File> {
    let file = open_lock(path)?;
    file.lock_shared()?;
    Ok(file)
}

/// Takes an exclusive lock, held until dropped; none if another process holds it.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The names in a directory that are valid UTF-8.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let name = |path: PathBuf| path.file_name()?.to_str().map(str::to_owned);
    Ok(presence::entries(dir)?
        .into_iter()
        .filter_map(name)
        .collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Writes a program that can be run at once.
    ///
    /// A child process writes it. If this process did, a process that another thread starts at that moment would inherit
    /// the file open for writing, and the kernel refuses to run such a file (`ETXTBSY`).
    pub(crate) fn executable(path: &Path, text: &str) {
        let status = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
            .args([path.as_os_str(), text.as_ref()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn the_next_writer_removes_what_a_killed_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let writing = temporary(dir.path()).unwrap();
        for name in [".tmpdead", "other"] {
            fs::write(at(name), "left").unwrap();
        }
        replace(&at("file"), b"new").unwrap();
        assert!(writing.path().exists() && at("other").exists() && !at(".tmpdead").exists());
        assert_eq!(fs::read(at("file")).unwrap(), b"new");
        drop(writing);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn writers_in_one_directory_do_not_take_each_other_for_killed_ones() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for number in 0..8 {
                let path = dir.path().join(format!("{number}"));
                threads.spawn(move || {
                    for round in 0..100 {
                        replace(&path, format!("{round}").as_bytes()).unwrap();
                    }
                });
            }
        });
        let left = fs::read_dir(dir.path()).unwrap();
        let mut contents = left.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        assert!(contents.all(|content| content == b"99"));
    }

    thread_local! {
        /// The directories that this thread has put on the disk.
        pub(crate) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    /// Whether `work` puts `dir` on the disk.
    pub(crate) fn syncs<T>(dir: &Path, work: impl FnOnce() -> T) -> (T, bool) {
        SYNCED.take();
        let done = work();
        (done, SYNCED.take().iter().any(|synced| synced == dir))
    }
}
