//! Changes that are taken over to the host: which of them, and the operations that they are.

use std::collections::BTreeSet;

use snowglobe_init::wire::tree::{escape, unescape};
use snowglobe_runner::protection::Protection;
use snowglobe_runner::rules::planned;

use super::super::SandboxError;
use super::super::sync::step;
use super::compare::{Compared, known};
use super::judge::findings;
use crate::copy::Contents;
use crate::review::apply::{Operation, with_directories};
use crate::review::changes::Change;
use crate::review::entry::Entry;
use crate::review::plan::{Outcome, Planned};
use crate::review::report::{Selection, Step};
use crate::review::root::Root;
use crate::review::select::{Selected, matching};
use crate::workspace::SharedDir;

/// Judges selected changes by themselves: what some of them make together differs from what all make. Those that a rule
/// then finds, and that were not named, are left.
pub(super) fn judged_again(
    compared: &Compared,
    mut selected: Selected,
    selection: &Selection,
    root: &SharedDir,
    protection: &Protection,
    contents: &Contents,
) -> Result<(Selected, Vec<Step>), SandboxError> {
    let indices: Vec<usize> = selected.keys().copied().collect();
    let chosen: Vec<&Change> = indices
        .iter()
        .map(|index| &compared.changes[*index])
        .collect();
    let found = findings(&chosen, root, protection, contents)?;
    let named: BTreeSet<usize> = selection
        .paths
        .iter()
        .flat_map(|path| matching(&compared.changes, path))
        .filter(|index| !compared.changes[*index].flags.is_empty())
        .collect();
    let mut left = Vec::new();
    for (index, flag) in indices.into_iter().zip(found) {
        let change = &compared.changes[index];
        let paths = std::iter::once(&change.path).chain(&change.from);
        if paths.into_iter().any(|path| planned::is_in_git(path)) {
            // Commits come in another way.
            selected.remove(&index);
            left.push(step(&change.path, "git's own files are never taken over"));
        } else if let Some(flag) = flag
            && change.flags.is_empty()
            && !selection.flagged
            && !named.contains(&index)
        {
            selected.remove(&index);
            left.push(step(&change.path, &format!("{}: {}", flag.word, flag.why)));
        }
    }
    if selection.paths.is_empty() && !selection.flagged {
        let flagged = compared
            .changes
            .iter()
            .filter(|change| !change.flags.is_empty());
        left.extend(flagged.map(|change| {
            let whys: Vec<_> = change
                .flags
                .iter()
                .map(|flag| format!("{}: {}", flag.word, flag.why))
                .collect();
            step(&change.path, &whys.join("; "))
        }));
    }
    Ok((selected, left))
}

/// The operations of plans: with directories that are missing, and those that become empty since the guest removed them.
pub(super) fn operations(
    plans: &[Planned],
    gone: &BTreeSet<Vec<u8>>,
    host: &Root<'_>,
    contents: &Contents,
) -> Result<Vec<Operation>, SandboxError> {
    let operations: Vec<_> = plans
        .iter()
        .filter_map(|planned| match &planned.outcome {
            Outcome::Do(operation, _) => Some(operation.clone()),
            _ => None,
        })
        .collect();
    let mut removed: BTreeSet<Vec<u8>> = operations
        .iter()
        .filter(|one| one.new.is_none())
        .map(|one| unescape(&one.path))
        .collect();
    let mut emptied = Vec::new();
    // The deepest first.
    for dir in gone
        .iter()
        .rev()
        .filter(|dir| !removed.contains(*dir))
        .cloned()
        .collect::<Vec<_>>()
    {
        let Ok(Some((entry @ Entry::Directory { .. }, _))) = host.look(&dir, contents) else {
            continue;
        };
        let names = host.list(&dir).unwrap_or_default();
        let within = |name: &Vec<u8>| [dir.as_slice(), b"/", name].concat();
        // Files that nothing removes stay, and so does their directory.
        let touched = removed
            .iter()
            .any(|path| path.starts_with(&[dir.as_slice(), b"/"].concat()));
        if touched && names.iter().all(|name| removed.contains(&within(name))) {
            emptied.push(Operation {
                path: escape(&dir),
                old: Some(entry),
                new: None,
            });
            removed.insert(dir);
        }
    }
    let mut all = with_directories(host, operations, contents)?;
    all.extend(emptied);
    Ok(all)
}

/// The copy begins with what was planned for a path.
pub(super) fn begin_with(compared: &mut Compared, planned: &Planned) {
    let ctime = match planned.whole {
        true => compared
            .guest
            .get(&planned.path)
            .map_or(0, |entry| entry.ctime_ns),
        false => 0,
    };
    let begins = planned.begins.clone().map(|entry| known(entry, ctime));
    compared.began.set(&planned.path, begins);
}
