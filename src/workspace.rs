//! The workspace's directory, opened once.
//!
//! A guest can write what lies around its workspace only through a mistake of ours, but a host's user, or another
//! guest's workspace above it, can put a link in the directory's place while the server runs. So its path is looked up
//! once, when the server starts; from then on the server and every VM's runner go by the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

/// The opened directory; none where nothing is shared.
#[derive(Debug, Clone, Default)]
pub struct WorkspaceDir(Option<Arc<OwnedFd>>);

/// Two of them are as equal as their paths, which stand beside them.
impl PartialEq for WorkspaceDir {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl WorkspaceDir {
    /// Opens the directory at a path that has no links in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())?;
        let root = Self(Some(Arc::new(opened)));
        match root.path()?.as_deref() == Some(path) {
            true => Ok(root),
            false => Err(io::Error::other(
                "it was replaced while it was being opened",
            )),
        }
    }

    /// The directory.
    pub fn dir(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_deref().map(AsFd::as_fd)
    }

    /// One more descriptor of it, to be handed on.
    pub fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        self.dir().map(|dir| dir.try_clone_to_owned()).transpose()
    }

    /// Where it is now.
    fn path(&self) -> io::Result<Option<std::path::PathBuf>> {
        use std::os::fd::AsRawFd;
        let Some(dir) = self.dir() else {
            return Ok(None);
        };
        std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).map(Some)
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
        let root = WorkspaceDir::open(&workspace).unwrap();
        std::fs::rename(&workspace, base.join("moved")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &workspace).unwrap();
        let copy = root.duplicate().unwrap().unwrap();
        for dir in [root.dir().unwrap(), copy.as_fd()] {
            rustix::fs::statat(dir, "mine", rustix::fs::AtFlags::empty()).unwrap();
        }
        assert!(
            WorkspaceDir::open(&workspace).is_err(),
            "a link was followed"
        );
        assert!(WorkspaceDir::open(&workspace.join("mine")).is_err());
        std::os::unix::fs::symlink(&base, elsewhere.join("up")).unwrap();
        let through = elsewhere.join("up/moved");
        assert!(
            WorkspaceDir::open(&through).is_err(),
            "a link above was followed"
        );
        assert!(WorkspaceDir::default().duplicate().unwrap().is_none());
    }
}
