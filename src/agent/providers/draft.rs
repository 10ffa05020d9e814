//! An answer while it comes: its text, its calls in pieces, and how much of it there may be.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::failure::Failure;
use super::request::Delta;
use crate::agent::message::{Assistant, Call, Stop, Usage};

/// The longest answer, with its reasoning and the arguments of its calls, in bytes.
const MAX_ANSWER: usize = 8 << 20;
/// The most calls of an answer.
const MAX_CALLS: usize = 128;
/// The longest name and the longest identifier of a call.
const MAX_NAME: usize = 512;
/// What a block takes beside its text, in bytes: so an answer has no more than some thousand blocks.
const BLOCK: usize = 2048;

/// An answer while it comes.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) reasoning: String,
    /// The calls, each with the provider's number of it. Their arguments are texts while they come.
    pub(super) calls: Vec<(u64, Call)>,
    /// The provider's own blocks, in the form that it takes back.
    pub(super) blocks: Vec<Value>,
    /// The tokens that were counted last, by the provider's names.
    counts: HashMap<&'static str, u64>,
    pub(super) usage: Usage,
    /// Why it ended, once that was said.
    pub(super) stop: Option<Stop>,
    /// Whether nothing will follow.
    pub(super) ended: bool,
    /// Whether a part of it says that the model refuses.
    pub(super) refused: bool,
    /// Whether the provider is to get its own blocks back: they hold more than the text and the calls.
    pub(super) goes_back: bool,
    /// What has come since it was last asked for.
    news: Vec<Delta>,
    bytes: usize,
}

impl Draft {
    /// The answer that a refusal of the provider stands for.
    pub(super) fn refusal(said: String) -> Self {
        Self {
            text: said,
            stop: Some(Stop::Refused),
            ..Self::default()
        }
    }

    /// Takes note of bytes that are kept.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > MAX_ANSWER {
            true => Err(Failure::last("its answer is longer than 8 MiB")),
            false => Ok(()),
        }
    }

    /// More text.
    pub(super) fn add_text(&mut self, piece: &str) -> Result<(), Failure> {
        if !piece.is_empty() {
            self.grow(piece.len())?;
            self.text.push_str(piece);
            self.news.push(Delta::Text(piece.to_owned()));
        }
        Ok(())
    }

    /// More reasoning.
    pub(super) fn add_reasoning(&mut self, piece: &str) -> Result<(), Failure> {
        if !piece.is_empty() {
            self.grow(piece.len())?;
            self.reasoning.push_str(piece);
            self.news.push(Delta::Reasoning(piece.to_owned()));
        }
        Ok(())
    }

    /// One more of the provider's blocks.
    pub(super) fn add_block(&mut self, block: Value) -> Result<(), Failure> {
        self.grow(block.to_string().len() + BLOCK)?;
        self.blocks.push(block);
        Ok(())
    }

    /// A call begins; its place.
    pub(super) fn open(&mut self, index: u64, id: &str, name: &str) -> Result<usize, Failure> {
        if self.calls.len() >= MAX_CALLS {
            let why = format!("it makes more than {MAX_CALLS} calls at once");
            return Err(Failure::last(why));
        }
        if id.len().max(name.len()) > MAX_NAME {
            return Err(Failure::last("it calls a tool by an endless name"));
        }
        let call = Call {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: json!(""),
        };
        self.calls.push((index, call));
        self.news.push(Delta::Calling {
            name: name.to_owned(),
            bytes: 0,
        });
        Ok(self.calls.len() - 1)
    }

    /// The place of the call with that number.
    pub(super) fn place(&self, index: u64) -> Option<usize> {
        self.calls.iter().rposition(|(own, _)| *own == index)
    }

    /// More arguments of the call in that place.
    pub(super) fn add_arguments(&mut self, place: usize, piece: &str) -> Result<(), Failure> {
        self.grow(piece.len())?;
        if let Some((_, call)) = self.calls.get_mut(place)
            && let Value::String(arguments) = &mut call.arguments
            && !piece.is_empty()
        {
            arguments.push_str(piece);
            self.news.push(Delta::Calling {
                name: call.name.clone(),
                bytes: arguments.len(),
            });
        }
        Ok(())
    }

    /// Tokens as the provider counts them, maybe in parts. The names are those whose sums are the tokens of the request,
    /// those from the cache, those for the cache and those of the answer.
    pub(super) fn count(&mut self, usage: &Value, names: [&[&'static str]; 4]) {
        for name in names.into_iter().flatten() {
            if let Some(count) = number(usage, name) {
                self.counts.insert(name, count);
            }
        }
        let [input, cache_read, cache_write, output] = names.map(|names| {
            let counts = names.iter().filter_map(|name| self.counts.get(name));
            counts.fold(0, |sum: u64, count| sum.saturating_add(*count))
        });
        self.usage = Usage {
            input,
            cache_read,
            cache_write,
            output,
        };
    }

    /// What has come since this was last asked.
    pub(super) fn news(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.news)
    }

    /// The answer of that model.
    pub(super) fn finish(self, model: String) -> Assistant {
        let mut seen = HashSet::new();
        let calls = self.calls.into_iter().map(|(_, mut call)| {
            call.arguments = arguments(call.arguments.as_str().unwrap_or_default());
            // Results name the call that they belong to.
            if call.id.is_empty() || !seen.insert(call.id.clone()) {
                call.id = format!("call-{:016x}", rand::random::<u64>());
            }
            call
        });
        let calls: Vec<Call> = calls.collect();
        let stop = match self.stop.unwrap_or(Stop::Done) {
            _ if self.refused => Stop::Refused,
            Stop::Done if !calls.is_empty() => Stop::Calls,
            Stop::Calls if calls.is_empty() => Stop::Done,
            stop => stop,
        };
        Assistant {
            model,
            text: self.text,
            reasoning: self.reasoning,
            calls,
            blocks: match self.goes_back {
                true => Value::Array(self.blocks),
                false => Value::Null,
            },
            usage: self.usage,
            stop,
        }
    }
}

