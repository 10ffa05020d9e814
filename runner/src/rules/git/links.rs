//! The files that lead git to another directory, and those with commands of a rebase.

use std::io;

use super::super::change::{Kind, Look};
use super::super::names;
use super::layout;

/// The largest of these files, in bytes.
pub(in super::super) const LARGEST: usize = 64 << 10;

/// The paths that `target` leads through, seen from `directory`, up to the one that it means; nothing if it leads out of
/// the shared directory. Symbolic links are not looked at.
fn steps(directory: &[u8], target: &[u8], look: &dyn Look) -> Option<Vec<Vec<u8>>> {
    if target.contains(&0) || target.is_empty() {
        return None;
    }
    let (first, rest) = match target.starts_with(b"/") {
        true => look.outside().inside(target)?,
        false => (directory, target),
    };
    let mut steps = vec![first.to_vec()];
    for name in names::split(rest) {
        let at = steps.last()?;
        let next = match name {
            b"." => continue,
            b".." if at.is_empty() => return None,
            b".." => names::parent(at).0.to_vec(),
            _ => names::join(at, name),
        };
        steps.push(next);
    }
    Some(steps)
}

/// The path that `target` means by its names, seen from `directory`.
pub(in super::super) fn by_names(
    directory: &[u8],
    target: &[u8],
    look: &dyn Look,
) -> Option<Vec<u8>> {
    steps(directory, target, look)?.pop()
}

/// The path that `target` means, seen from `directory`; nothing if that is outside the shared directory or leads through
/// a symbolic link.
pub(in super::super) fn resolve(
    directory: &[u8],
    target: &[u8],
    look: &dyn Look,
) -> io::Result<Option<Vec<u8>>> {
    let Some(mut steps) = steps(directory, target, look) else {
        return Ok(None);
    };
    for step in steps.iter().skip(1).filter(|step| !step.is_empty()) {
        if look.kind(step)? == Some(Kind::Symlink) {
            return Ok(None);
        }
    }
    Ok(steps.pop())
}

/// The git directory that a `.git` file in `directory` leads to; nothing if the file is no such file, or leads outside.
pub(in super::super) fn git_file(
    directory: &[u8],
    text: &[u8],
    look: &dyn Look,
) -> io::Result<Option<Vec<u8>>> {
    match text.strip_prefix(b"gitdir: ") {
        Some(target) => resolve(directory, target.trim_ascii_end(), look),
        None => Ok(None),
    }
}

/// What is wrong with a `.git` file.
pub(in super::super) fn git_file_fault(
    path: &[u8],
    text: &[u8],
    look: &dyn Look,
) -> io::Result<Option<&'static str>> {
    if text.is_empty() {
        return Ok(None);
    }
    let leads = git_file(names::parent(path).0, text, look)?;
    Ok(leads
        .is_none()
        .then_some("it leads to no repository of the shared directory"))
}

/// What is wrong with a `commondir` file. The only one that git writes is that of a worktree's directory, and names the
/// repository of the worktree.
pub(in super::super) fn common_fault(
    path: &[u8],
    text: &[u8],
    look: &dyn Look,
) -> io::Result<Option<&'static str>> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.trim_ascii_end() != b"../.." {
        return Ok(Some("it leads to another repository"));
    }
    let worktrees = names::parent(names::parent(path).0).0;
    let repository = names::parent(worktrees).0;
    let of_worktree = names::fold(names::parent(worktrees).1) == b"worktrees"
        && layout::is_git_directory(repository, look)?;
    Ok((!of_worktree).then_some("it makes another directory a repository"))
}

/// The commands of a rebase's list that git hands to a shell.
pub(in super::super) fn todo_commands(text: &[u8]) -> Vec<String> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
        .filter(|line| {
            let word = line.split(u8::is_ascii_whitespace).next().unwrap_or(line);
            line.contains(&0)
                || word.eq_ignore_ascii_case(b"exec")
                || word.eq_ignore_ascii_case(b"x")
        })
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}
