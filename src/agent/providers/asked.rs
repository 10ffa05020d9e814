//! What is asked of a model, before a protocol puts it into words.

use serde_json::Value;

use super::request::{Request, Tool};
use crate::agent::message::Message;

/// What is asked of a model.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) request: Request<'a>,
    /// The conversation as every provider accepts it.
    pub(super) turns: Vec<Message>,
    /// Tokens that an answer may have.
    pub(super) longest: u64,
    /// The same, if the user set it.
    pub(super) set_longest: Option<u64>,
    /// Whether the model is known to reason by an effort.
    pub(super) reasons: bool,
    /// How much it is to reason, in the provider's words.
    pub(super) effort: Option<String>,
    /// Whether a summary of the reasoning is asked for.
    pub(super) summary: bool,
    /// The provider's host: some have wishes of their own, beyond their protocol.
    pub(super) host: &'a str,
}

impl Asked<'_> {
    /// The model's name at the provider.
    pub(super) fn model(&self) -> &str {
        &self.request.model.model
    }

    /// What the model is told before the conversation, if that is anything.
    pub(super) fn system(&self) -> Option<&str> {
        Some(self.request.system).filter(|system| !system.trim().is_empty())
    }

    /// The tools, each as `write` writes it; none if there is no tool.
    pub(super) fn tools(&self, write: impl Fn(&Tool) -> Value) -> Option<Vec<Value>> {
        let tools = self.request.tools;
        (!tools.is_empty()).then(|| tools.iter().map(write).collect())
    }

    /// Whether the model is to be asked to reason: models that do not refuse that.
    pub(super) fn is_to_reason(&self) -> bool {
        self.reasons || self.effort.is_some()
    }
}
