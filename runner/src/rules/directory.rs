//! What the rules see of a real directory.
//!
//! A path is found one component at a time, and no symbolic link is followed. Paths are those of the tree that the rules
//! see ([`Outside`]).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, RawDir, Statx};
use rustix::io::Errno;

use super::change::{Kind, Look};
use super::outside::Outside;
use crate::status::{status, type_of};

/// The room for names of a directory that are read at once, in bytes.
const NAMES: usize = 32 << 10;

/// The tree below a directory of the host.
#[derive(Debug, Clone, Copy)]
pub struct Directory<'a> {
    root: BorrowedFd<'a>,
    outside: &'a Outside,
}

/// A directory on the way to a file.
enum At<'a> {
    /// The tree's root.
    Root(BorrowedFd<'a>),
    /// One below it.
    Below(OwnedFd),
}

impl AsFd for At<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}

impl<'a> Directory<'a> {
    /// The tree below `root`, with what is around it.
    pub fn new(root: BorrowedFd<'a>, outside: &'a Outside) -> Self {
        Self { root, outside }
    }

    /// The directory that contains the path's last name, and that name, or the shared directory and `.`; `None`: there is
    /// none. No link is followed.
    fn find(&self, path: &[u8]) -> io::Result<Option<(At<'a>, CString)>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(path) = self.outside.in_share(path) else {
            return Ok(None);
        };
        let mut directory = At::Root(self.root);
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let name = match name {
                b"" => c".".to_owned(),
                name => CString::new(name)?,
            };
            if names.peek().is_none() {
                return Ok(Some((directory, name)));
            }
            directory = match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                opened => At::Below(opened?),
            };
        }
        Ok(None)
    }

    /// The status of the file at a path; `None`: there is none.
    pub fn status(&self, path: &[u8]) -> io::Result<Option<Statx>> {
        let Some((directory, name)) = self.find(path)? else {
            return Ok(None);
        };
        match status(directory.as_fd(), &name) {
            Err(Errno::NOENT) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let Some((directory, name)) = self.find(path)? else {
            return Ok(None);
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }
}

fn kind_of(stat: &Statx) -> Kind {
    match type_of(stat) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    }
}

impl Look for Directory<'_> {
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>> {
        if self.kind(path)? != Some(Kind::File) {
            return Ok(None);
        }
        let Some(file) = self.open(path, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let file = std::fs::File::from(file);
        let mut bytes = vec![0; at_most];
        let mut length = 0;
        while length < at_most {
            match file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                read => length += read,
            }
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
        Ok(self.status(path)?.map(|stat| kind_of(&stat)))
    }

    fn links(&self, path: &[u8]) -> io::Result<u64> {
        let stat = self.status(path)?.ok_or(Errno::NOENT)?;
        Ok(stat.stx_nlink.into())
    }

    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
        let Some(directory) = self.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut buffer = Vec::with_capacity(NAMES);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            names.push(name);
            if names.len() > at_most {
                break;
            }
        }
        Ok(names)
    }

    fn outside(&self) -> &Outside {
        self.outside
    }
}
