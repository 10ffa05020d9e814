//! Changes as other programs get them.

use snowglobe_init::wire::tree::escape;

use super::super::SandboxError;
use super::compare::readable;
use crate::copy::Contents;
use crate::review::changes::Change;
use crate::review::entry::{Entry, same};
use crate::review::flag::Flag;
use crate::review::git_diff::shown;
use crate::review::report::{ChangeReport, FlagReport};
use crate::review::root::Root;
use crate::workspace::SharedDir;

/// The most changes that are reported one by one.
const REPORTED: usize = 5000;

/// The reports of changes, and notes for their reader.
pub(super) fn reported(
    changes: &[Change],
    root: &SharedDir,
    contents: &Contents,
) -> Result<(Vec<ChangeReport>, Vec<String>), SandboxError> {
    let host = Root::new(root.dir());
    let mut reports = Vec::new();
    for change in changes.iter().take(REPORTED) {
        let shown = shown(change, &mut |hash, size| readable(contents, hash, size))?;
        let counted = shown.hunks.as_ref().filter(|diff| !diff.hunks.is_empty());
        let old_path = change.from.as_ref().unwrap_or(&change.path);
        let found = host.look(old_path, contents);
        let host_changed = !found.is_ok_and(|found| same(found.as_ref(), change.old.as_ref()));
        let flag = |flag: &Flag| FlagReport {
            flag: flag.word.clone(),
            why: flag.why.clone(),
        };
        reports.push(ChangeReport {
            path: escape(&change.path),
            kind: change.kind().word().to_owned(),
            from: change.from.as_ref().map(|from| escape(from)),
            old_bytes: change.old.as_ref().and_then(Entry::size),
            new_bytes: change.new.as_ref().and_then(Entry::size),
            added_lines: counted.map(|diff| diff.added),
            removed_lines: counted.map(|diff| diff.removed),
            hunks: counted.map_or(0, |diff| diff.hunks.len()),
            flags: change.flags.iter().map(flag).collect(),
            host_changed,
        });
    }
    let more = changes.len().saturating_sub(REPORTED);
    let notes = match more {
        0 => Vec::new(),
        more => vec![format!("{more} more changes are not listed")],
    };
    Ok((reports, notes))
}
