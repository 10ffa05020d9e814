//! The changes of a copy: what differs from what it began with. Pure, but for contents that are read by hash.

use std::collections::BTreeMap;

use snowglobe_init::wire::tree::escape;

use super::diff::{self, TextDiff};
use super::entry::{Entry, executable};
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

/// What a person sees of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The diff, with its head.
    pub text: Vec<u8>,
    /// The hunks, if both sides are text.
    pub hunks: Option<TextDiff>,
}

/// Gives a content by its hash and its size in bytes, or none if it is too long to be shown.
pub type Read<'a, E> = dyn FnMut(&str, u64) -> Result<Option<Vec<u8>>, E> + 'a;

/// The diff of a change. `read` gives a content by its hash, or none if it is too long to be shown.
pub fn shown<E>(change: &Change, read: &mut Read<'_, E>) -> Result<Shown, E> {
    let name = |prefix: &str, path: &[u8]| format!("{prefix}/{}", escape(path));
    let old_path = change.from.as_ref().unwrap_or(&change.path);
    let (old_name, new_name) = match (&change.old, &change.new) {
        (None, _) => ("/dev/null".to_owned(), name("b", &change.path)),
        (_, None) => (name("a", old_path), "/dev/null".to_owned()),
        _ => (name("a", old_path), name("b", &change.path)),
    };
    let mut text = Vec::new();
    let mut say = |line: String| text.extend_from_slice(format!("{line}\n").as_bytes());
    if let Some(from) = &change.from {
        say(format!("rename from {}", escape(from)));
        say(format!("rename to {}", escape(&change.path)));
    }
    if let (Some(Entry::File { mode: old, .. }), Some(Entry::File { mode: new, .. })) =
        (&change.old, &change.new)
        && executable(*old) != executable(*new)
    {
        say(format!("old mode 100{:o}", old & 0o777));
        say(format!("new mode 100{:o}", new & 0o777));
    }
    let old = side(change.old.as_ref(), read)?;
    let new = side(change.new.as_ref(), read)?;
    let (Side::Text(old), Side::Text(new)) = (&old, &new) else {
        say(format!("--- {old_name}"));
        say(format!("+++ {new_name}"));
        say(format!("{} -> {}", old.in_words(), new.in_words()));
        return Ok(Shown { text, hunks: None });
    };
    let hunks = TextDiff::of(old, new);
    if !hunks.hunks.is_empty() || change.old.is_none() || change.new.is_none() {
        say(format!("--- {old_name}"));
        say(format!("+++ {new_name}"));
    }
    for hunk in &hunks.hunks {
        text.extend_from_slice(&hunk.text);
    }
    Ok(Shown {
        text,
        hunks: Some(hunks),
    })
}

/// One side of a change.
enum Side {
    Text(Vec<u8>),
    Binary(u64),
    Directory,
    Link(String),
}

impl Side {
    fn in_words(&self) -> String {
        match self {
            Self::Text(text) => match text.len() {
                0 => "nothing".to_owned(),
                length => format!("a text of {}", crate::text::size(length as u64)),
            },
            Self::Binary(size) => format!("a binary file of {}", crate::text::size(*size)),
            Self::Directory => "a directory".to_owned(),
            Self::Link(target) => format!("a link to {target}"),
        }
    }
}

fn side<E>(entry: Option<&Entry>, read: &mut Read<'_, E>) -> Result<Side, E> {
    Ok(match entry {
        None => Side::Text(Vec::new()),
        Some(Entry::Directory { .. }) => Side::Directory,
        Some(Entry::Link { target }) => Side::Link(target.clone()),
        Some(Entry::File { hash, size, .. }) => match read(hash, *size)? {
            Some(bytes) if diff::is_text(&bytes) => Side::Text(bytes),
            _ => Side::Binary(*size),
        },
    })
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

    #[test]
    fn a_diff_shows_each_kind_of_change() {
        let contents = |hash: &str, _: u64| {
            Ok::<_, std::convert::Infallible>(Some(match hash {
                "1" => b"one\n".to_vec(),
                "2" => b"two\n".to_vec(),
                _ => b"\0\0".to_vec(),
            }))
        };
        let text = |old, new| {
            let change = changes(vec![differing("a b", old, new)]).remove(0);
            let shown = shown(&change, &mut { contents }).unwrap();
            String::from_utf8(shown.text).unwrap()
        };
        assert_eq!(
            text(file("1", 0o644), file("2", 0o755)),
            "old mode 100644\nnew mode 100755\n--- a/a%20b\n+++ b/a%20b\n@@ -1 +1 @@\n-one\n+two\n"
        );
        assert_eq!(
            text(None, file("1", 0o644)),
            "--- /dev/null\n+++ b/a%20b\n@@ -0,0 +1 @@\n+one\n"
        );
        let binary = text(file("1", 0o644), file("3", 0o644));
        assert!(
            binary.ends_with("a text of 4 bytes -> a binary file of 1 byte\n"),
            "{binary}"
        );
        let link = text(
            file("1", 0o644),
            Some(Entry::Link {
                target: "/etc".into(),
            }),
        );
        assert!(
            link.ends_with("a text of 4 bytes -> a link to /etc\n"),
            "{link}"
        );
    }
}
