//! The changes of a copy: what differs from what it began with. Pure.

use std::collections::BTreeMap;

use super::entry::Entry;
use super::flag::Flag;

/// An entry that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// Its path.
    pub path: Vec<u8>,
    /// What the copy began with; `None`: nothing.
    pub old: Option<Entry>,
    /// What the guest has; `None`: nothing.
    pub new: Option<Entry>,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path; of a renamed file the new one.
    pub path: Vec<u8>,
    /// The old path of a renamed file.
    pub from: Option<Vec<u8>>,
    /// What the copy began with; of a renamed file at the old path.
    pub old: Option<Entry>,
    /// What the guest has.
    pub new: Option<Entry>,
    /// Why it is not applied unless it is named.
    pub flags: Vec<Flag>,
}

/// What kind of change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Something where nothing was.
    Added,
    /// Another content.
    Modified,
    /// Nothing where something was.
    Removed,
    /// Another path, with the same content.
    Renamed,
    /// The right to execute it came or went.
    Mode,
    /// Something of another kind, such as a link for a file.
    Replaced,
}

impl ChangeKind {
    /// A word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Removed => "removed",
            Self::Renamed => "renamed",
            Self::Mode => "mode",
            Self::Replaced => "replaced",
        }
    }
}

impl Change {
    /// What kind of change it is.
    pub fn kind(&self) -> ChangeKind {
        match (&self.old, &self.new) {
            (_, None) => ChangeKind::Removed,
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), Some(_)) if self.from.is_some() => ChangeKind::Renamed,
            (Some(Entry::File { hash, .. }), Some(Entry::File { hash: same, .. }))
                if hash == same =>
            {
                ChangeKind::Mode
            }
            (Some(old), Some(new))
                if std::mem::discriminant(old) != std::mem::discriminant(new) =>
            {
                ChangeKind::Replaced
            }
            _ => ChangeKind::Modified,
        }
    }
}

/// The changes that entries which differ make, by path. A file that went and one of the same content that came are a
/// renamed file. A directory is a change of its own only if it is empty.
pub fn changes(differing: Vec<Differing>) -> Vec<Change> {
    let full: std::collections::BTreeSet<Vec<u8>> = differing
        .iter()
        .filter_map(|one| {
            let at = one.path.iter().rposition(|byte| *byte == b'/')?;
            Some(one.path[..at].to_vec())
        })
        .collect();
    let is_implied = |one: &Differing| {
        let directory =
            |entry: &Option<Entry>| matches!(entry, None | Some(Entry::Directory { .. }));
        directory(&one.old) && directory(&one.new) && full.contains(&one.path)
    };
    let mut gone: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for one in &differing {
        if let (Some(Entry::File { hash, size, .. }), None) = (&one.old, &one.new)
            && *size > 0
        {
            gone.entry(hash.clone()).or_default().push(one.path.clone());
        }
    }
    let mut renamed = BTreeMap::new();
    for one in &differing {
        if let (None, Some(Entry::File { hash, .. })) = (&one.old, &one.new)
            && let Some(from) = gone.get_mut(hash).and_then(Vec::pop)
        {
            renamed.insert(from, one.path.clone());
        }
    }
    let moved: BTreeMap<_, _> = renamed
        .iter()
        .map(|(from, to)| (to.clone(), from.clone()))
        .collect();
    let mut olds: BTreeMap<_, _> = differing
        .iter()
        .filter(|one| renamed.contains_key(&one.path))
        .map(|one| (one.path.clone(), one.old.clone()))
        .collect();
    let kept = differing
        .into_iter()
        .filter(|one| !is_implied(one) && !renamed.contains_key(&one.path));
    let change = |one: Differing| {
        let from = moved.get(&one.path).cloned();
        let old = match &from {
            Some(from) => olds.remove(from).flatten(),
            None => one.old,
        };
        Change {
            path: one.path,
            from,
            old,
            new: one.new,
            flags: Vec::new(),
        }
    };
    let mut all: Vec<_> = kept.map(change).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(hash: &str, mode: u32) -> Option<Entry> {
        Some(Entry::File {
            hash: hash.to_owned(),
            size: hash.len() as u64,
            mode,
        })
    }

    fn differing(path: &str, old: Option<Entry>, new: Option<Entry>) -> Differing {
        Differing {
            path: path.into(),
            old,
            new,
        }
    }

    #[test]
    fn changes_have_their_kinds() {
        let link = Some(Entry::Link { target: "x".into() });
        let directory = Some(Entry::Directory { mode: 0o755 });
        let all = changes(vec![
            differing("a", None, file("1", 0o644)),
            differing("b", file("1", 0o644), file("2", 0o644)),
            differing("c", file("3", 0o644), None),
            differing("d", file("4", 0o644), file("4", 0o755)),
            differing("e", file("5", 0o644), link),
            differing("new", None, directory.clone()),
            differing("new/moved", None, file("6", 0o644)),
            differing("was", file("6", 0o644), None),
            differing("empty", None, directory),
        ]);
        let kinds: Vec<_> = all
            .iter()
            .map(|change| {
                (
                    String::from_utf8_lossy(&change.path).into_owned(),
                    change.kind().word(),
                )
            })
            .collect();
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(path, kind)| (path.as_str(), *kind))
            .collect();
        assert_eq!(
            kinds,
            [
                ("a", "added"),
                ("b", "modified"),
                ("c", "removed"),
                ("d", "mode"),
                ("e", "replaced"),
                ("empty", "added"),
                ("new/moved", "renamed"),
            ]
        );
        assert_eq!(all[6].from.as_deref(), Some(&b"was"[..]));
    }
}
