//! Parses messages, and describes what is wrong with a malformed one. Pure.
//!
//! Every request gets an answer, even if it is malformed: an error with its id if that can be read, and otherwise one
//! without an id (in the protocol such errors omit it; `null` is no valid id). A notification is never answered. Nothing is
//! repaired: a guess at what the sender meant must not be run.

use std::fmt;

use rmcp::RoleServer;
use rmcp::model::{ErrorCode, ErrorData, RequestId};
use rmcp::service::RxJsonRpcMessage;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use super::envelope::{Envelope, EnvelopeScanner, Member, Shape};

/// A mark at the start of the texts of some programs.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The longest message, in bytes: room for a `write` of a file of some 40 MiB in base64. A longer message is not kept, and
/// is answered with an error.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// How much of the parser's error is shown, in characters.
const MAX_REASON: usize = 200;

/// The kind of message that a malformed one was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A request: its sender waits for an answer.
    Request,
    /// A notification.
    Notification,
    /// The answer to a request of the server.
    Response,
    /// It can't be told.
    Unknown,
}

/// A malformed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) role: Role,
    id: Option<String>,
    code: ErrorCode,
    message: String,
}

/// Parses a message.
pub(crate) fn parse(text: &[u8]) -> Result<RxJsonRpcMessage<RoleServer>, Malformed> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    serde_json::from_slice(text).map_err(|error| Malformed::of(text, &error))
}

impl Malformed {
    fn of(text: &[u8], error: &serde_json::Error) -> Self {
        let found = EnvelopeScanner::scan(text);
        if let Err(syntax) = serde_json::from_slice::<AnyJson>(text) {
            return Self::new(&found, ErrorCode::PARSE_ERROR, not_json(text, &syntax));
        }
        let message = match found.shape {
            Shape::Array => "a batch of messages is not part of this protocol version: send the messages one by one, \
                             each a JSON object; nothing of the batch was done"
                .to_owned(),
            Shape::Object => not_a_message(&found, error),
            Shape::Other | Shape::Nothing => {
                "a message is a JSON object with `jsonrpc`, `method` and, for a request, `id`".to_owned()
            }
        };
        Self::new(&found, ErrorCode::INVALID_REQUEST, message)
    }

    /// A message that is too long; `found` is what a scan of all of it found.
    pub(crate) fn too_long(found: &Envelope) -> Self {
        let message = format!(
            "the message is longer than {MAX_MESSAGE} bytes, the maximum; nothing was done; send it in \
             parts (`write` with `append` adds to a file)"
        );
        Self::new(found, ErrorCode::INVALID_REQUEST, message)
    }

    fn new(found: &Envelope, code: ErrorCode, message: String) -> Self {
        let is_answer = found.result.times + found.error.times > 0;
        let role = match (found.method.times > 0, found.id.times > 0) {
            (true, true) => Role::Request,
            (true, false) if found.complete => Role::Notification,
            (false, true) if is_answer => Role::Response,
            _ => Role::Unknown,
        };
        Self {
            role,
            id: echoable(&found.id),
            code,
            message,
        }
    }

    /// The error for its sender, as JSON on one line.
    pub(crate) fn answer(&self) -> String {
        let error = json!({"code": self.code.0, "message": self.message});
        match &self.id {
            // Exactly as it was written, so a client that sent half of a surrogate pair recognizes it.
            Some(id) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
            None => format!(r#"{{"jsonrpc":"2.0","error":{error}}}"#),
        }
    }

    /// As a response with an error, for the request of the server that it answers.
    pub(crate) fn as_error_response(&self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let id: RequestId = serde_json::from_str(self.id.as_deref()?).ok()?;
        let said = format!("the client's answer can't be understood: {}", self.message);
        let error = ErrorData::new(self.code, said, None);
        Some(RxJsonRpcMessage::<RoleServer>::error(error, Some(id)))
    }

    /// For the log.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// An id that an answer can repeat: a string or a number that is there once.
fn echoable(id: &Member) -> Option<String> {
    let text = std::str::from_utf8(id.value.as_deref().filter(|_| id.times == 1)?).ok()?;
    let number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let plain = number || text.starts_with('"');
    let valid = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    (plain && valid).then(|| text.to_owned())
}

/// Why a text is not JSON.
fn not_json(text: &[u8], error: &serde_json::Error) -> String {
    if let Err(wrong) = std::str::from_utf8(text) {
        return format!(
            "the message is not UTF-8 (from its byte {} on), as JSON must be; nothing was done; encode it as UTF-8",
            wrong.valid_up_to()
        );
    }
    let reason = error.to_string();
    let hint = if reason.contains("surrogate") || reason.contains("hex escape") {
        "; an escape such as \\ud83d is half of a character: send both halves (\\ud83d\\ude00), or the character itself"
    } else {
        ""
    };
    format!("the message is not JSON, one object a line: {reason}{hint}; nothing was done")
}

/// Why a JSON object is no message.
fn not_a_message(found: &Envelope, error: &serde_json::Error) -> String {
    let members = [
        ("jsonrpc", &found.jsonrpc),
        ("id", &found.id),
        ("method", &found.method),
        ("params", &found.params),
    ];
    if let Some((name, _)) = members.iter().find(|(_, member)| member.times > 1) {
        return format!("the message has the member `{name}` more than once");
    }
    let text = |member: &Member| -> Option<String> {
        let value = member.value.as_deref()?;
        serde_json::from_slice(value).ok()
    };
    let is_id = |member: &Member| {
        let value = member.value.as_deref().unwrap_or_default();
        serde_json::from_slice::<RequestId>(value).is_ok()
    };
    if text(&found.jsonrpc).as_deref() != Some("2.0") {
        return "the message needs `\"jsonrpc\": \"2.0\"`".to_owned();
    }
    if found.id.times > 0 && !is_id(&found.id) {
        return "the message's `id` must be a string or an integer of at most 64 bits".to_owned();
    }
    if found.method.times > 0 && text(&found.method).is_none() {
        return "the message's `method` must be a string".to_owned();
    }
    if found.method.times + found.result.times + found.error.times == 0 {
        return "the message has no `method`, nor the `result` or `error` of an answer".to_owned();
    }
    let begins = found.params.value.as_deref().and_then(<[u8]>::first);
    if begins.is_some_and(|first| *first != b'{') {
        return "the message's `params` must be an object".to_owned();
    }
    let reason: String = error.to_string().chars().take(MAX_REASON).collect();
    format!("the message is no request, answer or notification: {reason}")
}

/// Any JSON whose strings and numbers can all be represented; nothing of it is kept.
struct AnyJson;

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

impl<'de> Visitor<'de> for AnyJson {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<AnyJson>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<AnyJson, AnyJson>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
