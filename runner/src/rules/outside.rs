//! What the rules know of the world outside of the tree.
//!
//! A share that is a repository's directory is `.git` to the rules, whatever its name is: so they judge it as if it were
//! inside the workspace. There is nothing else in its tree.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Share;
use snowglobe_init::wire::share::WORKSPACE;

use super::names;

/// The place of a repository's directory in the tree.
const REPOSITORY: &[u8] = b".git";

/// The place of the tree, and the directories in it that a repository outside names.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// The path of the shared directory in the tree.
    root: &'static [u8],
    /// The absolute paths of the shared directory, on the host and in the guest: git writes either to the files of a worktree.
    absolute: Vec<Vec<u8>>,
    /// Paths in the tree where a repository outside has its hooks.
    hooks: Vec<Vec<u8>>,
}

impl Outside {
    /// What is around a share.
    pub fn of(share: &Share) -> Self {
        let directory = Self::of_directory(&share.path, &share.hooks);
        match share.repository {
            Some(_) => Self {
                root: REPOSITORY,
                absolute: vec![share.path.as_os_str().as_bytes().to_vec()],
                ..directory
            },
            None => directory,
        }
    }

    /// What is around a directory of the host that holds files of any kind; `hooks` as in [`Share::hooks`].
    pub fn of_directory(host: &Path, hooks: &[String]) -> Self {
        Self {
            root: b"",
            absolute: vec![WORKSPACE.into(), host.as_os_str().as_bytes().to_vec()],
            hooks: hooks.iter().map(|path| path.clone().into()).collect(),
        }
    }

    /// The path in the tree of what is at a path in the shared directory.
    pub fn in_tree(&self, path: &[u8]) -> Vec<u8> {
        match path.is_empty() {
            true => self.root.to_vec(),
            false => names::join(self.root, path),
        }
    }

    /// The path in the shared directory of what is at a path in the tree; nothing if it is not there.
    pub fn in_share<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        names::below(path, self.root)
    }

    /// The path in the tree that an absolute path means by its names, before its last components; and these.
    pub(super) fn inside<'a>(&self, absolute: &'a [u8]) -> Option<(&'static [u8], &'a [u8])> {
        let mut rests = self.absolute.iter();
        let rest = rests.find_map(|root| names::below(absolute, root))?;
        Some((self.root, rest))
    }

    /// Paths in the tree where a repository outside has its hooks.
    pub(super) fn hooks(&self) -> &[Vec<u8>] {
        &self.hooks
    }
}

#[cfg(test)]
impl Outside {
    /// A workspace, in which a repository outside has hooks.
    pub(super) fn of_workspace(hooks: &[&str]) -> Self {
        let hooks: Vec<String> = hooks.iter().map(|path| (*path).to_owned()).collect();
        Self::of_directory(Path::new("/host/project"), &hooks)
    }

    /// A repository's directory.
    pub(super) fn of_repository() -> Self {
        Self {
            root: REPOSITORY,
            absolute: vec![b"/host/repository".to_vec()],
            hooks: Vec::new(),
        }
    }
}
