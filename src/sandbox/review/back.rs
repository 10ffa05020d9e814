//! Changes that are taken back in the sandbox.

use std::collections::BTreeSet;
use std::io;

use snowglobe_init::wire::tree::{EntryKind, Placed, escape};

use super::super::SandboxError;
use super::compare::{Compared, readable};
use crate::copy::{Began, Contents, CopyError};
use crate::review::changes::Change;
use crate::review::entry::Entry;
use crate::review::git_diff::shown;
use crate::review::plan::file;
use crate::review::root::above;
use crate::review::select::Selected;

/// A change of the guest's tree that takes a change back.
pub(super) struct Back {
    pub(super) path: Vec<u8>,
    pub(super) placed: Placed,
    pub(super) file: Option<std::fs::File>,
    /// Whether the path has then what the copy began with.
    pub(super) whole: bool,
    /// Whether it is a directory that goes only if nothing else is in it.
    pub(super) if_empty: bool,
}

pub(super) fn taken_back(
    compared: &Compared,
    selected: &Selected,
    contents: &Contents,
) -> Result<Vec<Back>, SandboxError> {
    let mut back = Vec::new();
    for (index, hunks) in selected {
        let change = &compared.changes[*index];
        let old = match hunks {
            None => change.old.clone(),
            Some(taken) => Some(without_hunks(change, taken, contents)?),
        };
        let whole = hunks.is_none();
        if let Some(from) = &change.from {
            back.push(placed_back(&compared.began, from, old, whole, contents)?);
            back.push(placed_back(
                &compared.began,
                &change.path,
                None,
                true,
                contents,
            )?);
        } else {
            back.push(placed_back(
                &compared.began,
                &change.path,
                old,
                whole,
                contents,
            )?);
        }
    }
    let removed: Vec<_> = back
        .iter()
        .filter(|back| back.placed.kind == EntryKind::Absent)
        .flat_map(|back| above(&back.path).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    for dir in compared.made.iter().filter(|dir| removed.contains(dir)) {
        let emptied = placed_back(&compared.began, dir, None, true, contents)?;
        back.push(Back {
            if_empty: true,
            ..emptied
        });
    }
    // What lies in a directory goes before it.
    back.sort_by(|a, b| {
        let absent = |back: &Back| back.placed.kind == EntryKind::Absent;
        match (absent(a), absent(b)) {
            (true, true) => b.path.cmp(&a.path),
            _ => absent(b).cmp(&absent(a)).then(a.path.cmp(&b.path)),
        }
    });
    Ok(back)
}

pub(super) fn without_hunks(
    change: &Change,
    taken: &BTreeSet<usize>,
    contents: &Contents,
) -> Result<Entry, SandboxError> {
    let shown = shown(change, &mut |hash, size| readable(contents, hash, size))?;
    let diff = shown
        .hunks
        .unwrap_or_else(|| crate::review::diff::TextDiff::of(b"", b""));
    let left: BTreeSet<usize> = (1..=diff.hunks.len())
        .filter(|hunk| !taken.contains(hunk))
        .collect();
    let read = |entry: Option<&Entry>| match entry {
        Some(Entry::File { hash, .. }) => contents.read(hash),
        _ => Ok(Vec::new()),
    };
    let text = diff.with(&read(change.old.as_ref())?, &left);
    let mode = match (&change.new, &change.old) {
        (Some(Entry::File { mode, .. }), _) | (_, Some(Entry::File { mode, .. })) => *mode & 0o777,
        _ => 0o644,
    };
    Ok(file(&text, mode, contents)?)
}

pub(super) fn placed_back(
    began: &Began,
    path: &[u8],
    old: Option<Entry>,
    whole: bool,
    contents: &Contents,
) -> Result<Back, SandboxError> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut placed = Placed {
        path: escape(path),
        kind: EntryKind::Absent,
        mode: 0,
        // Build tools must see that it changed.
        mtime_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        size: 0,
        target: String::new(),
    };
    let mut file = None;
    match old {
        None => {}
        Some(Entry::Directory { mode }) => {
            (placed.kind, placed.mode) = (EntryKind::Directory, mode);
        }
        Some(Entry::Link { target }) => (placed.kind, placed.target) = (EntryKind::Link, target),
        Some(Entry::File { hash, size, mode }) => {
            (placed.kind, placed.mode, placed.size) = (EntryKind::File, mode, size);
            file = Some(match contents.open(&hash) {
                Ok(file) => file,
                // It is too long to be shown, so it is only in the base.
                Err(_) => {
                    let mut spool = tempfile::tempfile().map_err(CopyError::Spool)?;
                    began.reader(contents)?.read(path, &mut spool)?;
                    io::Seek::rewind(&mut spool).map_err(CopyError::Spool)?;
                    spool
                }
            });
        }
    }
    Ok(Back {
        path: path.to_vec(),
        placed,
        file,
        whole,
        if_empty: false,
    })
}
