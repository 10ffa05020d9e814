//! What in a repository's directory belongs to other worktrees than the guest's own.
//!
//! Git in one worktree changes branches, objects and settings, which all worktrees share. What it keeps of each worktree,
//! such as its index, it changes only in that worktree; but where it can't see the directory of a worktree, it takes that
//! for removed and prunes what it kept. `gitdir` and `commondir` lead to a worktree and back, so they stay as they are
//! also for the own one.

use crate::Repository;

use super::super::names;

/// The rule of other worktrees.
pub(in super::super) const RULE: &str = "git-other-worktrees";

/// The directory of a repository that has a directory for each linked worktree.
const WORKTREES: &[u8] = b"worktrees";

/// The files in such a directory that name the worktree, and lead back to the repository.
const LEADS: &[&[u8]] = &[b"gitdir", b"commondir"];

/// What git keeps of the main worktree in the repository's directory itself; the git directories of its submodules, too.
const MAIN: &[&[u8]] = &[
    b"auto_merge",
    b"commit_editmsg",
    b"config.worktree",
    b"head",
    b"index",
    b"modules",
    b"sequencer",
];

/// Beginnings and ends of more such names.
const MAIN_BEGINS: &[&[u8]] = &[b"bisect_", b"merge_", b"rebase-"];
const MAIN_ENDS: &[&[u8]] = &[b"_head"];

/// The same below directories that all worktrees share.
const MAIN_BELOW: &[(&[u8], &[&[u8]])] = &[
    (b"info", &[b"sparse-checkout"]),
    (b"logs", &[b"head"]),
    (b"refs", &[b"bisect", b"rewritten", b"worktree"]),
];

/// What a path is to the other worktrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Part {
    /// It is theirs, or leads to one of them.
    Whole,
    /// A directory that holds something of theirs.
    Around,
}

/// What a path in the tree is, whose folded names are `folded`; nothing if the guest's git may change it.
pub(in super::super) fn part(
    path: &[u8],
    folded: &[Vec<u8>],
    repository: &Repository,
) -> Option<Part> {
    let folded: Vec<&[u8]> = folded.iter().skip(1).map(Vec::as_slice).collect();
    let own = repository.worktree.as_deref().map(str::as_bytes);
    match folded[..] {
        [WORKTREES] => Some(Part::Whole),
        [WORKTREES, _, ref below @ ..] => {
            // By its very name: a file system that ignores case has one spelling of it in use.
            let is_own = own.is_some() && names::split(path).get(2).copied() == own;
            let free = match below {
                [] => false,
                [first, ..] => is_own && !LEADS.contains(first),
            };
            (!free).then_some(Part::Whole)
        }
        [first, ref below @ ..] if own.is_some() => of_main(first, below),
        _ => None,
    }
}

/// What a path in the repository's directory is to the main worktree.
fn of_main(first: &[u8], below: &[&[u8]]) -> Option<Part> {
    let name = without_lock(first);
    let is_main = MAIN.contains(&name)
        || MAIN_BEGINS.iter().any(|begin| name.starts_with(begin))
        || MAIN_ENDS.iter().any(|end| name.ends_with(end));
    if is_main {
        return Some(Part::Whole);
    }
    let (_, names) = MAIN_BELOW.iter().find(|(above, _)| *above == first)?;
    match below {
        [] => Some(Part::Around),
        [second, ..] => names.contains(&without_lock(second)).then_some(Part::Whole),
    }
}

/// The name of the file that a lock stands for: git writes the file's new contents to it.
fn without_lock(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".lock").unwrap_or(name)
}
