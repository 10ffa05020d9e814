//! Files that appear whole or not at all, and locks between processes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_dir(dir)
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
