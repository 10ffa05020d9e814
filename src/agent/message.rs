//! What a conversation consists of, in the form that a session's file has.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// What a person wrote.
    User(User),
    /// What the model answered.
    Assistant(Assistant),
    /// The results of the calls in the answer before, in the order of the calls.
    Results(Vec<CallResult>),
}

/// What a person says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct User {
    /// The text.
    pub(crate) text: String,
    /// Images beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) images: Vec<Image>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Its media type, such as `image/png`.
    pub(crate) mime: String,
    /// Its bytes in Base64.
    pub(crate) data: String,
}

/// An answer of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Assistant {
    /// The model, as `PROVIDER/MODEL`.
    pub(crate) model: String,
    /// The text.
    pub(crate) text: String,
    /// What the model thought, as far as the provider shows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reasoning: String,
    /// The tools that it calls, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) calls: Vec<Call>,
    /// The answer in the provider's own blocks (signed reasoning, for example), to be sent back unchanged to the model
    /// that made it. Only `providers` reads it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) blocks: Value,
    /// What it cost.
    #[serde(default)]
    pub(crate) usage: Usage,
    /// Why it ended.
    pub(crate) stop: Stop,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// The provider's identifier of the call.
    pub(crate) id: String,
    /// The tool's name, as the model gave it; there may be no such tool.
    pub(crate) name: String,
    /// An object, or the text that the model sent instead of one.
    pub(crate) arguments: Value,
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CallResult {
    /// The call's identifier.
    pub(crate) id: String,
    /// The tool's name.
    pub(crate) name: String,
    /// What the model is shown.
    pub(crate) content: Vec<Content>,
    /// Whether the call failed. A command that ran and exited with a status other than 0 did not.
    #[serde(default)]
    pub(crate) is_error: bool,
}

/// A part of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// Text.
    Text(String),
    /// An image.
    Image(Image),
}

/// Tokens that an answer cost. `input` holds all tokens of the request, those from and for the cache, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Tokens of the request.
    pub(crate) input: u64,
    /// Those of them that were read from the provider's cache.
    #[serde(default)]
    pub(crate) cache_read: u64,
    /// Those of them that were written to the provider's cache.
    #[serde(default)]
    pub(crate) cache_write: u64,
    /// Tokens of the answer, with those of its reasoning.
    pub(crate) output: u64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    /// The model has nothing more to say.
    Done,
    /// It waits for the results of its calls.
    Calls,
    /// The provider's limit of an answer's length was reached.
    Length,
    /// The model or the provider refused to answer.
    Refused,
    /// A person interrupted it; the answer is what had come by then.
    Interrupted,
}

/// A point of the model's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanItem {
    /// What is to be done.
    pub(crate) step: String,
    /// How far it is.
    pub(crate) status: PlanStatus,
}

/// How far a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlanStatus {
    /// Not begun.
    Pending,
    /// Being done.
    Active,
    /// Done.
    Done,
}

impl User {
    /// Text alone.
    pub(crate) fn text(text: String) -> Self {
        Self {
            text,
            images: Vec::new(),
        }
    }
}

impl CallResult {
    /// A result of text.
    pub(crate) fn text(call: &Call, text: impl Into<String>, is_error: bool) -> Self {
        Self {
            id: call.id.clone(),
            name: call.name.clone(),
            content: vec![Content::Text(text.into())],
            is_error,
        }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.output += other.output;
    }
}
