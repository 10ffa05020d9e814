//! What is in the workspace.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::WalkBuilder;
use rustix::fs::{FileType, OFlags, Statx};

use super::{PIECE, Tree, nanoseconds, split, status};
use crate::reason::plain;
use crate::wire::tree::{EntryKind, MAX_PATHS, TreeEntry, unescape};
use crate::wire::{ErrorKind, Report, WireError};

/// The name that is left out.
const GIT: &str = ".git";

/// Collects records and sends them in pieces.
struct Sending<'a> {
    send: &'a mut dyn FnMut(Vec<u8>) -> bool,
    piece: Vec<u8>,
}

impl Sending<'_> {
    /// Whether more is wanted.
    fn add(&mut self, entry: &TreeEntry) -> bool {
        entry.encode(&mut self.piece);
        self.piece.len() < PIECE || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.piece.is_empty() || (self.send)(std::mem::take(&mut self.piece))
    }
}

/// Lists the whole workspace; with `ignore` without what git ignores.
pub(crate) fn list(
    root: &Path,
    ignore: bool,
    excludes: &str,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    let failed = |what: &str, error: &io::Error| {
        WireError::new(ErrorKind::Other, format!("{what}: {}", plain(error)))
    };
    let mut sending = Sending {
        send,
        piece: Vec::with_capacity(PIECE + 8192),
    };
    // Kept until the walk is over.
    let file = tempfile_of(excludes).map_err(|error| failed("note what git ignores", &error))?;
    let mut builder = WalkBuilder::new(root);
    builder
        .standard_filters(false)
        .git_ignore(ignore)
        .git_exclude(ignore)
        .filter_entry(|entry| entry.file_name() != GIT);
    if let Some(file) = file.as_ref().filter(|_| ignore)
        && let Some(error) = builder.add_ignore(file)
    {
        tracing::debug!(%error, "some patterns of ignored files are wrong");
    }
    for entry in builder.build() {
        let entry = match entry {
            Ok(entry) if entry.depth() == 0 => continue,
            Ok(entry) => entry,
            // It went meanwhile; anything else would make files look removed.
            Err(error) if error.io_error().is_some_and(is_gone) => continue,
            Err(error) => {
                let message = format!("list the workspace: {error}");
                return Err(WireError::new(ErrorKind::Other, message));
            }
        };
        let Ok(path) = entry.path().strip_prefix(root) else {
            continue;
        };
        let wanted = rustix::fs::StatxFlags::BASIC_STATS;
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let found = match rustix::fs::statx(rustix::fs::CWD, entry.path(), flags, wanted) {
            Ok(found) => found,
            Err(error) if is_gone(&error.into()) => continue,
            Err(error) => {
                let what = format!("look at {}", path.display());
                return Err(failed(&what, &error.into()));
            }
        };
        let target = match entry.file_type() {
            Some(kind) if kind.is_symlink() => std::fs::read_link(entry.path())
                .map(|target| target.as_os_str().as_bytes().to_vec())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        let entry = record(path.as_os_str(), &found, target);
        if !sending.add(&entry) {
            break;
        }
    }
    if let Some(file) = file {
        std::fs::remove_file(file).ok();
    }
    sending.flush();
    Ok(Report::Done)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A file with these patterns; none if there are none.
fn tempfile_of(excludes: &str) -> io::Result<Option<std::path::PathBuf>> {
    if excludes.is_empty() {
        return Ok(None);
    }
    let name = format!("snowglobe-excludes-{:016x}", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)?;
    io::Write::write_all(&mut file, excludes.as_bytes())?;
    Ok(Some(path))
}

/// Lists these paths only.
pub(crate) fn look(
    root: &Path,
    paths: &[String],
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    if paths.len() > MAX_PATHS {
        let message = format!("look at {} paths; at most {MAX_PATHS} are", paths.len());
        return Err(WireError::invalid(message));
    }
    let tree = Tree::open(root)?;
    let mut sending = Sending {
        send,
        piece: Vec::new(),
    };
    for path in paths.iter().map(|path| unescape(path)) {
        let entry = found(&tree, &path).unwrap_or_else(|| TreeEntry {
            kind: EntryKind::Absent,
            mode: 0,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            path,
            target: Vec::new(),
        });
        if !sending.add(&entry) {
            break;
        }
    }
    sending.flush();
    Ok(Report::Done)
}

/// What is at a path; `None`: nothing.
fn found(tree: &Tree, path: &[u8]) -> Option<TreeEntry> {
    let (dir, name) = split(path);
    let dir = tree.at(dir, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    let found = status(&dir, name).ok()?;
    let target = rustix::fs::readlinkat(&dir, name, Vec::new());
    let target = target.map_or_else(|_| Vec::new(), |target| target.into_bytes());
    Some(record(OsStr::from_bytes(path), &found, target))
}

fn record(path: &OsStr, found: &Statx, target: Vec<u8>) -> TreeEntry {
    let mode = u32::from(found.stx_mode);
    TreeEntry {
        kind: match FileType::from_raw_mode(mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Other,
        },
        mode: mode & 0o7777,
        size: found.stx_size,
        mtime_ns: nanoseconds(&found.stx_mtime),
        ctime_ns: nanoseconds(&found.stx_ctime),
        path: path.as_bytes().to_vec(),
        target,
    }
}
