//! Making the changes of a step: what goes, then directories, then files.

use super::entry::{Entry, same};
use super::journal::{ApplyError, Operation, Step};
use super::root::Root;
use crate::copy::Contents;

/// An operation with the bytes of its path, its temporary name, and what the path has.
type Prepared<'a> = (Vec<u8>, &'a Operation, &'a String, Option<&'a Entry>);

/// Checks that each path is as expected, and keeps the contents of both sides; gives exactly what the paths have.
pub fn prepare(
    step: &Step,
    root: &Root<'_>,
    from: &Contents,
) -> Result<Vec<Option<Entry>>, ApplyError> {
    let contents = step.contents();
    let mut found = Vec::new();
    for operation in &step.journal.operations {
        let now = root.look(&operation.bytes(), &contents);
        let now = now.map_err(operation.failed())?;
        if !same(now.as_ref(), operation.old.as_ref()) {
            return Err(ApplyError::Meanwhile(operation.path.clone()));
        }
        if let Some(Entry::File { hash, size, .. }) = &operation.new {
            contents.add(&mut from.open(hash)?, *size)?;
        }
        found.push(now);
    }
    Ok(found)
}

/// Makes the changes of a prepared step.
pub fn make(step: &Step, root: &Root<'_>, found: &[Option<Entry>]) -> Result<(), ApplyError> {
    let contents = step.contents();
    let all = step.operations().zip(found);
    let all: Vec<Prepared<'_>> = all
        .map(|((operation, temporary), found)| {
            (operation.bytes(), operation, temporary, found.as_ref())
        })
        .collect();
    remove(&all, root, &contents)?;
    make_directories(step, &all, root)?;
    let written: Vec<_> = all
        .iter()
        .filter_map(|one| Some((one, one.1.new.as_ref().filter(|new| !new.is_directory())?)))
        .collect();
    for ((path, operation, temporary, _), new) in &written {
        root.stage(path, new, temporary, &contents)
            .map_err(operation.failed())?;
    }
    for ((path, operation, temporary, old), _) in &written {
        let old = old.filter(|_| operation.replaces_file());
        let swapped = root.swap(path, temporary, old, &contents);
        if !swapped.map_err(operation.failed())? {
            return Err(ApplyError::Meanwhile(operation.path.clone()));
        }
    }
    for (path, operation, ..) in &all {
        root.sync(path).map_err(operation.failed())?;
    }
    Ok(())
}

/// Removes what goes, and what something of another kind follows, the deepest first.
fn remove(all: &[Prepared<'_>], root: &Root<'_>, contents: &Contents) -> Result<(), ApplyError> {
    let stays = |operation: &Operation| match &operation.new {
        Some(new) if new.is_directory() => operation.old.as_ref().is_some_and(Entry::is_directory),
        _ => operation.replaces_file(),
    };
    let mut gone: Vec<_> = all
        .iter()
        .filter(|(_, operation, ..)| !stays(operation))
        .collect();
    gone.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, operation, temporary, found) in gone {
        match found {
            None => {}
            Some(old) if old.is_directory() => match root.remove_directory(path) {
                // Files in it that nothing removes are the host's.
                Err(error)
                    if error.kind() == std::io::ErrorKind::DirectoryNotEmpty
                        && operation.new.is_none() => {}
                removed => removed.map_err(operation.failed())?,
            },
            Some(old) => {
                let removed = root.take_away(path, temporary, old, contents);
                if !removed.map_err(operation.failed())? {
                    return Err(ApplyError::Meanwhile(operation.path.clone()));
                }
            }
        }
    }
    Ok(())
}

fn make_directories(step: &Step, all: &[Prepared<'_>], root: &Root<'_>) -> Result<(), ApplyError> {
    let comes_back = step.journal.undoes.is_some();
    let mut made: Vec<_> = all
        .iter()
        .filter(|(.., old)| !old.is_some_and(Entry::is_directory))
        .filter_map(|(path, operation, ..)| match &operation.new {
            Some(Entry::Directory { mode }) => Some((path, operation, *mode)),
            _ => None,
        })
        .collect();
    made.sort_by(|a, b| a.0.cmp(b.0));
    for (path, operation, mode) in made {
        root.make_directory(path, mode, comes_back)
            .map_err(operation.failed())?;
    }
    Ok(())
}
