//! The paths that git's small files name. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use snowglobe_init::wire::share::WORKSPACE;

/// The longest of git's small files, in bytes.
pub const LONGEST: usize = 64 << 10;

/// The directory that the text of a `.git` file in a directory names. Pure.
pub fn gitdir(dir: &Path, text: &[u8]) -> Option<PathBuf> {
    let name = text.strip_prefix(b"gitdir: ").map(without_line_end)?;
    path_by_names(dir, name)
}

/// The path that a name means by its components, seen from a directory; nothing if it can't be one. Pure.
pub fn path_by_names(directory: &Path, name: &[u8]) -> Option<PathBuf> {
    if name.is_empty() || name.len() > LONGEST || name.iter().any(|byte| matches!(byte, 0 | b'\n'))
    {
        return None;
    }
    let mut path = PathBuf::from("/");
    for part in directory.join(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    Some(path)
}

pub(super) fn without_line_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r'));
    &text[..end.map_or(0, |last| last + 1)]
}

/// Why a place can't be shared at its own path in the guest. Pure.
pub(super) fn place_fault(common: &Path, workspace: &Path) -> Option<String> {
    if workspace.starts_with(common) {
        let why = "it holds the workspace itself; a repository beside its worktrees can be shared";
        return Some(why.to_owned());
    }
    let taken = common.starts_with(WORKSPACE)
        || (workspace.starts_with(WORKSPACE) && workspace != Path::new(WORKSPACE));
    taken.then(|| {
        format!(
            "in the sandbox, {WORKSPACE} is the workspace, so nothing else can be there; move it"
        )
    })
}

/// Why a repository can't be copied into a copy of the workspace. Pure.
pub(super) fn inside_fault(common: &Path, is_linked: bool, workspace: &Path) -> Option<String> {
    let holds = !is_linked && workspace.starts_with(common);
    holds.then(|| "it holds the workspace itself".to_owned())
}
