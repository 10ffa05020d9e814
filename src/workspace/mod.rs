//! `/workspace` of a guest: what it is, which host directories may be shared, what the host can see of it.

mod dir;
mod listing;
mod protected;
mod shareable;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use dir::SharedDir;
pub use listing::{Name, Names, Stamp};
pub use protected::{Change, Effects, Protected, Refusals, RefusedChange};

/// How `/workspace` is made, as the configuration has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The host directory itself.
    #[default]
    Mount,
    /// An empty directory on the sandbox's own disk.
    None,
}

/// What `/workspace` is.
#[derive(Debug, Clone, PartialEq)]
pub enum Workspace {
    /// A directory of the host.
    Mount(SharedDir),
    /// An empty directory on the sandbox's own disk.
    None,
}

impl Workspace {
    /// The directory of the host, if one is shared.
    pub fn shared(&self) -> Option<&SharedDir> {
        match self {
            Self::Mount(dir) => Some(dir),
            Self::None => None,
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
            Self::Mount(dir) => shareable::check(dir.path(), named, home, own),
            Self::None => Ok(()),
        }
    }
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
