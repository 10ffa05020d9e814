//! The error of a tool call, as the model reads it.

use rmcp::model::{CallToolResult, ContentBlock};

use crate::fleet::FleetError;
use crate::mcp::output::terminal;
use crate::sandbox::SandboxError;
use crate::{shown, text};

/// The name of the argument that carries a sandbox's handle.
pub(crate) const HANDLE: &str = "sandbox";

/// Why a tool did not do what it was called for. It becomes a result with `isError`, which the model sees; most
/// clients keep protocol errors to themselves.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The result that the client gets. Parts of the message may come from the guest, so control characters are
    /// removed.
    pub(crate) fn into_result(self) -> CallToolResult {
        let message = terminal::plain(self.0.as_bytes());
        CallToolResult::error(vec![ContentBlock::text(shown::text(&message))])
    }

    /// The text of the error.
    pub(crate) fn message(&self) -> &str {
        &self.0
    }
}

impl From<SandboxError> for Refusal {
    fn from(error: SandboxError) -> Self {
        Self(format!("failed to {}", crate::describe(&error)))
    }
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        let remedy = match &error {
            FleetError::Full { idle, .. } => format!(
                "; use one of yours (argument `{HANDLE}`), end a session, or wait: one without calls is stopped after {}",
                text::duration(*idle)
            ),
            FleetError::Unknown { kept, .. } => format!(
                "; an unused one is removed after {} h. Leave `{HANDLE}` out to get a new one",
                kept.as_secs() / 3600
            ),
            FleetError::Sandbox(_) => String::new(),
        };
        Self(format!("failed to {}{remedy}", crate::describe(&error)))
    }
}
