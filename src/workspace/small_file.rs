//! Small files, read without following a link and without waiting: a guest may have put anything in their place.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What is at a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Small {
    /// Nothing.
    Absent,
    /// A regular file with this text.
    Text(Vec<u8>),
    /// A regular file that is too long.
    TooLong,
    Directory,
    Link,
    /// A pipe, a socket or a device.
    Odd,
}

/// The text of a regular file of at most so many bytes; none if anything else is at the path.
pub fn small_text(path: &Path, at_most: usize) -> io::Result<Option<Vec<u8>>> {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(dir), Some(name)) = (path.parent(), name) else {
        return Ok(None);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    match read(dir.as_fd(), name, at_most)? {
        Small::Text(text) => Ok(Some(text)),
        _ => Ok(None),
    }
}

/// Reads a file of at most so many bytes.
pub(super) fn read(dir: BorrowedFd<'_>, name: &str, at_most: usize) -> io::Result<Small> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Small::Absent),
        stat => stat?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Small::Directory),
        FileType::Symlink => return Ok(Small::Link),
        _ => return Ok(Small::Odd),
    }
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    // Something else may have taken its place.
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Small::Odd);
    }
    let mut text = Vec::new();
    File::from(file)
        .take(at_most as u64 + 1)
        .read_to_end(&mut text)?;
    Ok(match text.len() > at_most {
        true => Small::TooLong,
        false => Small::Text(text),
    })
}
