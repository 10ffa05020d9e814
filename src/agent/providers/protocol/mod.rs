//! The protocols: how each says what is asked, and how it is read.

mod chat;
mod gemini;
mod messages;
mod parts;
mod responses;
#[cfg(test)]
mod tests;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::asked::Asked;
use super::draft::{Draft, list, text};
use super::failure::Failure;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
    /// Chat Completions.
    Chat,
    /// Google's Gemini.
    Gemini,
}

impl Protocol {
    /// The request's body.
    pub(super) fn body(self, asked: &Asked<'_>) -> Value {
        match self {
            Self::Messages => messages::body(asked),
            Self::Responses => responses::body(asked),
            Self::Chat => chat::body(asked),
            Self::Gemini => gemini::body(asked),
        }
    }

    /// Reads the data of an event of an answer.
    pub(super) fn read(self, data: &Value, draft: &mut Draft) -> Result<(), Failure> {
        let is_error = data.get("error").is_some_and(|error| !error.is_null());
        if is_error || matches!(text(data, "/type"), "error" | "response.failed") {
            return Err(Failure::of_event(data));
        }
        match self {
            Self::Messages => messages::read(data, draft),
            Self::Responses => responses::read(data, draft),
            Self::Chat => chat::read(data, draft),
            Self::Gemini => gemini::read(data, draft),
        }
    }

    /// Where a model is asked.
    pub(super) fn address(self, base: &Url, model: &str) -> Url {
        match self {
            Self::Messages => self.below(base, &["messages"]),
            Self::Responses => self.below(base, &["responses"]),
            Self::Chat => self.below(base, &["chat", "completions"]),
            Self::Gemini => {
                let method = format!("{model}:streamGenerateContent");
                let mut url = self.below(base, &["models", &method]);
                url.query_pairs_mut().append_pair("alt", "sse");
                url
            }
        }
    }

    /// Where the provider lists its models.
    pub(super) fn listing(self, base: &Url) -> Url {
        let mut url = self.below(base, &["models"]);
        let most = match self {
            Self::Messages => "limit",
            Self::Gemini => "pageSize",
            Self::Responses | Self::Chat => return url,
        };
        url.query_pairs_mut().append_pair(most, "1000");
        url
    }

    /// A path below the base, which may be given with or without the protocol's version.
    fn below(self, base: &Url, path: &[&str]) -> Url {
        let mut url = base.clone();
        let base = base.path().trim_end_matches('/');
        let last = base.rsplit('/').next().unwrap_or_default();
        let digits = last.strip_prefix('v').unwrap_or_default();
        let version = match self {
            _ if digits.starts_with(|c: char| c.is_ascii_digit()) => None,
            Self::Messages => Some("v1"),
            Self::Gemini => Some("v1beta"),
            Self::Responses | Self::Chat => base.is_empty().then_some("v1"),
        };
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(version).extend(path);
        }
        url
    }

    /// The headers that the protocol demands. A key must fit into a header.
    pub(super) fn headers(self, key: Option<&str>) -> Result<HeaderMap, &'static str> {
        let mut headers = HeaderMap::new();
        if self == Self::Messages {
            headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        }
        if let Some(key) = key {
            let (name, value) = match self {
                Self::Messages => (HeaderName::from_static("x-api-key"), key.to_owned()),
                Self::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
                Self::Responses | Self::Chat => (AUTHORIZATION, format!("Bearer {key}")),
            };
            let value = HeaderValue::from_str(&value);
            let mut value = value.map_err(|_| "the key holds characters that no key has")?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// The models in a provider's list.
pub(super) fn models(answer: &Value) -> Vec<String> {
    let gemini = list(answer, "/models").filter_map(|item| item.get("name"));
    let others = list(answer, "/data").filter_map(|item| item.get("id"));
    let names = gemini.chain(others).filter_map(Value::as_str);
    let names = names.map(|name| name.strip_prefix("models/").unwrap_or(name));
    let bounded = names.filter(|name| name.len() <= 200).take(2000);
    bounded.map(str::to_owned).collect()
}
