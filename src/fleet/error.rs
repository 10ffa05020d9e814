//! Why there is no sandbox for a caller.

use std::time::Duration;

use crate::sandbox::SandboxError;

/// Why there is no sandbox for a caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// No room for another sandbox.
    #[error("make a sandbox: this server runs {limit} at most, and all are in use")]
    Full {
        /// How many there may be.
        limit: usize,
        /// How long one without calls is kept.
        idle: Duration,
    },
    /// No slot has the handle.
    #[error("find the sandbox {handle:?}: there is none with this handle")]
    Unknown {
        /// The handle.
        handle: String,
        /// How long an unused one is kept.
        kept: Duration,
    },
    /// The sandbox could not be made.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}
