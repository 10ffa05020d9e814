//! Errors that the guest reports.

use serde::{Deserialize, Serialize};

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// What was wrong and what was expected: a lowercase fragment that reads well after "failed to".
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidRequest,
    /// A path does not exist.
    NotFound,
    /// The user does not have the permission.
    PermissionDenied,
    /// The file is of the wrong kind, such as a directory where a file was expected.
    WrongKind,
    /// The disk is full.
    NoSpace,
    /// The command was never started.
    NotStarted,
    /// The command was never started, since there is no such program.
    NoProgram,
    /// The command was never started, since its program can't be executed.
    NotExecutable,
    /// Any other failure.
    Other,
}

impl WireError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }
}
