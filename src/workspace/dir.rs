//! The shared directory, opened once.
//!
//! While the server runs, a user of the host, or a guest whose workspace contains this one, can put a link in the
//! directory's place. So its path is looked up once, when the server starts; from then on the server and every VM's
//! runner use the descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

/// The shared directory. Clones share one descriptor.
#[derive(Debug, Clone)]
pub struct SharedDir {
    path: PathBuf,
    dir: Arc<OwnedFd>,
}

impl PartialEq for SharedDir {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl SharedDir {
    /// Opens the directory at a path that has no links in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let opened = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        if opened != path {
            return Err(io::Error::other(
                "it was replaced while it was being opened",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            dir: Arc::new(dir),
        })
    }

    /// The path at which it was opened, for messages and comparisons.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Another descriptor of it, for a child process.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.dir().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_its_place_is_not_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (workspace, elsewhere) = (base.join("workspace"), base.join("elsewhere"));
        for made in [&workspace, &elsewhere] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(workspace.join("mine"), "").unwrap();
        let root = SharedDir::open(&workspace).unwrap();
        std::fs::rename(&workspace, base.join("moved")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &workspace).unwrap();
        let copy = root.duplicate().unwrap();
        for dir in [root.dir(), copy.as_fd()] {
            rustix::fs::statat(dir, "mine", rustix::fs::AtFlags::empty()).unwrap();
        }
        assert!(SharedDir::open(&workspace).is_err(), "a link was followed");
        assert!(SharedDir::open(&workspace.join("mine")).is_err());
        std::os::unix::fs::symlink(&base, elsewhere.join("up")).unwrap();
        let through = elsewhere.join("up/moved");
        assert!(
            SharedDir::open(&through).is_err(),
            "a link above was followed"
        );
    }
}
