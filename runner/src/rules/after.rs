//! The tree as it is after a change that has not been made.

use std::io;

use super::change::{Change, Kind, Look};
use super::names;
use super::outside::Outside;

/// The largest file that is read whole, in bytes.
const LARGEST: usize = 2 << 20;

/// The tree after a change.
pub(super) struct After<'a> {
    look: &'a dyn Look,
    change: Change<'a>,
}

/// Where what is at a path was before.
enum Origin {
    /// At this path.
    Old(Vec<u8>),
    /// It is new.
    New(Kind),
    /// There is nothing.
    Nothing,
}

/// What follows `directory` in `path`, as the host's file system compares names.
fn below(path: &[u8], directory: &[u8]) -> Option<Vec<u8>> {
    names::below(&names::fold_path(path), &names::fold_path(directory))?;
    let depth = names::split(directory).len();
    Some(names::split(path).split_off(depth).join(&b'/'))
}

/// A path below another one.
fn joined(directory: &[u8], rest: &[u8]) -> Vec<u8> {
    match rest.is_empty() {
        true => directory.to_vec(),
        false => names::join(directory, rest),
    }
}

impl<'a> After<'a> {
    pub(super) fn new(look: &'a dyn Look, change: Change<'a>) -> Self {
        Self { look, change }
    }

    fn origin(&self, path: &[u8]) -> Origin {
        let made = |made: &[u8], kind| match below(path, made) {
            Some(rest) if rest.is_empty() => Origin::New(kind),
            Some(_) => Origin::Nothing,
            None => Origin::Old(path.to_vec()),
        };
        match self.change {
            Change::Create { path, kind } => made(path, kind),
            Change::Symlink { path, .. } => made(path, Kind::Symlink),
            Change::Link { from, to } => match below(path, to) {
                Some(rest) if rest.is_empty() => Origin::Old(from.to_vec()),
                _ => Origin::Old(path.to_vec()),
            },
            Change::Remove { path: removed } => match below(path, removed) {
                Some(_) => Origin::Nothing,
                None => Origin::Old(path.to_vec()),
            },
            Change::Rename { from, to, exchange } => {
                if let Some(rest) = below(path, to) {
                    Origin::Old(joined(from, &rest))
                } else {
                    match below(path, from) {
                        Some(rest) if exchange => Origin::Old(joined(to, &rest)),
                        Some(_) => Origin::Nothing,
                        None => Origin::Old(path.to_vec()),
                    }
                }
            }
            Change::Write { .. } | Change::Truncate { .. } | Change::Attributes { .. } => {
                Origin::Old(path.to_vec())
            }
        }
    }

    /// The contents of a file after a write to it.
    fn written(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large");
        let within = |size: Option<u64>| {
            size.and_then(|size| usize::try_from(size).ok())
                .filter(|size| *size <= LARGEST)
                .ok_or_else(too_large)
        };
        let old = || Ok::<_, io::Error>(self.look.read(path, LARGEST + 1)?.unwrap_or_default());
        match self.change {
            Change::Write {
                path: written,
                offset,
                data,
            } if written == path => {
                let end = within(offset.checked_add(data.len() as u64))?;
                let mut text = old()?;
                if text.len() < end {
                    text.resize(end, 0);
                }
                text[end - data.len()..end].copy_from_slice(data);
                Ok(Some(text))
            }
            Change::Truncate {
                path: truncated,
                size,
            } if truncated == path => {
                let size = within(Some(size))?;
                let mut text = match size {
                    0 => Vec::new(),
                    _ => old()?,
                };
                text.resize(size, 0);
                Ok(Some(text))
            }
            _ => Ok(None),
        }
    }
}

impl Look for After<'_> {
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>> {
        if let Some(mut text) = self.written(path)? {
            text.truncate(at_most);
            return Ok(Some(text));
        }
        match self.origin(path) {
            Origin::Old(path) => self.look.read(&path, at_most),
            Origin::New(Kind::File) => Ok(Some(Vec::new())),
            Origin::New(_) | Origin::Nothing => Ok(None),
        }
    }

    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
        match self.origin(path) {
            Origin::Old(path) => self.look.kind(&path),
            Origin::New(kind) => Ok(Some(kind)),
            Origin::Nothing => Ok(None),
        }
    }

    fn links(&self, path: &[u8]) -> io::Result<u64> {
        match self.origin(path) {
            Origin::Old(path) => self.look.links(&path),
            Origin::New(_) | Origin::Nothing => Ok(1),
        }
    }

    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut all = match self.origin(dir) {
            Origin::Old(dir) => self.look.list(&dir, at_most)?,
            Origin::New(_) | Origin::Nothing => return Ok(Vec::new()),
        };
        let (gone, made) = match self.change {
            Change::Create { path, .. } | Change::Symlink { path, .. } => (None, Some(path)),
            Change::Link { to, .. } => (None, Some(to)),
            Change::Remove { path } => (Some(path), None),
            Change::Rename { from, to, exchange } => ((!exchange).then_some(from), Some(to)),
            _ => (None, None),
        };
        if let Some((parent, name)) = gone.map(names::parent)
            && parent == dir
        {
            all.retain(|one| one != name);
        }
        if let Some((parent, name)) = made.map(names::parent)
            && parent == dir
            && !all.iter().any(|one| one == name)
        {
            all.push(name.to_vec());
        }
        Ok(all)
    }

    fn outside(&self) -> &Outside {
        self.look.outside()
    }
}
