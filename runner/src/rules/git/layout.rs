//! Where git keeps what it runs.
//!
//! A directory named `.git` is a git directory, and so is any that has `objects` and `refs`, or `HEAD` and `commondir`. Git
//! itself demands more of one. The rules demand less, so that no directory becomes a repository by a file that nobody
//! watches.

use std::io;

use super::super::change::Look;
use super::super::names;

/// The names that make a directory a git directory.
const MARKS: &[&str] = &["objects", "refs", "head", "commondir"];

/// The names in a git directory below which the rules protect something.
const HEADS: &[&str] = &[
    "hooks",
    "config",
    "config.worktree",
    "remotes",
    "branches",
    "rebase-merge",
];

/// Other names at which a moved directory gets another meaning.
const PLACES: &[&str] = &[".git", "worktrees", "modules", "commondir", ".gitconfig"];

/// The contents that decide about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Contents {
    /// Settings.
    Config,
    /// A `.git` file; as a directory it is free.
    GitFile,
    /// `commondir`.
    Common,
    /// The commands of a rebase.
    Todo,
    /// The name of a merge strategy.
    Strategy,
}

/// Whether a directory is a git directory.
pub(in super::super) fn is_git_directory(directory: &[u8], look: &dyn Look) -> io::Result<bool> {
    if names::fold(names::parent(directory).1) == b".git" {
        return Ok(true);
    }
    let has = |name: &[u8]| Ok::<_, io::Error>(look.kind(&names::join(directory, name))?.is_some());
    Ok((has(b"objects")? && has(b"refs")?) || (has(b"HEAD")? && has(b"commondir")?))
}

/// Whether a repository in `directory` would take a git directory's own files for the files of a branch.
pub(in super::super) fn is_inside(directory: &[u8], look: &dyn Look) -> io::Result<bool> {
    if names::fold(names::parent(directory).1) == b".git" {
        return Ok(true);
    }
    for name in [&b"HEAD"[..], b"objects", b"refs"] {
        if look.kind(&names::join(directory, name))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a path is a repository's git directory, or in one.
pub(in super::super) fn is_git(path: &[u8], look: &dyn Look) -> io::Result<bool> {
    let mut at = Vec::new();
    for name in names::split(path) {
        if is_inside(&at, look)? {
            return Ok(true);
        }
        at = names::join(&at, name);
    }
    is_inside(&at, look)
}

/// Whether a symbolic link is one that git makes in a new repository, to see whether it can. Without it git would not
/// check out links there.
pub(in super::super) fn is_trial(path: &[u8], target: &[u8]) -> bool {
    let (_, name) = names::parent(path);
    let random = name.strip_prefix(b"t");
    target == b"testing"
        && random.is_some_and(|it| it.len() == 6 && it.iter().all(u8::is_ascii_alphanumeric))
}

/// Whether a name makes its directory a git directory.
pub(in super::super) fn is_mark(folded: &[u8]) -> bool {
    MARKS.iter().any(|mark| mark.as_bytes() == folded)
}

/// Whether a name in a git directory is one that the rules look at.
pub(in super::super) fn is_head(folded: &[u8]) -> bool {
    HEADS.iter().any(|head| head.as_bytes() == folded)
}

/// Whether a name says nothing to git.
pub(in super::super) fn is_plain(folded: &[u8]) -> bool {
    !is_head(folded)
        && !is_mark(folded)
        && !may_be_hooks(folded)
        && !PLACES.iter().any(|place| place.as_bytes() == folded)
}

/// Whether a directory of this name is worth a look at `core.hooksPath`.
pub(in super::super) fn may_be_hooks(folded: &[u8]) -> bool {
    [&b"hook"[..], b"husky"]
        .iter()
        .any(|part| folded.windows(part.len()).any(|window| window == *part))
}

/// The contents that count at a path whose folded names are `folded`.
pub(in super::super) fn contents(
    path: &[u8],
    folded: &[Vec<u8>],
    look: &dyn Look,
) -> io::Result<Option<Contents>> {
    let Some((last, above)) = folded.split_last() else {
        return Ok(None);
    };
    let (directory, _) = names::parent(path);
    let contents = match last.as_slice() {
        b".git" => Contents::GitFile,
        b".gitconfig" => Contents::Config,
        b"commondir" => Contents::Common,
        b"config" | b"config.worktree" if is_git_directory(directory, look)? => Contents::Config,
        name @ (b"git-rebase-todo" | b"strategy")
            if above.last().is_some_and(|name| name == b"rebase-merge")
                && is_git_directory(names::parent(directory).0, look)? =>
        {
            match name == b"strategy" {
                true => Contents::Strategy,
                false => Contents::Todo,
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(contents))
}
