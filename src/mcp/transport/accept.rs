//! The forms of an answer that a client accepts (RFC 9110, 12.5.1). Pure.

use axum::http::{HeaderMap, header};

/// Which forms of an answer a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepts {
    /// One JSON message.
    pub(crate) json: bool,
    /// A stream of events.
    pub(crate) events: bool,
}

impl Accepts {
    /// Reads the `Accept` headers. A client without one accepts anything.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let ranges: Vec<(String, bool)> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| parts(value, ','))
            .filter_map(range)
            .collect();
        Self {
            json: accepts(&ranges, "application", "json"),
            events: accepts(&ranges, "text", "event-stream"),
        }
    }
}

/// The parts of a header between delimiters that are not in quotes.
fn parts(value: &str, delimiter: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == delimiter && !quoted,
        }
        false
    })
}

/// A range of types, and whether it is accepted: its weight is not 0. An invalid weight and other parameters are
/// ignored.
fn range(text: &str) -> Option<(String, bool)> {
    let mut fields = parts(text, ';');
    let name = fields.next()?.trim().to_lowercase();
    let weight = fields.find_map(|field| {
        let (name, value) = field.split_once('=')?;
        let is_weight = name.trim().eq_ignore_ascii_case("q");
        is_weight.then(|| value.trim().parse::<f32>().ok())?
    });
    (!name.is_empty()).then(|| (name, weight.is_none_or(|weight| weight > 0.0)))
}

/// Whether the ranges accept a type: the most specific range that matches it decides.
fn accepts(ranges: &[(String, bool)], kind: &str, subtype: &str) -> bool {
    let names = [
        vec![format!("{kind}/{subtype}")],
        vec![format!("{kind}/*")],
        vec!["*/*".to_owned(), "*".to_owned()],
    ];
    let of = |names: &Vec<String>| {
        let mut those = ranges
            .iter()
            .filter(|(name, _)| names.contains(name))
            .peekable();
        those.peek()?;
        Some(those.any(|(_, wanted)| *wanted))
    };
    ranges.is_empty() || names.iter().find_map(of).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn accepted(values: &[&str]) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        let Accepts { json, events } = Accepts::of(&headers);
        (json, events)
    }

    #[test]
    fn headers_of_clients_are_understood() {
        let cases: [(&[&str], (bool, bool)); 20] = [
            (&[], (true, true)),
            (&[""], (true, true)),
            (&["*/*"], (true, true)),
            (&["*"], (true, true)),
            (&["application/json, text/event-stream"], (true, true)),
            (&["application/json", "text/event-stream"], (true, true)),
            (&["Application/JSON;charset=utf-8"], (true, false)),
            (&["application/json"], (true, false)),
            (&["text/event-stream"], (false, true)),
            (&["application/*"], (true, false)),
            (&["text/*;q=0.1"], (false, true)),
            (&["text/html, */*;q=0.8"], (true, true)),
            (&["text/html"], (false, false)),
            (&["*/*;q=0"], (false, false)),
            (&["*/*, text/event-stream;q=0"], (true, false)),
            (&["application/json; q=0.000, */*"], (false, true)),
            (&["application/json;q=x"], (true, false)),
            (
                &["text/plain; note=\"a, application/json\""],
                (false, false),
            ),
            (&["application/json;profile=\"x;q=0\""], (true, false)),
            (&["application/json;q=1.0,"], (true, false)),
        ];
        for (values, expected) in cases {
            assert_eq!(accepted(values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn other_types_beside_the_two_change_nothing(other in "[ -~]{0,40}") {
            let both = accepted(&["application/json, text/event-stream", &other]);
            prop_assert!(both == (true, true) || other.contains("q"));
        }
    }
}
