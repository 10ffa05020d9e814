//! Unix sockets at paths of any length.
//!
//! A socket's address has 108 bytes, which a long `TMPDIR` or `XDG_RUNTIME_DIR` alone can fill. A longer path is named by
//! way of its directory, which is opened: `/proc/self/fd/N/NAME`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that an address holds, in bytes.
pub const MAX_PATH: usize = 107;

/// A path that fits an address, for as long as this lives.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    _directory: Option<File>,
}

impl Address {
    /// An address of the socket at `path`, whether it is there or not.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= MAX_PATH {
            return Ok(Self {
                path: path.to_owned(),
                _directory: None,
            });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = File::open(parent)?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        Ok(Self {
            path: short.join(name),
            _directory: Some(directory),
        })
    }

    /// The path to use, in this process only.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Listens at a path of any length.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(Address::of(path)?.path())
}

/// Connects to a socket at a path of any length.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Address::of(path)?.path())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn sockets_are_where_they_should_be_however_long_the_path() {
        let dir = tempfile::tempdir().unwrap();
        for length in [1, 60, 100, 250] {
            let parent = dir.path().join("d".repeat(length)).join("e".repeat(length));
            std::fs::create_dir_all(&parent).unwrap();
            let path = parent.join("link-0123.sock");
            assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
            let listener = bind(&path).unwrap();
            assert!(path.exists());
            assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let mut ours = connect(&path).unwrap();
            ours.write_all(b"x").unwrap();
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            drop(listener);
            let refused = connect(&path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
