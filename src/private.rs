//! Directories that only this user can enter. What is below them needs no mode of its own to be closed to others, but has
//! one all the same: a directory can be opened to a group by mistake.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The mode of a private directory.
pub(crate) const DIRECTORY: u32 = 0o700;

/// The mode of a file that is written again.
pub(crate) const FILE: u32 = 0o600;

/// The mode of a complete file.
pub(crate) const COMPLETE: u32 = 0o400;

/// For files that Snowglobe writes for itself: they are this user's alone from the moment they are there.
pub(crate) fn file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.mode(FILE);
    options
}

/// Makes a directory with its missing parents; closes an existing one that belongs to this user.
pub(crate) fn dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(path)?;
    let meta = fs::metadata(path)?;
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    if own && meta.mode() & 0o077 != 0 {
        // Earlier versions made it with the umask's mode.
        fs::set_permissions(path, PermissionsExt::from_mode(DIRECTORY))?;
    }
    Ok(())
}

/// Makes a new directory.
pub(crate) fn new_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_closed_whether_it_was_there_or_not() {
        let top = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        let new = top.path().join("a/b");
        dir(&new).unwrap();
        assert_eq!(mode(&new), DIRECTORY);
        assert!(new_dir(&new).is_err());
        let there = top.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, PermissionsExt::from_mode(0o755)).unwrap();
        dir(&there).unwrap();
        assert_eq!(mode(&there), DIRECTORY);
        fs::write(top.path().join("file"), "").unwrap();
        assert!(dir(&top.path().join("file")).is_err());
    }
}
