//! A directory that others may write, such as an OCI layout in the workspace: what is read and written there stays
//! below it.
//!
//! The directory is opened once, as the user named it. From there each component is opened by itself, without
//! following a link, and must be a directory, the last one a regular file. So a layout names nothing outside, also
//! while somebody exchanges its parts. New files appear under a name that nobody can guess, then by a rename.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::image::ImageError;
use crate::image::error::io_error;
use crate::image::file_slice::Part;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The error for what is no plain file or directory.
fn odd(path: PathBuf, what: &str) -> ImageError {
    ImageError::BadArchive {
        path,
        problem: format!(
            "it is {what}; nothing outside of a layout is read or written, so copy it with its links followed: cp -rL"
        ),
    }
}

/// Names that lead down, one after the other.
fn components(name: &str) -> Option<Vec<&str>> {
    let all: Vec<&str> = name.split('/').collect();
    let good =
        |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\0');
    all.iter().all(good).then_some(all)
}

impl Directory {
    /// The directory at a path of the user's own choice.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|error| io_error("read the directory", path)(error.into()))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// The same, made where it is not there.
    pub(crate) fn make(path: &Path) -> Result<Self, ImageError> {
        fs::create_dir_all(path).map_err(io_error("make the directory", path))?;
        Self::open(path)
    }

    fn failed(&self, operation: &'static str, name: &str, error: Errno) -> ImageError {
        let path = self.path.join(name);
        match error {
            // A link where none is followed is either, by whether it was to be a directory.
            Errno::LOOP | Errno::NOTDIR => odd(path, "a link, or no directory where one has to be"),
            error => io_error(operation, &path)(error.into()),
        }
    }

    /// A directory in it; made where `make` says so and it is not there.
    fn inner(&self, name: &str, make: bool) -> Result<Self, ImageError> {
        if make {
            match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("make the directory", name, error)),
            }
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|error| self.failed("read the directory", name, error))?;
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// The directory of a path below it, whose names lead down; made where `make` says so.
    pub(crate) fn below(&self, names: &[&str], make: bool) -> Result<Self, ImageError> {
        let this = Self {
            fd: self
                .fd
                .try_clone()
                .map_err(io_error("read the directory", &self.path))?,
            path: self.path.clone(),
        };
        names
            .iter()
            .try_fold(this, |dir, name| dir.inner(name, make))
    }

    /// The regular file of a path below it; nothing where there is no such name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Part>, ImageError> {
        let path = self.path.join(name);
        let Some(names) = components(name) else {
            return Err(odd(path, "no path below the layout"));
        };
        let (last, above) = names.split_last().unwrap_or((&name, &[]));
        let dir = match self.below(above, false) {
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            dir => dir?,
        };
        // Without waiting: a fifo has no writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&dir.fd, *last, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(dir.failed("read", last, error)),
        };
        let meta = file.metadata().map_err(io_error("read", &path))?;
        if !meta.is_file() {
            return Err(odd(path, "no regular file"));
        }
        Ok(Some(Part::open(file, &path, meta.len())))
    }

    /// Writes a file of it anew: at every moment either the old or the new content is there.
    pub(crate) fn replace(
        &self,
        name: &str,
        content: &mut impl io::Read,
    ) -> Result<(), ImageError> {
        let path = self.path.join(name);
        let part = format!("{name}.{:016x}", rand::random::<u64>());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut write = || -> io::Result<()> {
            let fd = rustix::fs::openat(&self.fd, &part, flags, Mode::from_raw_mode(0o666))?;
            let mut file = File::from(fd);
            io::copy(content, &mut file)?;
            file.flush()?;
            file.sync_all()?;
            rustix::fs::renameat(&self.fd, &part, &self.fd, name)?;
            Ok(rustix::fs::fsync(&self.fd)?)
        };
        write().map_err(|error| {
            let _ = rustix::fs::unlinkat(&self.fd, &part, AtFlags::empty());
            io_error("write", &path)(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn read(dir: &Directory, name: &str) -> Result<Option<String>, ImageError> {
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
        let dir = Directory::open(&at("named")).unwrap();
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
            "what is half written is gone"
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
