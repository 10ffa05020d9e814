//! Changes that are taken over to the host: which of them, and what the copy begins with then.

use std::collections::BTreeSet;

use snowglobe_runner::protection::Protection;
use snowglobe_runner::rules::planned;

use super::super::SandboxError;
use super::super::sync::step;
use super::compare::{Compared, known};
use super::judge::findings;
use crate::copy::Contents;
use crate::review::changes::Change;
use crate::review::plan::Planned;
use crate::review::report::{Selection, Step};
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
