//! The tree as it is after planned changes that have not been made.
//!
//! The host's file system may take two names for one that are not the same bytes. So what is planned is seen by each name
//! that folds to its own, if nothing else has that name. A removal, and a file in the place of a directory, hide only what
//! they name: what they don't name may stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::change::{Kind, Look};
use super::names;
use super::outside::Outside;

/// Reads the first bytes of a file, at most this number.
pub type Content = Box<dyn Fn(usize) -> io::Result<Vec<u8>> + Send + Sync>;

/// A change that is planned together with others.
#[derive(Debug)]
pub struct Planned {
    /// The path in the tree, as in [`Change`](super::Change).
    pub path: Vec<u8>,
    /// What is there afterwards.
    pub becomes: Becomes,
}

/// What is at a path after planned changes.
pub enum Becomes {
    /// Nothing.
    Absent,
    /// A directory. If it was one before, it keeps what it contains.
    Directory,
    /// A regular file with one name.
    File(Content),
    /// A symbolic link, and what it contains.
    Link(Vec<u8>),
}

impl std::fmt::Debug for Becomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Directory => f.write_str("Directory"),
            Self::File(_) => f.write_str("File"),
            Self::Link(target) => f.debug_tuple("Link").field(target).finish(),
        }
    }
}

impl Becomes {
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Absent => None,
            Self::Directory => Some(Kind::Directory),
            Self::File(_) => Some(Kind::File),
            Self::Link(_) => Some(Kind::Symlink),
        }
    }
}

/// The tree after planned changes.
pub(super) struct Overlay<'a> {
    look: &'a dyn Look,
    planned: HashMap<&'a [u8], &'a Becomes>,
    /// What will be there, by folded path and then by path; a directory above something planned is there, too.
    present: HashMap<Vec<u8>, BTreeMap<&'a [u8], &'a Becomes>>,
    /// The names in each directory, by its folded path.
    names: HashMap<Vec<u8>, BTreeSet<&'a [u8]>>,
}

/// Where what is at a path comes from.
enum Source<'a> {
    Planned(&'a Becomes),
    /// It stays as it is.
    Stays,
    Nothing,
}

/// The directories above a path, the nearest last, without the tree's own.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(end, _)| &path[..end])
}

impl<'a> Overlay<'a> {
    /// The tree of `look` after `planned`, in which each path is there once.
    pub(super) fn new(
        look: &'a dyn Look,
        planned: impl Iterator<Item = (&'a [u8], &'a Becomes)>,
    ) -> Self {
        let planned: HashMap<&[u8], &Becomes> = planned.collect();
        let mut present: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        let mut names: HashMap<_, BTreeSet<_>> = HashMap::new();
        for (path, becomes) in &planned {
            if matches!(becomes, Becomes::Absent) {
                continue;
            }
            let made = above(path).filter(|directory| !planned.contains_key(directory));
            let made = made.map(|directory| (directory, &Becomes::Directory));
            for (path, becomes) in made.chain([(*path, *becomes)]) {
                let by_path = present.entry(names::fold_path(path)).or_default();
                by_path.insert(path, becomes);
            }
            for path in above(path).chain([*path]) {
                let (directory, name) = names::parent(path);
                let in_directory = names.entry(names::fold_path(directory)).or_default();
                in_directory.insert(name);
            }
        }
        Self {
            look,
            planned,
            present,
            names,
        }
    }

    /// Whether a path is planned.
    pub(super) fn plans(&self, path: &[u8]) -> bool {
        self.planned.contains_key(path)
    }

    /// Whether a planned change takes the directory of a path away.
    fn is_hidden(&self, path: &[u8]) -> bool {
        above(path).any(|directory| {
            let becomes = self.planned.get(directory);
            becomes.is_some_and(|becomes| !matches!(becomes, Becomes::Directory))
        })
    }

    /// A link by any name comes first: a path would lead through it.
    fn source(&self, path: &[u8]) -> io::Result<Source<'a>> {
        let exact = self.planned.get(path).copied();
        if let Some(becomes @ (Becomes::File(_) | Becomes::Link(_))) = exact {
            return Ok(Source::Planned(becomes));
        }
        let alike = self.present.get(&names::fold_path(path));
        let mut all_alike = alike.into_iter().flat_map(BTreeMap::values).copied();
        let is_link = |becomes: &&Becomes| matches!(becomes, Becomes::Link(_));
        if let Some(link) = all_alike.clone().find(is_link) {
            return Ok(Source::Planned(link));
        }
        if let Some(becomes @ Becomes::Directory) = exact {
            return Ok(Source::Planned(becomes));
        }
        if exact.is_none() && !self.is_hidden(path) && self.look.kind(path)?.is_some() {
            return Ok(Source::Stays);
        }
        let made = alike.and_then(|alike| alike.get(path)).copied();
        let seen = made.or_else(|| all_alike.next());
        Ok(seen.map_or(Source::Nothing, Source::Planned))
    }
}

impl Look for Overlay<'_> {
    fn read(&self, path: &[u8], at_most: usize) -> io::Result<Option<Vec<u8>>> {
        match self.source(path)? {
            Source::Planned(Becomes::File(content)) => {
                let mut text = content(at_most)?;
                text.truncate(at_most);
                Ok(Some(text))
            }
            Source::Stays => self.look.read(path, at_most),
            Source::Planned(_) | Source::Nothing => Ok(None),
        }
    }

    fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
        match self.source(path)? {
            Source::Planned(becomes) => Ok(becomes.kind()),
            Source::Stays => self.look.kind(path),
            Source::Nothing => Ok(None),
        }
    }

    fn links(&self, path: &[u8]) -> io::Result<u64> {
        match self.source(path)? {
            Source::Stays => self.look.links(path),
            Source::Planned(_) | Source::Nothing => Ok(1),
        }
    }

    fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut all = match self.source(dir)? {
            Source::Planned(Becomes::Directory) | Source::Stays if !self.is_hidden(dir) => {
                self.look.list(dir, at_most)?
            }
            Source::Planned(Becomes::Directory) => Vec::new(),
            _ => return Ok(Vec::new()),
        };
        // What was cut short stays too long.
        if all.len() > at_most {
            return Ok(all);
        }
        all.retain(|name| {
            let becomes = self.planned.get(names::join(dir, name).as_slice());
            !matches!(becomes, Some(Becomes::Absent))
        });
        let known: BTreeSet<Vec<u8>> = all.iter().cloned().collect();
        let planned = self.names.get(&names::fold_path(dir)).into_iter().flatten();
        let new = planned.filter(|name| !known.contains(**name));
        let room = (at_most + 1).saturating_sub(all.len());
        all.extend(new.take(room).map(|name| name.to_vec()));
        Ok(all)
    }

    fn outside(&self) -> &Outside {
        self.look.outside()
    }
}
