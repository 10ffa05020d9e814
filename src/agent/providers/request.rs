//! A request to a model, and what comes while it answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::name::ModelName;
use crate::agent::message::Message;

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    /// Its name, unique among all servers.
    pub(crate) name: String,
    /// What it does, for the model.
    pub(crate) description: String,
    /// The JSON schema of its arguments.
    pub(crate) schema: Value,
}

/// A request to a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The model.
    pub(crate) model: &'a ModelName,
    /// What it is told before the conversation.
    pub(crate) system: &'a str,
    /// The tools it may call.
    pub(crate) tools: &'a [Tool],
    /// The conversation.
    pub(crate) messages: &'a [Message],
    /// Names the conversation for a provider's cache.
    pub(crate) session: &'a str,
}

/// What comes while a model answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Delta {
    /// A piece of text.
    Text(String),
    /// A piece of its reasoning.
    Reasoning(String),
    /// So many bytes of a call's arguments have come.
    Calling {
        /// The tool.
        name: String,
        /// Bytes.
        bytes: usize,
    },
    /// The request will be made again after a wait. What came so far is void.
    Retrying {
        /// Why, for a person.
        why: String,
        /// The wait.
        after: Duration,
    },
}

impl Tool {
    /// The schema of its arguments: of an object, as every provider demands.
    pub(super) fn object_schema(&self) -> Value {
        let mut schema = self.schema.as_object().cloned().unwrap_or_default();
        schema.insert("type".to_owned(), json!("object"));
        schema.entry("properties").or_insert_with(|| json!({}));
        schema.remove("$schema");
        Value::Object(schema)
    }
}
