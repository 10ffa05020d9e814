//! A real directory, as the rules see it, to which changes are made.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::super::{Change, Kind, Look, Outside};

/// A directory that is removed in the end.
pub(super) struct Tree {
    root: tempfile::TempDir,
    outside: Outside,
}

impl Tree {
    /// Makes a tree: `dir/`, `file=contents`, `link->target`, `second==file` (a hard link).
    pub(super) fn new(entries: &[&str]) -> Self {
        let tree = Self {
            root: tempfile::tempdir().unwrap(),
            outside: Outside::of_workspace(&[]),
        };
        for entry in entries {
            if let Some((path, target)) = entry.split_once("->") {
                tree.make_parent(path);
                symlink(target, tree.at(path.as_bytes())).unwrap();
            } else if let Some((path, first)) = entry.split_once("==") {
                tree.make_parent(path);
                fs::hard_link(tree.at(first.as_bytes()), tree.at(path.as_bytes())).unwrap();
            } else if let Some((path, text)) = entry.split_once('=') {
                tree.make_parent(path);
                fs::write(tree.at(path.as_bytes()), text).unwrap();
            } else {
                fs::create_dir_all(tree.at(entry.as_bytes())).unwrap();
            }
        }
        tree
    }

    /// The same tree with other surroundings.
    pub(super) fn within(mut self, outside: Outside) -> Self {
        self.outside = outside;
        self
    }

    pub(super) fn surroundings(&self) -> &Outside {
        &self.outside
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn at(&self, path: &[u8]) -> PathBuf {
        self.root.path().join(OsStr::from_bytes(path))
    }

    pub(super) fn make_parent(&self, path: &str) {
        fs::create_dir_all(self.at(path.as_bytes()).parent().unwrap()).unwrap();
    }

    /// Makes a change.
    pub(super) fn apply(&self, change: &Change<'_>) {
        match *change {
            Change::Create {
                path,
                kind: Kind::Directory,
            } => fs::create_dir(self.at(path)),
            Change::Create {
                path,
                kind: Kind::File,
            } => fs::File::create_new(self.at(path)).map(drop),
            Change::Create { kind, .. } => panic!("{kind:?}"),
            Change::Symlink { path, target } => symlink(OsStr::from_bytes(target), self.at(path)),
            Change::Link { from, to } => fs::hard_link(self.at(from), self.at(to)),
            Change::Write { path, offset, data } => fs::OpenOptions::new()
                .write(true)
                .open(self.at(path))
                .and_then(|file| file.write_all_at(data, offset)),
            Change::Truncate { path, size } => fs::OpenOptions::new()
                .write(true)
                .open(self.at(path))
                .and_then(|file| file.set_len(size)),
            Change::Attributes { path } => fs::symlink_metadata(self.at(path)).map(drop),
            Change::Remove { path } => {
                let path = self.at(path);
                match path.symlink_metadata().unwrap().is_dir() {
                    true => fs::remove_dir(path),
                    false => fs::remove_file(path),
                }
            }
            Change::Rename {
                from,
                to,
                exchange: false,
            } => fs::rename(self.at(from), self.at(to)),
            Change::Rename {
                from,
                to,
                exchange: true,
            } => rustix::fs::renameat_with(
                rustix::fs::CWD,
                self.at(from),
                rustix::fs::CWD,
                self.at(to),
                rustix::fs::RenameFlags::EXCHANGE,
            )
            .map_err(Into::into),
        }
        .unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }
}

/// An absent file is no error; a file in the place of a directory makes it absent, too.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

impl Look for Tree {
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>> {
        if self.kind(path)? != Some(Kind::File) {
            return Ok(None);
        }
        let text = found(fs::read(self.at(path)))?;
        Ok(text.map(|mut text| {
            text.truncate(at_most);
            text
        }))
    }

    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
        let kind = found(self.at(path).symlink_metadata())?.map(|it| it.file_type());
        Ok(kind.map(|kind| match kind {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Symlink,
            kind if kind.is_fifo() => Kind::Fifo,
            kind if kind.is_socket() => Kind::Socket,
            _ => Kind::File,
        }))
    }

    fn links(&self, path: &[u8]) -> io::Result<u64> {
        Ok(self.at(path).symlink_metadata()?.nlink())
    }

    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
        let Some(entries) = found(fs::read_dir(self.at(dir)))? else {
            return Ok(Vec::new());
        };
        entries
            .take(at_most + 1)
            .map(|entry| Ok(entry?.file_name().as_bytes().to_vec()))
            .collect()
    }

    fn outside(&self) -> &Outside {
        &self.outside
    }
}
