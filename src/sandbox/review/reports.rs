//! Changes as other programs get them.

use std::io;

use snowglobe_init::wire::tree::escape;

use super::super::SandboxError;
use super::compare::{Compared, readable};
use crate::copy::{Began, Contents};
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
    compared: &Compared,
    root: &SharedDir,
    contents: &Contents,
) -> Result<(Vec<ChangeReport>, Vec<String>), SandboxError> {
    let (host, changes) = (Root::new(root.dir()), &compared.changes);
    let mut reports = Vec::new();
    for change in changes.iter().take(REPORTED) {
        let shown = shown(change, &mut |hash, size| readable(contents, hash, size))?;
        let counted = shown.hunks.as_ref().filter(|diff| !diff.hunks.is_empty());
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
            // What can't be read may have changed.
            host_changed: !is_as_began(change, &compared.began, &host, contents)
                .unwrap_or_default(),
        });
    }
    let more = changes.len().saturating_sub(REPORTED);
    let notes = match more {
        0 => Vec::new(),
        more => vec![format!("{more} more changes are not listed")],
    };
    Ok((reports, notes))
}

/// Whether the host has what the copy began with. Of a file that was not read its state tells.
fn is_as_began(
    change: &Change,
    began: &Began,
    host: &Root<'_>,
    contents: &Contents,
) -> io::Result<bool> {
    let (path, old) = (change.from.as_ref().unwrap_or(&change.path), &change.old);
    if !host.may_have(path, old.as_ref())? {
        return Ok(false);
    }
    if old.as_ref().is_some_and(Entry::is_unread) {
        let stamp = began.get(path).and_then(|known| known.host);
        return Ok(stamp.is_some() && host.stamp(path)? == stamp);
    }
    Ok(same(host.look(path, contents)?.as_ref(), old.as_ref()))
}
