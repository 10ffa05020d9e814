//! Taking a step back that was interrupted or failed: each path gets its old state again, unless another program has
//! changed it.
//!
//! Only what a path or a temporary name has is known, so each state that a killed process leaves is told by that:
//!
//! | the path has | the temporary name has | what is done |
//! | --- | --- | --- |
//! | the new state | nothing, or what the step knows | the old state comes back |
//! | the old or the new state, or nothing | another content | a file of another program was moved away: it gets its name back |
//! | anything else | anything | another program changed the path: it is left, and named |
//!
//! What can't be read is neither: then the step stays, and is taken back later.

use std::io;

use snowglobe_init::wire::tree::escape;

use super::entry::{Entry, same};
use super::journal::{ApplyError, Operation, Step};
use super::root::{Root, beside, is_in_the_way, part};
use crate::copy::Contents;

/// What taking back found: paths that have neither their old nor their new state, and were left alone.
pub type Strangers = Vec<String>;

/// An old state that comes back.
struct Coming<'a> {
    path: Vec<u8>,
    operation: &'a Operation,
    temporary: String,
    /// The file that it takes the place of.
    replaces: Option<Entry>,
}

/// The temporary name of a file that comes back.
fn back(temporary: &str) -> String {
    format!("{temporary}.back")
}

/// Gives each path its old state again, unless it has a state that the step did not make.
pub fn take_back(step: &Step, root: &Root<'_>) -> Result<Strangers, ApplyError> {
    let contents = step.contents();
    let mut strangers = Vec::new();
    for (operation, temporary) in step.operations() {
        for temporary in [temporary.clone(), back(temporary)] {
            let found = clear(root, operation, &temporary, &contents);
            strangers.extend(found.map_err(operation.stuck())?);
        }
    }
    // What was made goes, the deepest first; then what was there comes back, the highest first.
    let mut made: Vec<_> = step.operations().collect();
    made.sort_by_key(|(operation, _)| std::cmp::Reverse(operation.bytes()));
    let mut coming = Vec::new();
    for (operation, temporary) in made {
        match unmake(root, operation, &back(temporary), &contents).map_err(operation.stuck())? {
            Unmade::Stranger => strangers.push(operation.path.clone()),
            Unmade::AsBefore => {}
            Unmade::Ready(replaces) => coming.push(Coming {
                path: operation.bytes(),
                operation,
                temporary: back(temporary),
                replaces,
            }),
        }
    }
    coming.sort_by(|a, b| a.path.cmp(&b.path));
    for one in coming {
        let stuck = one.operation.stuck();
        match restore(root, &one, &contents) {
            Ok(true) => {}
            Ok(false) => {
                strangers.push(one.operation.path.clone());
                let left = clear(root, one.operation, &one.temporary, &contents);
                strangers.extend(left.map_err(stuck)?);
            }
            // Another program has removed or replaced its directory.
            Err(error) if is_in_the_way(&error) => strangers.push(one.operation.path.clone()),
            Err(error) => return Err(stuck(error)),
        }
    }
    strangers.sort();
    strangers.dedup();
    Ok(strangers)
}

/// Clears a temporary name of an operation. A file of another program that was moved there gets its name back; if that is
/// taken, the file stays where it is, and its path is given.
fn clear(
    root: &Root<'_>,
    operation: &Operation,
    temporary: &str,
    contents: &Contents,
) -> io::Result<Option<String>> {
    let path = operation.bytes();
    root.unstage(&path, &part(temporary))?;
    let beside = beside(&path, temporary);
    let is_known = |entry: &Entry| {
        let sides = [&operation.old, &operation.new];
        sides.into_iter().flatten().any(|side| side.is_like(entry))
    };
    let look = |path: &[u8]| match root.look(path, contents) {
        Err(error) if is_in_the_way(&error) => Ok(Found::Other),
        found => Ok::<_, io::Error>(match found? {
            None => Found::Nothing,
            Some(entry) if is_known(&entry) => Found::Known,
            Some(_) => Found::Other,
        }),
    };
    if look(&beside)? == Found::Other {
        let put_back = match look(&path)? {
            Found::Nothing => root.put_back(&path, temporary, false),
            Found::Known => root.put_back(&path, temporary, true),
            Found::Other => Ok(false),
        };
        match put_back {
            Ok(true) => {}
            // Its directory is no directory any more, so nothing is there.
            Err(error) if is_in_the_way(&error) => return Ok(None),
            left => return left.map(|_| Some(escape(&beside))),
        }
    }
    if look(&beside)? == Found::Known {
        root.unstage(&path, temporary)?;
    }
    Ok(None)
}

/// What a path or a temporary name has, to a step.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The old or the new state.
    Known,
    /// What the step did not make.
    Other,
}

/// What became of a path whose new state goes.
enum Unmade {
    /// It has what it had before the step.
    AsBefore,
    /// It has what the step did not make.
    Stranger,
    /// Its old state can come back, in place of this file or of nothing.
    Ready(Option<Entry>),
}

fn unmake(
    root: &Root<'_>,
    operation: &Operation,
    temporary: &str,
    contents: &Contents,
) -> io::Result<Unmade> {
    let path = operation.bytes();
    let now = match root.look(&path, contents) {
        Err(error) if is_in_the_way(&error) => return Ok(Unmade::Stranger),
        found => found?,
    };
    if same(now.as_ref(), operation.old.as_ref()) {
        return Ok(Unmade::AsBefore);
    }
    let Some(now) = now else {
        // One file takes another's place at once, so it was another program that removed it.
        return Ok(match operation.replaces_file() {
            true => Unmade::Stranger,
            false => Unmade::Ready(None),
        });
    };
    if !same(Some(&now), operation.new.as_ref()) {
        return Ok(Unmade::Stranger);
    }
    if operation.replaces_file() {
        return Ok(Unmade::Ready(Some(now)));
    }
    let is_gone = match now.is_directory() {
        true => match root.remove_directory(&path) {
            // Another program has put a file there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => false,
            removed => removed.map(|()| true)?,
        },
        false => root.take_away(&path, temporary, &now, contents)?,
    };
    Ok(match (is_gone, &operation.old) {
        (false, _) => Unmade::Stranger,
        (true, None) => Unmade::AsBefore,
        (true, Some(_)) => Unmade::Ready(None),
    })
}

/// Gives a path its old state; false: another program has changed it meanwhile.
fn restore(root: &Root<'_>, one: &Coming<'_>, contents: &Contents) -> io::Result<bool> {
    let restored = match &one.operation.old {
        None => true,
        Some(Entry::Directory { mode }) => {
            root.make_directory(&one.path, *mode, true)?;
            true
        }
        Some(entry) => {
            root.stage(&one.path, entry, &one.temporary, contents)?;
            let replaces = one.replaces.as_ref();
            root.swap(&one.path, &one.temporary, replaces, contents)?
        }
    };
    root.sync(&one.path)?;
    Ok(restored)
}
