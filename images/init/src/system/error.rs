//! Why the system could not be set up.

use std::io;

/// Why the system could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct SystemError {
    operation: String,
    source: io::Error,
}

/// Makes a [`SystemError`] of an I/O error.
pub(super) fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> SystemError {
    let operation = operation.into();
    move |source| SystemError { operation, source }
}
