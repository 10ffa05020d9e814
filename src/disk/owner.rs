//! Which directories a sandbox's data belongs to: the file `directories` of its store names each directory for which the
//! sandbox has started, and the file system that it lies on.
//!
//! A directory counts as gone only while its file system is mounted: a disk that was taken out takes no data with it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{StoreError, io_error};
use super::store::Store;
use crate::{files, presence};

/// The file in a sandbox's store. Paths are separated by a zero byte: the directory, then where its file system is mounted.
const FILE: &str = "directories";

/// Whether a sandbox's directories are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// At least one is.
    There,
    /// All are gone.
    Gone,
    /// Not known: an earlier release did not note them, or their file system is not mounted or can't be read.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    directory: PathBuf,
    mount: PathBuf,
}

impl Store {
    /// Notes that the sandbox belongs to this directory.
    pub(crate) fn belongs_to(&self, directory: &Path) -> Result<(), StoreError> {
        let _held = self.lock()?;
        let mut owners = self.owners()?;
        let owner = Owner {
            directory: directory.to_owned(),
            mount: presence::mount_of(directory),
        };
        if owners.contains(&owner) {
            return Ok(());
        }
        owners.retain(|other| other.directory != owner.directory);
        owners.push(owner);
        let path = self.dir.join(FILE);
        files::replace(&path, &encoded(&owners)).map_err(io_error("write", &path))
    }

    /// The directories for which the sandbox has started.
    pub(crate) fn directories(&self) -> Result<Vec<PathBuf>, StoreError> {
        let owners = self.owners()?.into_iter();
        Ok(owners.map(|owner| owner.directory).collect())
    }

    /// Whether these directories are there.
    pub(crate) fn whereabouts(&self) -> Owners {
        let Ok(owners) = self.owners() else {
            return Owners::Unknown;
        };
        let there: Vec<Option<bool>> = owners
            .iter()
            .map(|owner| presence::is_there(&owner.directory, &owner.mount))
            .collect();
        match there.is_empty() {
            _ if there.contains(&Some(true)) => Owners::There,
            false if there.iter().all(|there| *there == Some(false)) => Owners::Gone,
            _ => Owners::Unknown,
        }
    }

    fn owners(&self) -> Result<Vec<Owner>, StoreError> {
        let path = self.dir.join(FILE);
        let text = presence::read(&path).map_err(io_error("read", &path))?;
        Ok(decoded(&text.unwrap_or_default()))
    }
}

fn encoded(owners: &[Owner]) -> Vec<u8> {
    let paths = owners
        .iter()
        .flat_map(|owner| [&owner.directory, &owner.mount]);
    paths
        .flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat())
        .collect()
}

fn decoded(text: &[u8]) -> Vec<Owner> {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let parts: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
    parts
        .chunks_exact(2)
        .map(|pair| Owner {
            directory: path(pair[0]),
            mount: path(pair[1]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::tests::named;
    use super::*;

    #[test]
    fn a_directory_is_gone_only_while_its_file_system_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &named("test")).unwrap();
        assert_eq!(store.whereabouts(), Owners::Unknown);
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for project in [&one, &two, &one] {
            fs::create_dir_all(project).unwrap();
            store.belongs_to(project).unwrap();
        }
        assert_eq!(store.directories().unwrap(), [one.clone(), two.clone()]);
        fs::remove_dir(&one).unwrap();
        assert_eq!(store.whereabouts(), Owners::There);
        fs::remove_dir(&two).unwrap();
        assert_eq!(store.whereabouts(), Owners::Gone);
        // A file system that is not mounted.
        let away = Owner {
            directory: one.join("disk/project"),
            mount: one.join("disk"),
        };
        fs::write(store.dir.join(FILE), encoded(&[away])).unwrap();
        assert_eq!(store.whereabouts(), Owners::Unknown);
        fs::create_dir_all(one.join("disk")).unwrap();
        assert_eq!(
            store.whereabouts(),
            Owners::Unknown,
            "its mount point is empty"
        );
        fs::remove_file(store.dir.join(FILE)).unwrap();
        std::os::unix::fs::symlink("/no/such", store.dir.join(FILE)).unwrap();
        assert_eq!(store.whereabouts(), Owners::Unknown);
    }

    proptest! {
        #[test]
        fn paths_are_kept_byte_for_byte(
            paths in prop::collection::vec(prop::collection::vec(1_u8.., 1..20), 0..5)
        ) {
            let path = |bytes: &Vec<u8>| PathBuf::from(OsStr::from_bytes(bytes));
            let owners: Vec<_> = paths
                .iter()
                .map(|bytes| Owner { directory: path(bytes), mount: path(bytes) })
                .collect();
            prop_assert_eq!(decoded(&encoded(&owners)), owners);
        }

        #[test]
        fn any_file_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decoded(&bytes);
        }
    }
}
