//! Why the configuration cannot be used.

use std::path::PathBuf;

use crate::workspace::WorkspaceError;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("read the configuration file {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be changed.
    #[error("change the configuration file {path}")]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("read the configuration file {path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the nearest known key where a key is unknown.
        message: String,
    },
    /// An environment variable does not hold what it should.
    #[error("use the environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A value is out of its range.
    #[error("use {key} = {value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// The directory must not become the workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// There is no home directory to keep files in.
    #[error("find a home directory: set HOME, or data_dir")]
    NoHome,
}
