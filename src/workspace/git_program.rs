//! The host's git.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The first git in PATH outside the workspace: some users have directories of a project in PATH, and the guest can
/// write there.
pub fn git_program(workspace: &Path) -> Option<PathBuf> {
    first(workspace, &std::env::var_os("PATH")?)
}

fn first(workspace: &Path, path: &OsStr) -> Option<PathBuf> {
    let outside = |program: &PathBuf| {
        let found = program.canonicalize();
        found.is_ok_and(|found| found.is_file() && !found.starts_with(workspace))
    };
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("git"))
        .find(outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_of_the_workspace_is_run() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (workspace, bin) = (root.join("workspace"), root.join("bin"));
        for dir in [&workspace, &bin] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("git"), "").unwrap();
        }
        let linked = root.join("linked");
        std::os::unix::fs::symlink(&workspace, &linked).unwrap();
        let path = |dirs: &[&Path]| std::env::join_paths(dirs).unwrap();
        let found = first(
            &workspace,
            &path(&[".".as_ref(), &workspace, &linked, &bin]),
        );
        assert_eq!(found, Some(bin.join("git")));
        assert_eq!(first(&workspace, &path(&[&linked])), None);
    }
}
