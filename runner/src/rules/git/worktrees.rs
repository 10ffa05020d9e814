//! The directories that `core.worktree` names: those of submodules.
//!
//! Git writes a branch's files there, through any symbolic link. The setting is checked when it is made, so no link may
//! take the directory's place later. That can be seen only where the settings are found again: below `.git/modules` of a
//! directory above. Elsewhere the setting is refused.

use std::io;

use crate::git_config as config;

use super::super::change::{Kind, Look};
use super::super::names;
use super::{layout, links};

/// The most files and directories that are looked at.
const ENTRIES: usize = 10_000;

/// The deepest directory whose submodules are looked at.
const DEEPEST: usize = 64;

/// Directories of a repository that hold no other repository of git's own making.
const LEAVES: &[&[u8]] = &[b"objects", b"refs", b"logs", b"hooks", b"info", b"lfs"];

/// Whether git may write a branch's files to `value`, as the settings in `directory` say: a directory of the
/// superproject that is no git directory.
pub(in super::super) fn is_allowed(
    directory: &[u8],
    value: &[u8],
    look: &dyn Look,
) -> io::Result<bool> {
    let Some(project) = project(directory) else {
        return Ok(false);
    };
    if value.starts_with(b"/") {
        return Ok(false);
    }
    let Some(worktree) = links::resolve(directory, value, look)? else {
        return Ok(false);
    };
    if names::below(&worktree, &project).is_none() {
        return Ok(false);
    }
    let mut above = Vec::new();
    for name in names::split(&worktree) {
        above = names::join(&above, name);
        if layout::is_git_directory(&above, look)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The directory of the project whose submodule has its git directory here; nothing if it is none that [`linked`] finds.
fn project(directory: &[u8]) -> Option<Vec<u8>> {
    let all = names::split(directory);
    let at = all
        .windows(2)
        .position(|two| two[0] == b".git" && two[1] == b"modules")?;
    // A git directory in one of these would not be found again.
    let hidden = all[at + 2..]
        .iter()
        .any(|name| LEAVES.contains(&names::fold(name).as_slice()));
    (!hidden).then(|| all[..at].join(&b'/'))
}

/// A directory of a submodule to which a symbolic link leads `after` a change to `path`; an error if there are too many to
/// look at.
pub(in super::super) fn linked(path: &[u8], after: &dyn Look) -> io::Result<Option<Vec<u8>>> {
    let mut directory = Vec::new();
    let mut left = ENTRIES;
    for name in names::split(path).into_iter().take(DEEPEST) {
        let modules = names::join(&directory, b".git/modules");
        let mut open = vec![modules];
        while let Some(inner) = open.pop() {
            if after.kind(&inner)? != Some(Kind::Directory) {
                continue;
            }
            if let Some(worktree) = linked_by(&inner, after)? {
                return Ok(Some(worktree));
            }
            let names = after.list(&inner, left)?;
            left = left
                .checked_sub(names.len())
                .ok_or_else(|| io::Error::other("there are too many submodules"))?;
            let inner = |name: Vec<u8>| names::join(&inner, &name);
            open.extend(
                names
                    .into_iter()
                    .filter(|name| !LEAVES.contains(&name.as_slice()))
                    .map(inner),
            );
        }
        directory = names::join(&directory, name);
    }
    Ok(None)
}

/// The directory that the settings in a git directory name, if a link leads there.
fn linked_by(directory: &[u8], look: &dyn Look) -> io::Result<Option<Vec<u8>>> {
    let file = names::join(directory, b"config");
    let Some(text) = look.read(&file, config::LARGEST + 1)? else {
        return Ok(None);
    };
    let settings = config::parse(&text).map_err(io::Error::other)?;
    let values = settings
        .into_iter()
        .filter(|it| it.section == "core" && it.name == "worktree")
        .filter_map(|it| it.value);
    for value in values {
        if let Some(worktree) = links::by_names(directory, &value, look)
            && links::resolve(directory, &value, look)?.is_none()
        {
            return Ok(Some(worktree));
        }
    }
    Ok(None)
}
