//! Changes that are taken back in the sandbox.

use std::collections::BTreeSet;
use std::io;

use snowglobe_init::wire::tree::{EntryKind, Placed, escape};

use super::super::SandboxError;
use super::compare::{Compared, hunks};
use crate::copy::{Began, Contents, CopyError};
use crate::review::changes::Change;
use crate::review::entry::Entry;
use crate::review::partial::with_hunks;
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
    for (index, taken) in selected {
        let change = &compared.changes[*index];
        let old = match taken {
            None => change.old.clone(),
            Some(taken) => without_hunks(change, taken, contents)?,
        };
        let whole = old == change.old;
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

/// What a path has without some hunks of a change.
fn without_hunks(
    change: &Change,
    taken: &BTreeSet<usize>,
    contents: &Contents,
) -> Result<Option<Entry>, SandboxError> {
    let left = (1..=hunks(change, contents)).filter(|hunk| !taken.contains(hunk));
    Ok(with_hunks(
        change,
        &left.collect(),
        change.new.as_ref(),
        contents,
    )?)
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
