//! The directory of an OCI layout. Other programs may write it, for it may be in the workspace: nothing outside of it is
//! read or written.
//!
//! The directory is opened once, at the path that the user named. From there each component of a path is opened on its
//! own, without following links. All but the last must be directories, and the last a regular file. So this holds even
//! while another program replaces parts of the layout. A new file is written under a random name, then renamed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::image::file_error::{FileError, file_error};
use crate::image::file_slice::FileSlice;

/// An open directory of a layout.
#[derive(Debug)]
pub(crate) struct LayoutDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Why a part of a layout can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutDirError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The part is no plain file or directory.
    #[error(
        "import {path}: it is {kind}; nothing outside of a layout is read or written, so copy it with its links followed: \
         cp -rL"
    )]
    NotPlain {
        /// The path of the part.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The components of a path that leads downwards only; `None` for other paths.
fn components(name: &str) -> Option<Vec<&str>> {
    let all: Vec<&str> = name.split('/').collect();
    let good =
        |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\0');
    all.iter().all(good).then_some(all)
}

impl LayoutDir {
    /// Opens a directory at a path of the user's choice.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|error| file_error("read the directory", path)(error.into()))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens a directory; makes it if it is missing.
    pub(crate) fn make(path: &Path) -> Result<Self, FileError> {
        fs::create_dir_all(path).map_err(file_error("make the directory", path))?;
        Self::open(path)
    }

    fn error(&self, operation: &'static str, name: &str, error: Errno) -> LayoutDirError {
        let path = self.path.join(name);
        match error {
            // For a link, the system reports LOOP or, where a directory is needed, NOTDIR.
            Errno::LOOP | Errno::NOTDIR => LayoutDirError::NotPlain {
                path,
                kind: "a link, or no directory where a directory is needed",
            },
            error => file_error(operation, &path)(error.into()).into(),
        }
    }

    /// A directory in this one; `make` makes it if it is missing.
    fn child(&self, name: &str, make: bool) -> Result<Self, LayoutDirError> {
        if make {
            match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.error("make the directory", name, error)),
            }
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|error| self.error("read the directory", name, error))?;
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// The directory at the end of a path of components; `make` makes those that are missing.
    pub(crate) fn below(&self, names: &[&str], make: bool) -> Result<Self, LayoutDirError> {
        let this = Self {
            fd: self
                .fd
                .try_clone()
                .map_err(file_error("read the directory", &self.path))?,
            path: self.path.clone(),
        };
        names
            .iter()
            .try_fold(this, |dir, name| dir.child(name, make))
    }

    /// The regular file at a path below this directory; `None` if there is nothing at that path.
    pub(crate) fn file(&self, name: &str) -> Result<Option<FileSlice>, LayoutDirError> {
        let path = self.path.join(name);
        let not_plain = |kind| LayoutDirError::NotPlain {
            path: path.clone(),
            kind,
        };
        let Some(names) = components(name) else {
            return Err(not_plain("no path below the layout"));
        };
        let (last, above) = names.split_last().unwrap_or((&name, &[]));
        let dir = match self.below(above, false) {
            Err(LayoutDirError::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            dir => dir?,
        };
        // Opening a fifo without O_NONBLOCK would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&dir.fd, *last, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(dir.error("read", last, error)),
        };
        let meta = file.metadata().map_err(file_error("read", &path))?;
        if !meta.is_file() {
            return Err(not_plain("no regular file"));
        }
        Ok(Some(FileSlice::of_open(file, &path, meta.len())))
    }

    /// Replaces a file in this directory: at every moment it has either the old or the new content.
    pub(crate) fn replace(&self, name: &str, content: &mut impl Read) -> Result<(), FileError> {
        let path = self.path.join(name);
        let temporary = format!("{name}.{:016x}", rand::random::<u64>());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut write = || -> io::Result<()> {
            let fd = rustix::fs::openat(&self.fd, &temporary, flags, Mode::from_raw_mode(0o666))?;
            let mut file = File::from(fd);
            io::copy(content, &mut file)?;
            file.flush()?;
            file.sync_all()?;
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)?;
            Ok(rustix::fs::fsync(&self.fd)?)
        };
        write().map_err(|error| {
            if let Err(error) = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty()) {
                tracing::debug!(file = %path.display(), %error, "could not remove a temporary file");
            }
            file_error("write", &path)(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn read(dir: &LayoutDir, name: &str) -> Result<Option<String>, LayoutDirError> {
        let part = dir.file(name)?;
        part.map(|part| {
            let mut text = String::new();
            part.reader()?.read_to_string(&mut text).unwrap();
            Ok(text)
        })
        .transpose()
    }

    #[test]
    fn nothing_outside_is_read_or_written() {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        fs::write(at("secret"), "secret").unwrap();
        fs::create_dir_all(at("dir/in")).unwrap();
        fs::write(at("dir/in/file"), "file").unwrap();
        symlink(at("secret"), at("dir/link")).unwrap();
        symlink("../../secret", at("dir/in/link")).unwrap();
        symlink("in", at("dir/inner")).unwrap();
        symlink(outer.path(), at("dir/out")).unwrap();
        symlink(at("dir"), at("named")).unwrap();
        // The directory itself is named by the user.
        let dir = LayoutDir::open(&at("named")).unwrap();
        assert_eq!(read(&dir, "in/file").unwrap().unwrap(), "file");
        assert!(read(&dir, "in/no").unwrap().is_none() && read(&dir, "no/file").unwrap().is_none());
        for name in [
            "link",
            "in/link",
            "inner/file",
            "out/secret",
            "../secret",
            "in/../in/file",
            "/etc/passwd",
            "",
            ".",
            "..",
            "in",
            "in/",
            "in//file",
            "in/file/x",
            "a\0b",
        ] {
            let error = read(&dir, name).unwrap_err().to_string();
            assert!(error.contains("cp -rL"), "{name}: {error}");
        }
        // A link is replaced, never written through.
        dir.replace("link", &mut &b"new"[..]).unwrap();
        assert_eq!(read(&dir, "link").unwrap().unwrap(), "new");
        assert_eq!(fs::read_to_string(at("secret")).unwrap(), "secret");
        assert!(dir.below(&["out", "new"], true).is_err() && !at("new").exists());
        dir.below(&["in", "new"], true).unwrap();
        assert_eq!(
            fs::read_dir(at("dir")).unwrap().count(),
            4,
            "no temporary file stays"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_file_is_below(name in "[a./\0]{0,12}") {
            if let Some(names) = components(&name) {
                prop_assert!(names.iter().all(|part| Path::new(part).file_name().is_some_and(|file| file == *part)));
            }
        }
    }
}
