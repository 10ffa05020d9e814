//! The envelope of a JSON-RPC message: the members that tell its kind and its id, found in text that need not be JSON.
//!
//! The text comes in pieces of any size, and only these members are kept, so a message of any length is scanned in little
//! memory. Strings may hold anything; numbers and words are not checked. Brackets that do not match end the scan: what was
//! found before is kept, and the rest is ignored. So an `id` inside of `params` is never taken for the message's own.

use memchr::memchr2;

/// The longest member name and the longest value that are kept, in bytes.
const MAX_KEPT: usize = 1024;

/// How deep brackets may be nested.
const MAX_DEPTH: usize = 1024;

/// The outermost value of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// No value has begun.
    #[default]
    Nothing,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Anything else.
    Other,
}

/// One member of the outermost object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// How often it occurs.
    pub(crate) times: u32,
    /// The value of the last one as it is written; none if it is longer than [`MAX_KEPT`] or has no end.
    pub(crate) value: Option<Vec<u8>>,
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) shape: Shape,
    pub(crate) jsonrpc: Member,
    pub(crate) id: Member,
    pub(crate) method: Member,
    pub(crate) params: Member,
    pub(crate) result: Member,
    pub(crate) error: Member,
    /// Whether the outermost value has ended, all its brackets matching.
    pub(crate) complete: bool,
}

impl Envelope {
    fn member(&mut self, name: &str) -> Option<&mut Member> {
        Some(match name {
            "jsonrpc" => &mut self.jsonrpc,
            "id" => &mut self.id,
            "method" => &mut self.method,
            "params" => &mut self.params,
            "result" => &mut self.result,
            "error" => &mut self.error,
            _ => return None,
        })
    }
}

/// A part of the text that is kept if it is not too long.
#[derive(Debug, Default)]
struct Kept {
    text: Vec<u8>,
    too_long: bool,
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        self.too_long |= self.text.len() + bytes.len() > MAX_KEPT;
        if !self.too_long {
            self.text.extend_from_slice(bytes);
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let kept = std::mem::take(self);
        (!kept.too_long).then_some(kept.text)
    }
}

/// Scans a text for its envelope.
#[derive(Debug, Default)]
pub(crate) struct EnvelopeScanner {
    found: Envelope,
    /// The brackets that are open, outermost first.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// Whether a value of the outermost object is read now; otherwise its next name.
    in_value: bool,
    name: Kept,
    value: Kept,
    ended: bool,
}

impl EnvelopeScanner {
    /// Scans a whole text.
    pub(crate) fn scan(text: &[u8]) -> Envelope {
        let mut scan = Self::default();
        scan.feed(text);
        scan.found
    }

    /// What was found so far.
    pub(crate) fn envelope(&self) -> &Envelope {
        &self.found
    }

    /// Scans the next piece.
    pub(crate) fn feed(&mut self, mut text: &[u8]) {
        while let Some(&byte) = text.first() {
            if self.ended {
                return;
            }
            let length = match self.in_string {
                true => self.string(text),
                false => {
                    self.outside(byte);
                    1
                }
            };
            text = &text[length..];
        }
    }

    /// Scans the next part of a string; returns its length.
    fn string(&mut self, text: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.keep(&text[..1]);
            return 1;
        }
        let Some(at) = memchr2(b'"', b'\\', text) else {
            self.keep(text);
            return text.len();
        };
        match text[at] {
            b'"' => self.in_string = false,
            _ => self.escaped = true,
        }
        self.keep(&text[..=at]);
        at + 1
    }

    fn outside(&mut self, byte: u8) {
        if byte.is_ascii_whitespace() {
            return self.keep(&[byte]);
        }
        if self.found.shape == Shape::Nothing {
            self.found.shape = match byte {
                b'{' => Shape::Object,
                b'[' => Shape::Array,
                _ => Shape::Other,
            };
            self.ended = self.found.shape == Shape::Other;
        }
        match (byte, self.open.len()) {
            (b'"', _) => {
                self.in_string = true;
                self.keep(b"\"");
            }
            (b':', 1) if !self.in_value => {
                self.in_value = true;
                self.value = Kept::default();
            }
            (b',', 1) => self.member_ended(),
            (b'{' | b'[', depth) => {
                self.keep(&[byte]);
                self.open.push(byte);
                self.ended |= depth >= MAX_DEPTH;
            }
            (b'}' | b']', depth) => {
                let opened = self.open.pop();
                if opened.map(closing) != Some(byte) {
                    self.ended = true;
                } else if depth == 1 {
                    self.member_ended();
                    self.found.complete = true;
                    self.ended = true;
                } else {
                    self.keep(&[byte]);
                }
            }
            _ => self.keep(&[byte]),
        }
    }

    /// Keeps the bytes if they belong to a member of the outermost object.
    fn keep(&mut self, bytes: &[u8]) {
        if self.found.shape != Shape::Object {
            return;
        }
        match (self.in_value, self.open.len()) {
            (true, _) => self.value.add(bytes),
            (false, 1) => self.name.add(bytes),
            (false, _) => {}
        }
    }

    fn member_ended(&mut self) {
        let value = self.value.take();
        let name = self.name.take();
        if !std::mem::take(&mut self.in_value) || self.found.shape != Shape::Object {
            return;
        }
        let name = name.and_then(|name| serde_json::from_slice::<String>(&name).ok());
        if let Some(member) = name.and_then(|name| self.found.member(&name)) {
            member.times += 1;
            member.value = value.map(|value| value.trim_ascii().to_vec());
        }
    }
}