fn arguments(text: &str) -> Value {
    if text.trim().is_empty() {
        return json!({});
    }
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => object,
        Ok(Value::Null) => json!({}),
        _ => Value::String(text.to_owned()),
    }
}

/// Why an answer ended, in any provider's words; [`Draft::finish`] sees itself whether it waits for calls.
pub(super) fn stop(reason: &str) -> Option<Stop> {
    match reason.to_ascii_lowercase().as_str() {
        "" => None,
        "max_tokens" | "max_output_tokens" | "length" | "model_context_window_exceeded" => {
            Some(Stop::Length)
        }
        "refusal" | "content_filter" => Some(Stop::Refused),
        _ => Some(Stop::Done),
    }
}

/// A number of an event.
pub(super) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// A text of an event; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// A list of an event; empty if there is none.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_no_object_stay_as_they_are() {
        for (text, value) in [
            ("", json!({})),
            (" \n", json!({})),
            ("null", json!({})),
            ("{\"a\": 1}", json!({"a": 1})),
            ("{\"a\": ", json!("{\"a\": ")),
            ("[1]", json!("[1]")),
            ("\"x\"", json!("\"x\"")),
        ] {
            assert_eq!(arguments(text), value, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(arguments(&deep), json!(deep));
    }

    #[test]
    fn every_call_has_an_identifier_of_its_own() {
        let mut draft = Draft::default();
        for id in ["a", "", "a", ""] {
            draft.open(0, id, "exec").unwrap();
        }
        let answer = draft.finish("m".into());
        let ids: HashSet<&str> = answer.calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.contains("a") && !ids.contains(""));
        assert_eq!(answer.stop, Stop::Calls);
    }

    #[test]
    fn an_answer_has_bounds() {
        let mut draft = Draft::default();
        let piece = "x".repeat(1 << 20);
        let fits = (0..20)
            .take_while(|_| draft.add_text(&piece).is_ok())
            .count();
        assert_eq!(fits, 8);
        let mut draft = Draft::default();
        let fits = (0..1000)
            .take_while(|at| draft.open(*at, "", "x").is_ok())
            .count();
        assert_eq!(fits, MAX_CALLS);
        assert!(Draft::default().open(0, "", &"x".repeat(1000)).is_err());
        let mut draft = Draft::default();
        let fits = (0..10_000)
            .take_while(|_| draft.add_block(json!(1)).is_ok())
            .count();
        assert_eq!(fits, MAX_ANSWER / (BLOCK + 1));
    }
}
