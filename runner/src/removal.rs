//! The files that are removed when a VM ends.

use std::io;
use std::path::{Path, PathBuf};

use crate::talk::warn;

/// Paths to remove.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    always: Vec<PathBuf>,
    if_orphaned: Vec<PathBuf>,
}

impl Removal {
    /// Removes `always`, and `if_orphaned` too if the parent has ended.
    pub(crate) fn new(always: &[PathBuf], if_orphaned: &[PathBuf]) -> Self {
        Self {
            always: always.to_vec(),
            if_orphaned: if_orphaned.to_vec(),
        }
    }

    /// Adds a path to `always`.
    pub(crate) fn add(&mut self, path: &Path) {
        if self.keeps(path) {
            self.always.push(path.to_owned());
        }
    }

    /// Replaces `old` by `new`, if `old` is listed.
    pub(crate) fn replace(&mut self, old: &Path, new: &Path) {
        for path in self.always.iter_mut().chain(&mut self.if_orphaned) {
            if path == old {
                *path = new.to_owned();
            }
        }
    }

    /// Whether `path` stays when the VM ends and the parent runs.
    pub(crate) fn keeps(&self, path: &Path) -> bool {
        !self.always.iter().any(|removed| path.starts_with(removed))
    }

    /// Removes the files; warns about each failure.
    pub(crate) fn carry_out(&self, orphaned: bool) {
        let more = if orphaned {
            self.if_orphaned.as_slice()
        } else {
            &[]
        };
        for path in self.always.iter().chain(more) {
            if let Err(error) = remove(path) {
                warn(format_args!("failed to remove {}: {error}", path.display()));
            }
        }
    }
}

/// Removes a file, or a directory with its contents; a path that does not exist is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_takes_the_place_of_the_one_it_froze() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, orphan] = ["old", "new", "orphan"].map(|name| dir.path().join(name));
        for path in [&old, &new, &orphan] {
            std::fs::write(path, "").unwrap();
        }
        let mut removal = Removal::new(
            &[old.clone(), dir.path().join("absent")],
            std::slice::from_ref(&orphan),
        );
        removal.replace(&old, &new);
        assert!(removal.keeps(&old) && !removal.keeps(&new));
        removal.carry_out(false);
        assert!(old.exists() && !new.exists() && orphan.exists());
        removal.carry_out(true);
        assert!(old.exists() && !orphan.exists());
    }

    #[test]
    fn a_link_is_removed_and_not_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| dir.path().join(name));
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        remove(&link).unwrap();
        assert!(target.exists() && link.symlink_metadata().is_err());
    }
}
