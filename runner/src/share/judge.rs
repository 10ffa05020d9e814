//! The rules applied to a real tree: what they see of it, and the paths of the files that a request names.
//!
//! A change is judged and made under one lock, so nothing that the guest does comes between. What a node is called is checked
//! before: the host may have moved a directory since.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{FileType, Mode, OFlags, RawDir, Statx};
use rustix::io::Errno;
use snowglobe_runner::protection::Protection;

use super::known::lock;
use super::rules::{Change, Finding, Kind, Look, Rules, RulesError, Verdict};
use super::status::{status, type_of};

/// The room for names of a directory that are read at once, in bytes.
const ROOM: usize = 32 << 10;

/// The rules of a share, and its directory.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Rules,
    root: OwnedFd,
    changes: Mutex<()>,
    hides_any: bool,
}

impl Judge {
    /// The rules that `settings` make for the directory `root`.
    pub(super) fn new(settings: &Protection, root: OwnedFd) -> Result<Self, RulesError> {
        Ok(Self {
            rules: Rules::new(settings)?,
            root,
            changes: Mutex::new(()),
            hides_any: !settings.hide.is_empty(),
        })
    }

    /// Lets no other change be made for as long as it is held.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.changes)
    }

    /// Whether any file looks absent to the guest.
    pub(super) fn hides_any(&self) -> bool {
        self.hides_any
    }

    /// Whether a path looks absent to the guest.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.rules.hides(path)
    }

    /// Whether the contents of the file at a path decide about a change.
    pub(super) fn weighs(&self, path: &[u8]) -> io::Result<bool> {
        self.rules.weighs(path, &Sight(self.root.as_fd()))
    }

    /// Refuses a change that a rule forbids.
    pub(super) fn allow(&self, change: &Change<'_>) -> io::Result<()> {
        let finding = match self.rules.check(change, &Sight(self.root.as_fd())) {
            Verdict::Allow => return Ok(()),
            // What only a person could allow is refused as long as nobody asks one.
            Verdict::Deny(finding) | Verdict::Ask(finding) => finding,
        };
        let Finding { rule, what } = &finding;
        log::warn!("refused by the rule `{rule}`: {what}");
        Err(match (finding.is_read_only(), finding.is_too_long()) {
            (true, _) => Errno::ROFS.into(),
            (_, true) => Errno::NAMETOOLONG.into(),
            _ => Errno::PERM.into(),
        })
    }

    /// The status of the file at a path; `None`: there is none.
    pub(super) fn found_at(&self, path: &[u8]) -> io::Result<Option<Statx>> {
        Sight(self.root.as_fd()).status(path)
    }
}

/// The tree below a directory.
struct Sight<'a>(BorrowedFd<'a>);

impl Sight<'_> {
    /// The directory that contains the path's last name, and that name; `None`: there is none. No link is followed.
    fn find(&self, path: &[u8]) -> io::Result<Option<(OwnedFd, CString)>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory = self.0.try_clone_to_owned()?;
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let name = CString::new(name)?;
            if names.peek().is_none() {
                return Ok(Some((directory, name)));
            }
            directory = match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                opened => opened?,
            };
        }
        Ok(None)
    }

    fn status(&self, path: &[u8]) -> io::Result<Option<Statx>> {
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
        let name = match name.is_empty() {
            true => c".",
            false => name.as_c_str(),
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
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

impl Look for Sight<'_> {
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
        let mut buffer = Vec::with_capacity(ROOM);
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
}
