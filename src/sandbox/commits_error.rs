//! Why the guest's commits could not be fetched.

use std::io;

/// Why the guest's commits could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum CommitsError {
    /// The guest could not pack them.
    #[error("pack the commits of the sandbox: its git said: {0}")]
    Pack(String),
    /// They are more than the host takes.
    #[error("fetch the commits of the sandbox: they have more than {0}")]
    Bound(String),
    /// The host's git refused them.
    #[error("fetch the commits of the sandbox: git said: {0}")]
    Fetch(String),
    /// A file or a program of the host.
    #[error("{operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

pub(super) fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> CommitsError {
    move |source| CommitsError::Io { operation, source }
}
