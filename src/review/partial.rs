//! Changes of which only some hunks are taken.

use std::collections::BTreeSet;

use super::changes::Change;
use super::diff::{self, TextDiff};
use super::entry::{Entry, MODE};
use crate::copy::{Contents, CopyError};

/// What a path has with some hunks of a change, counted from 1: with all of them what the guest has, with none what the copy
/// began with. Otherwise it is the old text with these hunks; the right to execute is in no hunk, so the file that is
/// written has the mode of `kept`, which it has already.
pub fn with_hunks(
    change: &Change,
    hunks: &BTreeSet<usize>,
    kept: Option<&Entry>,
    contents: &Contents,
) -> Result<Option<Entry>, CopyError> {
    let old = text(change.old.as_ref(), contents)?.unwrap_or_default();
    let new = text(change.new.as_ref(), contents)?.unwrap_or_default();
    let diff = TextDiff::of(&old, &new);
    if hunks.is_empty() {
        return Ok(change.old.clone());
    }
    if hunks.len() == diff.hunks.len() {
        return Ok(change.new.clone());
    }
    let mode = match kept {
        Some(Entry::File { mode, .. }) => *mode & MODE,
        _ => 0o644,
    };
    file(&diff.with(&old, hunks), mode, contents).map(Some)
}

/// The content of an entry that is text; of no entry it is empty.
pub fn text(entry: Option<&Entry>, contents: &Contents) -> Result<Option<Vec<u8>>, CopyError> {
    let Some(Entry::File { hash, size, .. }) = entry else {
        return Ok(entry.is_none().then(Vec::new));
    };
    if *size > diff::LONGEST {
        return Ok(None);
    }
    let bytes = contents.read(hash)?;
    Ok(diff::is_text(&bytes).then_some(bytes))
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
