//! The git directory of a worktree or a submodule, as a copy has it.
//!
//! On the host it lies elsewhere, and a file `.git` leads there. A copy has a directory `.git` instead, complete in itself:
//! what git shares among worktrees comes from the repository's directory, the rest from the worktree's own one. What git
//! has of other worktrees is left out. In three kinds of files the copy has other text than the host, since they name
//! paths or were written for another worktree: the settings, those of submodules, and the `.git` files of submodules.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use snowglobe_runner::git_config::{self, Setting};

use super::error::{CopyError, io_error};
use super::listed::{GIT, below};
use crate::presence;
use crate::workspace::{LONGEST_GIT_FILE, Repository, gitdir, path_by_names, small_text};

/// The names that all worktrees share, as git has it (`common_list` in its `path.c`), and that of git LFS.
const SHARED: [&str; 16] = [
    "branches",
    "common",
    "config",
    "description",
    "hooks",
    "info",
    "lfs",
    "logs",
    "lost-found",
    "objects",
    "packed-refs",
    "refs",
    "remotes",
    "rr-cache",
    "shallow",
    "svn",
];

/// The paths below these names that each worktree has on its own.
const OWN: [&str; 8] = [
    "info/sparse-checkout",
    "logs/HEAD",
    "logs/refs/bisect",
    "logs/refs/rewritten",
    "logs/refs/worktree",
    "refs/bisect",
    "refs/rewritten",
    "refs/worktree",
];

/// What says where a worktree and its repository are.
const LEADS: [&str; 3] = ["commondir", "gitdir", "locked"];

/// The git directory of a copied worktree or submodule, on the host.
#[derive(Debug)]
pub(super) struct GitDir {
    workspace: PathBuf,
    common: PathBuf,
    /// The worktree's own directory; the same as `common` in a main worktree.
    own: PathBuf,
}

impl GitDir {
    pub(super) fn of(repository: &Repository, workspace: &Path) -> Self {
        Self {
            workspace: workspace.to_owned(),
            common: repository.dir.path().to_owned(),
            own: repository.git_dir(),
        }
    }

    /// What belongs to it: paths in the copy, each with its path on the host, and directories before what is in them. A
    /// path that comes twice means the first one. Blocks.
    pub(super) fn files(&self) -> Result<Vec<(Vec<u8>, PathBuf)>, CopyError> {
        let mut found = vec![(GIT.to_vec(), self.own.clone())];
        if self.own == self.common {
            let belongs = |path: &[u8], _: bool| path != b"worktrees";
            walk(&self.common, b"", &belongs, &mut found)?;
            return Ok(found);
        }
        walk(&self.common, b"", &|path, _| is_shared(path), &mut found)?;
        let is_own = |path: &[u8], is_dir: bool| {
            let leads = LEADS.iter().any(|lead| path == lead.as_bytes());
            !leads && (is_dir || !is_shared(path))
        };
        walk(&self.own, b"", &is_own, &mut found)?;
        Ok(found)
    }

    /// The text that the copy has of a file of git's instead of the host's; none if it has the same. Blocks.
    pub(super) fn text(&self, path: &[u8], on_host: &Path) -> Result<Option<Vec<u8>>, CopyError> {
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let read = |at_most| small_text(on_host, at_most).map_err(io_error("read", on_host));
        match name {
            b"config" | b"config.worktree" if is_git_dir(dir, on_host) => {
                let text = read(git_config::LARGEST)?;
                Ok(text.and_then(|text| self.settings(dir, on_host, text)))
            }
            GIT => Ok(read(LONGEST_GIT_FILE)?.and_then(|text| self.lead(dir, &text))),
            _ => Ok(None),
        }
    }