fn closing(opening: u8) -> u8 {
    match opening {
        b'{' => b'}',
        _ => b']',
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn id(text: &[u8]) -> Option<Vec<u8>> {
        EnvelopeScanner::scan(text).id.value
    }

    #[test]
    fn the_id_is_found_wherever_it_stands() {
        for text in [
            r#"{"id":7,"params":{"id":8}}"#,
            r#"{"params":{"id":8,"x":[{"id":9}]},"id" : 7 }"#,
            r#"{"params":{"x":"\"id\":8,\\"},"id":7}"#,
            r#"{"params":{"x":"}}"},"id":7}"#,
            r#"{"params":{"x":"\ud83d"},"id":7}"#,
            r#"{"params":tru,"id":7}"#,
            r#"{"params":,"\u0069d":7,"x":"#,
            r#"  {"id":7,"params":{"x":[1}}"#,
        ] {
            assert_eq!(id(text.as_bytes()), Some(b"7".to_vec()), "{text}");
        }
        assert_eq!(id(b"{\"x\":\"\xff\xfe\",\"id\":7}"), Some(b"7".to_vec()));
    }

    #[test]
    fn no_other_member_is_taken_for_the_id() {
        for text in [
            "",
            "id",
            "\"id\":7",
            r#"[{"id":7}]"#,
            r#"{"params":{"id":7}}"#,
            r#"{"params":{"id":7"#,
            r#"{"params":{"x":[},"id":7}"#,
            r#"{"params":{}},"id":7}"#,
            r#"{"params":"x,"id":7}"#,
            r#"{'params':{"id":7},'id':8}"#,
            r#"{"id":7"#,
            r#"{"id"}"#,
        ] {
            assert_eq!(id(text.as_bytes()), None, "{text}");
        }
        let deep = format!("{{\"x\":{},\"id\":7}}", "[".repeat(100_000));
        assert_eq!(id(deep.as_bytes()), None);
        let long = format!("{{\"id\":\"{}\",\"method\":\"x\"}}", "a".repeat(2 << 20));
        let found = EnvelopeScanner::scan(long.as_bytes());
        assert_eq!((found.id.times, found.id.value), (1, None));
        assert_eq!(found.method.value, Some(b"\"x\"".to_vec()));
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![".{0,6}", Just("id".to_owned()), Just("\"id\":8".to_owned())];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, move |inner| {
            let members = prop::collection::vec((text.clone(), inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_scanned_as_it_is_parsed(
            members in prop::collection::vec(("[a-z]{0,4}|id|method|params", value()), 0..6),
            cut in 1usize..40,
        ) {
            let object: Map<String, Value> = members.into_iter().collect();
            for text in [serde_json::to_string(&object).unwrap(), serde_json::to_string_pretty(&object).unwrap()] {
                let mut scan = EnvelopeScanner::default();
                text.as_bytes().chunks(cut).for_each(|piece| scan.feed(piece));
                let found = scan.envelope();
                prop_assert!(found.complete);
                let parsed = |member: &Member| member.value.as_ref().map(|raw| serde_json::from_slice(raw).unwrap());
                prop_assert_eq!(parsed(&found.id), object.get("id").cloned());
                prop_assert_eq!(parsed(&found.params), object.get("params").cloned());
                prop_assert_eq!(found.method.times, u32::from(object.contains_key("method")));
            }
        }

        #[test]
        fn cut_or_damaged_text_yields_no_other_id(
            inner in value(), at in any::<prop::sample::Index>(), byte in any::<u8>(), first in any::<bool>(),
        ) {
            let inner = json!({"id": "inner", "x": inner});
            let text = match first {
                true => format!(r#"{{"id":"outer","params":{inner}}}"#),
                false => format!(r#"{{"params":{inner},"id":"outer"}}"#),
            };
            let at = at.index(text.len());
            let right = |found: Option<Vec<u8>>| found.is_none_or(|id| id == b"\"outer\"");
            prop_assert!(right(id(&text.as_bytes()[..at])));
            // A changed byte inside a string of the parameters, that ends neither the string nor an escape.
            let mut damaged = text.clone().into_bytes();
            if damaged[at].is_ascii_lowercase() && !matches!(byte, b'"' | b'\\') {
                damaged[at] = byte;
                let found = EnvelopeScanner::scan(&damaged).id;
                prop_assert!(found.value.is_none_or(|id| id != b"\"inner\""));
            }
        }
    }
}
