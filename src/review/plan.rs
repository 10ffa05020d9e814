//! What applying a change does to the host's directory: nothing that would lose what the host changed meanwhile.

use std::collections::BTreeSet;

use snowglobe_init::wire::tree::escape;

use super::apply::{ApplyError, Operation};
use super::changes::Change;
use super::diff::{self, TextDiff};
use super::entry::{Entry, MODE, executable, same};
use super::root::Root;
use crate::copy::{Contents, CopyError};

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This is done.
    Do(Operation, &'static str),
    /// The host has it already.
    Already,
    /// The host changed it in another way.
    Conflict(&'static str),
}

/// A path of a selected change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The path.
    pub path: Vec<u8>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What the copy begins with there from then on.
    pub begins: Option<Entry>,
    /// Whether that is all that the guest has there.
    pub whole: bool,
}

/// Plans a change, or some hunks of it.
pub fn plan(
    change: &Change,
    hunks: Option<&BTreeSet<usize>>,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<Vec<Planned>, ApplyError> {
    let wanted = match hunks {
        None => change.new.clone().map(plain),
        Some(hunks) => Some(with_hunks(change, hunks, contents)?),
    };
    let whole = same(wanted.as_ref(), change.new.clone().map(plain).as_ref());
    let mut all = Vec::new();
    let old = match &change.from {
        Some(from) => {
            all.push(path(from, change.old.as_ref(), None, true, root, contents)?);
            None
        }
        None => change.old.as_ref(),
    };
    all.push(path(&change.path, old, wanted, whole, root, contents)?);
    Ok(all)
}

/// An entry without the bits that the host does not take.
fn plain(entry: Entry) -> Entry {
    match entry {
        Entry::File { hash, size, mode } => Entry::File {
            hash,
            size,
            mode: mode & MODE,
        },
        other => other,
    }
}

/// The content of an entry that is text; of no entry it is empty.
fn text(entry: Option<&Entry>, contents: &Contents) -> Result<Option<Vec<u8>>, ApplyError> {
    let Some(Entry::File { hash, size, .. }) = entry else {
        return Ok(entry.is_none().then(Vec::new));
    };
    if *size > diff::LONGEST {
        return Ok(None);
    }
    let bytes = contents.read(hash)?;
    Ok(diff::is_text(&bytes).then_some(bytes))
}

fn with_hunks(
    change: &Change,
    hunks: &BTreeSet<usize>,
    contents: &Contents,
) -> Result<Entry, ApplyError> {
    let old = text(change.old.as_ref(), contents)?.unwrap_or_default();
    let new = text(change.new.as_ref(), contents)?.unwrap_or_default();
    let some = TextDiff::of(&old, &new).with(&old, hunks);
    let mode = [&change.old, &change.new]
        .into_iter()
        .flatten()
        .find_map(|entry| match entry {
            Entry::File { mode, .. } => Some(*mode & MODE),
            _ => None,
        });
    Ok(file(&some, mode.unwrap_or(0o644), contents)?)
}

/// A file with this content, which is kept among the contents.
pub fn file(bytes: &[u8], mode: u32, contents: &Contents) -> Result<Entry, CopyError> {
    let size = bytes.len() as u64;
    Ok(Entry::File {
        hash: contents.add(&mut &*bytes, size)?,
        size,
        mode,
    })
}

fn path(
    path: &[u8],
    old: Option<&Entry>,
    wanted: Option<Entry>,
    whole: bool,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<Planned, ApplyError> {
    let outcome = match root.look(path, contents) {
        Err(_) => {
            Outcome::Conflict("the host has a link, a pipe or a device there, or it can't be read")
        }
        Ok(found) => {
            let host = found.map(|(entry, _)| entry);
            outcome(path, old, wanted.as_ref(), host, contents)?
        }
    };
    Ok(Planned {
        path: path.to_vec(),
        outcome,
        begins: wanted,
        whole,
    })
}

fn outcome(
    path: &[u8],
    old: Option<&Entry>,
    wanted: Option<&Entry>,
    host: Option<Entry>,
    contents: &Contents,
) -> Result<Outcome, ApplyError> {
    if same(host.as_ref(), wanted) {
        return Ok(Outcome::Already);
    }
    let operation = |new: Option<Entry>| Operation {
        path: escape(path),
        old: host.clone(),
        new,
    };
    if same(host.as_ref(), old) {
        let what = match wanted {
            None => "removed",
            Some(_) => "written",
        };
        // The host's own mode stays, but for the right to execute.
        let new = match (wanted, &host) {
            (Some(Entry::File { hash, size, mode }), Some(Entry::File { mode: kept, .. }))
                if executable(*mode) == executable(*kept) =>
            {
                Some(Entry::File {
                    hash: hash.clone(),
                    size: *size,
                    mode: *kept,
                })
            }
            _ => wanted.cloned(),
        };
        return Ok(Outcome::Do(operation(new), what));
    }
    let (
        Some(Entry::File { mode, .. }),
        Some(Entry::File { mode: old_mode, .. }),
        Some(Entry::File { mode: new_mode, .. }),
    ) = (&host, old, wanted)
    else {
        return Ok(Outcome::Conflict(match (&host, wanted) {
            (None, _) => "the host removed it",
            (Some(_), None) => "the host changed it, and the sandbox removed it",
            (Some(_), Some(_)) if old.is_none() => "the host made another one",
            _ => "the host has something of another kind",
        }));
    };
    let texts = [
        text(old, contents)?,
        text(host.as_ref(), contents)?,
        text(wanted, contents)?,
    ];
    let [Some(base), Some(ours), Some(theirs)] = texts else {
        return Ok(Outcome::Conflict("both changed it, and it is no text"));
    };
    let Some(merged) = diff::merge(&base, &ours, &theirs) else {
        return Ok(Outcome::Conflict("both changed the same lines"));
    };
    let mode = match executable(*old_mode) == executable(*new_mode) {
        true => *mode,
        false => *new_mode,
    };
    let new = file(&merged, mode, contents)?;
    if same(host.as_ref(), Some(&new)) {
        return Ok(Outcome::Already);
    }
    Ok(Outcome::Do(operation(Some(new)), "merged"))
}
