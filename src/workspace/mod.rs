//! `/workspace` of a guest: what it is, which host directories may be shared, where its repository is, what the host can
//! see of it.

mod dir;
mod git_file;
mod git_program;
mod listing;
mod protected;
mod repository;
mod shareable;
mod small_file;

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use dir::SharedDir;
pub use git_file::{LONGEST as LONGEST_GIT_FILE, gitdir, path_by_names};
pub use git_program::git_program;
pub use listing::{Name, Names, Stamp};
pub use protected::{Change, Effects, Protected, Refusals};
#[cfg(test)]
pub(crate) use repository::tests::shell;
pub use repository::{Apart, Git, Repository, Site};
pub use small_file::small_text;

/// How `/workspace` is made, as the configuration has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The host directory itself.
    #[default]
    Mount,
    /// A copy of the host directory, on a disk that survives the machine; changes come back by review.
    Copy,
    /// An empty directory on the sandbox's own disk.
    None,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", |name| name.get_name()))
    }
}

/// What `/workspace` is.
#[derive(Debug, Clone, PartialEq)]
pub enum Workspace {
    /// A directory of the host.
    Mount {
        /// The directory.
        dir: SharedDir,
        /// Where its repository is.
        git: Git,
    },
    /// A copy of a directory of the host.
    Copy {
        /// The directory.
        dir: SharedDir,
        /// Where its repository is.
        git: Git,
    },
    /// An empty directory on the sandbox's own disk.
    None,
}

impl Workspace {
    /// A directory of the host, with its repository, unless that lies outside and may not be shared: the user named at most
    /// the directory. `own`: Snowglobe's own directories.
    pub fn mount(dir: SharedDir, home: Option<&Path>, own: &[&Path]) -> Self {
        let git = repository_of(&dir, Site::Beside, home, own);
        Self::Mount { dir, git }
    }

    /// The same for a copy of a directory.
    pub fn copy(dir: SharedDir, home: Option<&Path>, own: &[&Path]) -> Self {
        let git = repository_of(&dir, Site::Inside, home, own);
        Self::Copy { dir, git }
    }

    /// How it is made.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Mount { .. } => Mode::Mount,
            Self::Copy { .. } => Mode::Copy,
            Self::None => Mode::None,
        }
    }

    /// The directory of the host, if one is shared.
    pub fn shared(&self) -> Option<&SharedDir> {
        match self {
            Self::Mount { dir, .. } => Some(dir),
            Self::Copy { .. } | Self::None => None,
        }
    }

    /// The directory of the host that the workspace is a copy of, if it is one.
    pub fn copied(&self) -> Option<&SharedDir> {
        match self {
            Self::Copy { dir, .. } => Some(dir),
            Self::Mount { .. } | Self::None => None,
        }
    }

    /// The repository outside of the directory that belongs to the copy, if the workspace is one.
    pub fn copied_repository(&self) -> Option<&Repository> {
        match self {
            Self::Copy {
                git: Git::Shared(repository),
                ..
            } => Some(repository),
            _ => None,
        }
    }

    /// The repository that is shared beside the directory, if one is.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Mount {
                git: Git::Shared(repository),
                ..
            } => Some(repository),
            _ => None,
        }
    }

    /// What keeps git from working in the guest as on the host, and what helps.
    pub fn git_trouble(&self) -> Option<String> {
        match self {
            Self::Mount {
                git: Git::Apart(apart),
                ..
            }
            | Self::Copy {
                git: Git::Apart(apart),
                ..
            } => Some(apart.to_string()),
            _ => self
                .repository()
                .or_else(|| self.copied_repository())?
                .trouble(),
        }
    }

    /// Checks that the directory may be shared: only a project's, unless the user `named` it, and in no case one that
    /// contains `own` files or lies within them.
    pub fn check(
        &self,
        named: bool,
        home: Option<&Path>,
        own: &[&Path],
    ) -> Result<(), WorkspaceError> {
        match self {
            Self::Mount { dir, .. } | Self::Copy { dir, .. } => {
                shareable::check(dir.path(), named, home, own)
            }
            Self::None => Ok(()),
        }
    }
}

/// Where the repository of a directory is; outside only if it may be shared, though the user did not name it.
fn repository_of(dir: &SharedDir, site: Site, home: Option<&Path>, own: &[&Path]) -> Git {
    Git::find(dir, site, &|repository| {
        let checked = shareable::check(repository, false, home, own);
        checked.err().map(|error| error.why().to_owned())
    })
}

/// Why a directory must not become the workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// It is no project, and the user did not name it.
    #[error(
        "share {path} with the sandbox: {why}; start in a project's directory, or name it with --workspace"
    )]
    NoProject {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// It contains Snowglobe's own files, or lies within them.
    #[error(
        "share {path} with the sandbox: it and Snowglobe's own files in {own} lie within each other, so the \
         sandbox could change what holds it; start in a project's directory"
    )]
    OwnFiles {
        /// The directory.
        path: PathBuf,
        /// The directory of Snowglobe's own files.
        own: PathBuf,
    },
}

impl WorkspaceError {
    /// What is wrong with the directory.
    fn why(&self) -> &str {
        match self {
            Self::NoProject { why, .. } => why,
            Self::OwnFiles { .. } => "it and Snowglobe's own files lie within each other",
        }
    }
}