    /// The settings of the git directory at a path of the copy.
    fn settings(&self, dir: &[u8], on_host: &Path, mut text: Vec<u8>) -> Option<Vec<u8>> {
        // What git itself can't read stays as it is.
        let settings = git_config::parse(&text).ok()?;
        let value = |name: &str| {
            let mut all = settings.iter();
            all.rfind(|it| is_core(it, name)).map(|it| &it.value)
        };
        let mut more = Vec::new();
        let is_main = dir == GIT;
        // For a linked worktree git takes neither from the shared settings.
        if is_main && value("bare").is_some_and(|value| is_true(value.as_deref())) {
            more.extend(b"\tbare = false\n");
        }
        if let Some(worktree) = value("worktree") {
            let worktree = match is_main {
                true => Vec::new(),
                false => {
                    let named = path_by_names(on_host.parent()?, worktree.as_deref()?)?;
                    let inside = named.strip_prefix(&self.workspace).ok()?;
                    [b"/", inside.as_os_str().as_bytes()].concat()
                }
            };
            more.extend(b"\tworktree = \"");
            more.extend(up(dir));
            for byte in worktree {
                if matches!(byte, b'"' | b'\\') {
                    more.push(b'\\');
                }
                more.push(byte);
            }
            more.extend(b"\"\n");
        }
        if more.is_empty() {
            return None;
        }
        // The last line may lack its end, or be continued.
        text.extend(b"\n\n[core]\n");
        text.extend(more);
        Some(text)
    }

    /// The `.git` file of a directory of the copy, if the host's leads into the worktree's git directory.
    fn lead(&self, dir: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let host = self.workspace.join(std::ffi::OsStr::from_bytes(dir));
        let led = gitdir(&host, text)?;
        let rest = led.strip_prefix(&self.own).ok()?;
        let rest = rest.as_os_str().as_bytes();
        Some([b"gitdir: ", &*up(dir), b"/", GIT, b"/", rest, b"\n"].concat())
    }
}

/// Whether a worktree has a path of its git directory from the directory that all worktrees share. Pure.
fn is_shared(path: &[u8]) -> bool {
    let within = |dir: &str| {
        let rest = path.strip_prefix(dir.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    SHARED.iter().any(|dir| within(dir)) && !OWN.iter().any(|dir| within(dir))
}

/// Whether the file of settings at this path of the host is that of a git directory: the copy's own, or a submodule's.
fn is_git_dir(dir: &[u8], on_host: &Path) -> bool {
    dir == GIT || on_host.with_file_name("HEAD").symlink_metadata().is_ok()
}

fn is_core(setting: &Setting, name: &str) -> bool {
    setting.section == "core" && setting.subsection.is_empty() && setting.name == name
}

fn is_true(value: Option<&[u8]>) -> bool {
    let value = value.map(<[u8]>::to_ascii_lowercase);
    matches!(
        value.as_deref(),
        None | Some(b"true" | b"yes" | b"on" | b"1")
    )
}

/// The way from a directory of the copy to its root, such as `../..`. Pure.
fn up(dir: &[u8]) -> Vec<u8> {
    let names = dir
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty());
    let up: Vec<&[u8]> = names.map(|_| &b".."[..]).collect();
    up.join(&b'/')
}

/// Adds what a directory of git's contains, as far as it `belongs` there, by its path and whether it is a directory.
fn walk(
    dir: &Path,
    path: &[u8],
    belongs: &dyn Fn(&[u8], bool) -> bool,
    found: &mut Vec<(Vec<u8>, PathBuf)>,
) -> Result<(), CopyError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if presence::is_no_path(&error) => return Ok(()),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io_error("list", dir))?;
        let is_dir = match entry.file_type() {
            Ok(kind) => kind.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("look at", &entry.path())(error)),
        };
        let name = entry.file_name().into_vec();
        // Git makes a lock for each change, and removes it again.
        if name.ends_with(b".lock") {
            continue;
        }
        let path = below(path, &name);
        if !belongs(&path, is_dir) {
            continue;
        }
        found.push((below(GIT, &path), entry.path()));
        if is_dir {
            walk(&entry.path(), &path, belongs, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
