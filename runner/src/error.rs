//! Why a VM did not start.

use std::io;

/// Why a VM did not start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {message}")]
pub(crate) struct StartError {
    /// The step that failed, such as `workspace share` or `qemu`.
    pub(crate) stage: &'static str,
    /// Why it failed, and what to do.
    pub(crate) message: String,
}

impl StartError {
    /// A failure of one stage.
    pub(crate) fn new(stage: &'static str, message: impl Into<String>) -> Self {
        Self {
            stage,
            message: message.into(),
        }
    }

    /// A failed system call of one stage; `what` says what the call was for.
    pub(crate) fn io(
        stage: &'static str,
        what: impl std::fmt::Display,
    ) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| {
            let full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            let remedy = if full { "; make room there" } else { "" };
            Self {
                stage,
                message: format!("{what}: {error}{remedy}"),
            }
        }
    }
}
