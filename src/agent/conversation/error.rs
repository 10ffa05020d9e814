//! Why a turn failed.

use crate::agent::providers::ProviderError;
use crate::agent::session::SessionError;

/// Why a turn failed. Its text reads well after "failed to".
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    /// The model gave no answer.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The session can't be kept.
    #[error(transparent)]
    Session(#[from] SessionError),
}
