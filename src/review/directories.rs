//! The directories that operations need, and those that they leave empty.

use std::collections::BTreeSet;
use std::io;

use snowglobe_init::wire::tree::escape;

use super::entry::{Entry, new_mode};
use super::journal::{ApplyError, Operation};
use super::root::{Root, above};
use crate::copy::Contents;

/// Operations that make the missing directories of these operations.
pub fn with_directories(
    root: &Root<'_>,
    operations: Vec<Operation>,
    contents: &Contents,
) -> Result<Vec<Operation>, ApplyError> {
    let planned: BTreeSet<Vec<u8>> = operations.iter().map(|one| one.bytes()).collect();
    let mut missing = BTreeSet::new();
    for operation in operations.iter().filter(|one| one.new.is_some()) {
        let path = operation.bytes();
        for dir in above(&path) {
            if !planned.contains(dir) && !missing.contains(dir) {
                let found = root.look(dir, contents).map_err(operation.failed())?;
                if found.is_none() {
                    missing.insert(dir.to_vec());
                }
            }
        }
    }
    let made = missing.into_iter().map(|path| Operation {
        path: escape(&path),
        old: None,
        new: Some(Entry::Directory {
            mode: new_mode(root.umask(), true),
        }),
    });
    Ok(made.chain(operations).collect())
}

/// The directories that these operations leave empty, of those that the guest does not have any more; the deepest first.
pub fn emptied(
    root: &Root<'_>,
    gone: &BTreeSet<Vec<u8>>,
    operations: &[Operation],
    contents: &Contents,
) -> Vec<Operation> {
    let paths = |which: &dyn Fn(&Operation) -> bool| -> BTreeSet<Vec<u8>> {
        let which = operations.iter().filter(|one| which(one));
        which.map(Operation::bytes).collect()
    };
    let mut removed = paths(&|one| one.new.is_none());
    let replaced = paths(&Operation::replaces_directory);
    let mut emptied = Vec::new();
    for dir in gone.iter().rev() {
        if removed.contains(dir) {
            continue;
        }
        let Ok(Some(entry @ Entry::Directory { .. })) = root.look(dir, contents) else {
            continue;
        };
        let below = [dir.as_slice(), b"/"].concat();
        let first_below = removed.range(below.clone()..).next();
        let is_touched = first_below.is_some_and(|path| path.starts_with(&below))
            || above(dir).any(|dir| replaced.contains(dir));
        if is_touched && is_emptied(root, dir, &removed).unwrap_or(false) {
            emptied.push(Operation {
                path: escape(dir),
                old: Some(entry),
                new: None,
            });
            removed.insert(dir.clone());
        }
    }
    emptied
}

/// Whether all names in a directory are removed. Files that nothing removes stay, and so does their directory.
pub fn is_emptied(root: &Root<'_>, dir: &[u8], removed: &BTreeSet<Vec<u8>>) -> io::Result<bool> {
    let names = root.list(dir)?;
    let is_removed = |name: &Vec<u8>| removed.contains(&[dir, b"/", name].concat());
    Ok(names.iter().all(is_removed))
}
