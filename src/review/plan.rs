//! What applying changes does to the host's directory: nothing that would lose what the host changed meanwhile.
//!
//! A change that can't be made is a conflict of its path, and the other changes go on without it: so what is planned is
//! possible as a whole. Both paths of a renamed file conflict if one does, since half of a renaming would lose the file or
//! double it.

use std::collections::{BTreeMap, BTreeSet};

use snowglobe_init::wire::tree::escape;

use super::changes::Change;
use super::diff;
use super::directories::{emptied, is_emptied, with_directories};
use super::entry::{Entry, MODE, executable, host_mode, new_mode, same};
use super::journal::{ApplyError, Operation};
use super::partial::{file, text, with_hunks};
use super::root::{Root, above};
use crate::copy::Contents;

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

/// Plans changes, each with the hunks that are taken (`None`: all of it). `gone` are the directories that the guest does not
/// have any more. What is planned can be made without the rest.
pub fn plan(
    taken: &[(&Change, Option<&BTreeSet<usize>>)],
    gone: &BTreeSet<Vec<u8>>,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<Vec<Planned>, ApplyError> {
    let mut plans = Vec::new();
    for (change, hunks) in taken {
        plans.push(of_change(change, *hunks, root, contents)?);
    }
    // One conflict may lead to another.
    loop {
        plans.iter_mut().for_each(|plan| keep_whole(plan));
        let found = impossible(&plans, gone, root, contents)?;
        if found.is_empty() {
            return Ok(plans.into_iter().flatten().collect());
        }
        for planned in plans.iter_mut().flatten() {
            if let Some(why) = found.get(&planned.path) {
                planned.outcome = Outcome::Conflict(why);
            }
        }
    }
}

/// The operations of what is planned, with directories that are missing, and those of `gone` that become empty.
pub fn operations(
    plans: &[Planned],
    gone: &BTreeSet<Vec<u8>>,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<Vec<Operation>, ApplyError> {
    let operations = done(plans);
    let emptied = emptied(root, gone, &operations, contents);
    let mut all = with_directories(root, operations, contents)?;
    all.extend(emptied);
    Ok(all)
}

fn done<'a>(plans: impl IntoIterator<Item = &'a Planned>) -> Vec<Operation> {
    let operation = |planned: &Planned| match &planned.outcome {
        Outcome::Do(operation, _) => Some(operation.clone()),
        Outcome::Already | Outcome::Conflict(_) => None,
    };
    plans.into_iter().filter_map(operation).collect()
}

/// If one path of a change conflicts, the other does, too.
fn keep_whole(plan: &mut [Planned]) {
    let conflicts = |planned: &Planned| matches!(planned.outcome, Outcome::Conflict(_));
    if plan.iter().any(conflicts) {
        let others = plan.iter_mut().filter(|planned| !conflicts(planned));
        others.for_each(|planned| {
            planned.outcome = Outcome::Conflict("it was renamed, and its other path conflicts");
        });
    }
}

/// The planned paths that can't be made, with the reasons: below a file or a link of the host, or in place of a directory in
/// which the host has files.
fn impossible(
    plans: &[Vec<Planned>],
    gone: &BTreeSet<Vec<u8>>,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<BTreeMap<Vec<u8>, &'static str>, ApplyError> {
    let all = done(plans.iter().flatten());
    let planned: BTreeMap<Vec<u8>, &Operation> = all.iter().map(|one| (one.bytes(), one)).collect();
    let removed = emptied(root, gone, &all, contents);
    let removed = removed.iter().chain(&all).filter(|one| one.new.is_none());
    let removed: BTreeSet<Vec<u8>> = removed.map(Operation::bytes).collect();
    let mut found = BTreeMap::new();
    for (path, operation) in &planned {
        if operation.replaces_directory() {
            let is_emptied = is_emptied(root, path, &removed);
            if !is_emptied.map_err(operation.failed())? {
                found.insert(path.clone(), "the host has more files in that directory");
            }
        }
        for dir in above(path).filter(|_| operation.new.is_some()) {
            let is_blocked = match planned.get(dir) {
                Some(above) => above.new.as_ref().is_some_and(|new| !new.is_directory()),
                None => match root.look(dir, contents).map_err(operation.failed())? {
                    Some(host) => !host.is_directory(),
                    None => false,
                },
            };
            if is_blocked {
                let why = "the host has a file or a link in place of a directory above it";
                found.insert(path.clone(), why);
            }
        }
    }
    Ok(found)
}

/// Plans a change, or some hunks of it.
fn of_change(
    change: &Change,
    hunks: Option<&BTreeSet<usize>>,
    root: &Root<'_>,
    contents: &Contents,
) -> Result<Vec<Planned>, ApplyError> {
    let wanted = match hunks {
        None => change.new.clone().map(plain),
        Some(hunks) => with_hunks(change, hunks, change.old.as_ref(), contents)?.map(plain),
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
            let umask = root.umask();
            outcome(path, old, wanted.as_ref(), found, umask, contents)?
        }
    };
    Ok(Planned {
        path: path.to_vec(),
        outcome,
        begins: wanted,
        whole,
    })
}

/// An entry of the guest with the mode that it gets on the host, where a file has the mode `kept`.
fn of_host(entry: Entry, kept: Option<u32>, umask: u32) -> Entry {
    match entry {
        Entry::File { hash, size, mode } => Entry::File {
            hash,
            size,
            mode: host_mode(kept.unwrap_or_else(|| new_mode(umask, false)), mode),
        },
        Entry::Directory { .. } => Entry::Directory {
            mode: new_mode(umask, true),
        },
        link @ Entry::Link { .. } => link,
    }
}

fn outcome(
    path: &[u8],
    old: Option<&Entry>,
    wanted: Option<&Entry>,
    host: Option<Entry>,
    umask: u32,
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
        let kept = match &host {
            Some(Entry::File { mode, .. }) => Some(*mode),
            _ => None,
        };
        let new = wanted.cloned().map(|wanted| of_host(wanted, kept, umask));
        return Ok(Outcome::Do(operation(new), what));
    }
    let (
        Some(Entry::File { mode, .. }),
        Some(Entry::File { mode: old_mode, .. }),
        Some(Entry::File { mode: becomes, .. }),
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
    let mode = match executable(*old_mode) == executable(*becomes) {
        true => *mode & MODE,
        false => host_mode(*mode, *becomes),
    };
    let new = file(&merged, mode, contents)?;
    if same(host.as_ref(), Some(&new)) {
        return Ok(Outcome::Already);
    }
    Ok(Outcome::Do(operation(Some(new)), "merged"))
}

#[cfg(test)]
mod tests;
