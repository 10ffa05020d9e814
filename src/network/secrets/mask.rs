//! Hides values in what a server sends. Pure.
//!
//! A value may come in pieces, so an end of the data that may be the beginning of a value waits for what follows. While
//! the server is silent a few bytes of it may go on ([`Mask::release`]), so that nobody waits for the end of a message
//! that happens to look like the beginning of a value.
//!
//! A value is known in the forms in which servers repeat it: as it is, encoded for URLs, HTML and JSON, and in base64,
//! where basic authentication has it. A server that means to betray a value finds other ones.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The shortest value and the shortest form that are hidden, in bytes. A shorter one would hide what is none.
pub(super) const SHORTEST: usize = 8;

/// How much of the beginning of a value may go on while the server is silent, in bytes; of a short value less. Longer
/// beginnings are hardly ever met by chance.
const HARMLESS: usize = 3;

/// What a URL has as it is.
const IN_URLS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// What stands for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Its placeholder.
    Exact,
    /// As much of its placeholder as has the same length, filled up with `*`: lengths that were told stay true.
    Length,
}

/// The values to be hidden, in all forms.
#[derive(Clone)]
pub(crate) struct Patterns(Arc<Inner>);

struct Inner {
    find: AhoCorasick,
    forms: Vec<Vec<u8>>,
    /// What stands for each form.
    placeholders: Vec<Bytes>,
    longest: usize,
}

impl Patterns {
    /// For values with their placeholders.
    pub(in crate::network) fn new<'a>(
        values: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BuildError> {
        let (mut all, mut placeholders) = (Vec::new(), Vec::new());
        for (value, placeholder) in values {
            let placeholder = Bytes::copy_from_slice(placeholder.as_bytes());
            let forms = forms(value);
            placeholders.extend(std::iter::repeat_n(placeholder, forms.len()));
            all.extend(forms);
        }
        let longest = all.iter().map(Vec::len).max().unwrap_or_default();
        let find = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&all)?;
        Ok(Self(Arc::new(Inner {
            find,
            forms: all,
            placeholders,
            longest,
        })))
    }

    /// Whole data with the values hidden; none if it holds none.
    pub(crate) fn hidden(&self, data: &[u8], fit: Fit) -> Option<Bytes> {
        self.0.find.is_match(data).then(|| {
            let mut mask = Mask::new(self.clone(), fit);
            mask.run(Bytes::copy_from_slice(data), true)
        })
    }

    /// Whether data that is written in small letters holds a value, whatever the value's letters are.
    pub(crate) fn is_in_lowercase(&self, data: &str) -> bool {
        let is_in = |form: &Vec<u8>| {
            let form = form.to_ascii_lowercase();
            memchr::memmem::find(data.as_bytes(), &form).is_some()
        };
        self.0.forms.iter().any(is_in)
    }

    /// Where the first end of the data begins that may be the beginning of a value, else its length.
    fn partial(&self, data: &[u8]) -> usize {
        let first = data.len().saturating_sub(self.0.longest.saturating_sub(1));
        let begins = |end: &[u8]| {
            self.0
                .forms
                .iter()
                .any(|form| form.len() > end.len() && form.starts_with(end))
        };
        (first..data.len())
            .find(|at| begins(&data[*at..]))
            .unwrap_or(data.len())
    }

    /// How much of this beginning of a value tells too little to matter, in bytes.
    fn harmless(&self, begin: &[u8]) -> usize {
        let forms = self.0.forms.iter().filter(|form| form.starts_with(begin));
        forms
            .map(|form| (form.len() / 4).min(HARMLESS))
            .min()
            .unwrap_or(0)
            .min(begin.len())
    }
}

/// Hides values in one stream of data.
pub(crate) struct Mask {
    patterns: Patterns,
    fit: Fit,
    /// The beginning of a value, perhaps.
    held: Bytes,
    /// How much of it has gone on already, in bytes.
    given: usize,
}

impl Mask {
    /// At the beginning of the data.
    pub(crate) fn new(patterns: Patterns, fit: Fit) -> Self {
        Self {
            patterns,
            fit,
            held: Bytes::new(),
            given: 0,
        }
    }

    /// Takes data; gives what may go on.
    pub(crate) fn feed(&mut self, data: Bytes) -> Bytes {
        self.run(data, false)
    }

    /// The data has ended; gives the rest of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.run(Bytes::new(), true)
    }

    /// Whether something waits that [`Self::release`] would give.
    pub(crate) fn waits(&self) -> bool {
        self.patterns.harmless(&self.held) > self.given
    }

    /// Gives as much of what waits as does no harm; the rest of a value is hidden all the same.
    pub(crate) fn release(&mut self) -> Bytes {
        let upto = self.patterns.harmless(&self.held).max(self.given);
        let released = self.held.slice(self.given..upto);
        self.given = upto;
        released
    }

    fn run(&mut self, data: Bytes, last: bool) -> Bytes {
        let all = match self.held.is_empty() {
            true => data,
            false => [&self.held[..], &data].concat().into(),
        };
        let patterns = self.patterns.clone();
        let hold = |from: usize| match last {
            true => all.len(),
            false => from + patterns.partial(&all[from..]),
        };
        let (mut out, mut at, mut from) = (BytesMut::new(), self.given, 0);
        loop {
            let held_from = hold(from);
            let found = patterns.0.find.find(&all[from..]);
            let Some(found) = found.filter(|found| from + found.start() < held_from) else {
                let rest = all.slice(at.min(held_from)..held_from);
                self.given = at.saturating_sub(held_from);
                self.held = all.slice(held_from..);
                if out.is_empty() {
                    return rest;
                }
                out.extend_from_slice(&rest);
                return out.freeze();
            };
            let (start, end) = (from + found.start(), from + found.end());
            if start > at {
                out.extend_from_slice(&all[at..start]);
            }
            let placeholder = &patterns.0.placeholders[found.pattern().as_usize()];
            match self.fit {
                Fit::Exact => out.extend_from_slice(placeholder),
                Fit::Length => {
                    let length = end - start.max(at);
                    let filled = placeholder.iter().copied().chain(std::iter::repeat(b'*'));
                    out.extend(filled.take(length));
                }
            }
            (at, from) = (end, end);
        }
    }
}

/// The forms of a value.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let url = utf8_percent_encode(value, IN_URLS).to_string();
    let json = value.replace('\\', "\\\\").replace('"', "\\\"");
    let html = value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let unicode = |text: &str, which: &[char]| {
        let of = |c: char| match which.contains(&c) {
            true => format!("\\u{:04x}", u32::from(c)),
            false => c.to_string(),
        };
        text.chars().map(of).collect::<String>()
    };
    let mut forms = vec![
        value.to_owned(),
        url.replace('%', "%25"),
        lower_escapes(&url),
        url,
        json.replace('/', "\\/"),
        unicode(&json, &['<', '>', '&']),
        unicode(&json, &['<', '>', '&', '\'', '=', '+']),
        json,
    ];
    for double in ["\"", "&quot;", "&#34;"] {
        for single in ["'", "&#39;", "&#x27;"] {
            forms.push(html.replace('"', double).replace('\'', single));
        }
    }
    for before in 0..3 {
        forms.push(inside(&STANDARD_NO_PAD, value, before));
        forms.push(inside(&URL_SAFE_NO_PAD, value, before));
    }
    let mut forms: Vec<Vec<u8>> = forms.into_iter().map(String::into_bytes).collect();
    forms.retain(|form| form.len() >= SHORTEST);
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// A text in base64, without the letters that depend on what stands before it (so many bytes, modulo 3) and after it.
fn inside(base64: &impl base64::Engine, value: &str, before: usize) -> String {
    let mut text = vec![0; before];
    text.extend_from_slice(value.as_bytes());
    let whole = text.len() / 3 * 4;
    let first = [0, 2, 3][before];
    let encoded = base64.encode(text);
    encoded
        .get(first..whole.max(first))
        .unwrap_or_default()
        .to_owned()
}

/// The escapes of a URL in small letters.
fn lower_escapes(url: &str) -> String {
    let mut parts = url.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        text.extend(["%", &escape.to_ascii_lowercase(), rest]);
    }
    text
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;

    use super::*;

    const VALUE: &str = "ghp_Ab/c+d=\"e\\f&<g>'0123456789";
    const HOLDER: &str = "snowglobe-secret-X-1";

    fn patterns(values: &[(&str, &str)]) -> Patterns {
        Patterns::new(values.iter().copied()).unwrap()
    }

    /// What comes out if the data comes in these pieces; after each the server is silent.
    fn masked<'a>(
        patterns: &Patterns,
        fit: Fit,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        silent: bool,
    ) -> Vec<u8> {
        let (mut mask, mut out) = (Mask::new(patterns.clone(), fit), Vec::new());
        for piece in pieces {
            out.extend(mask.feed(Bytes::copy_from_slice(piece)));
            if silent {
                out.extend(mask.release());
            }
            assert!(mask.held.len() < patterns.0.longest.max(1));
        }
        out.extend(mask.finish());
        out
    }

    #[test]
    fn each_form_is_hidden() {
        let patterns = patterns(&[(VALUE, HOLDER)]);
        let url = utf8_percent_encode(VALUE, IN_URLS).to_string();
        for said in [
            VALUE.to_owned(),
            url.clone(),
            lower_escapes(&url),
            format!("{VALUE:?}").trim_matches('"').to_owned(),
            "ghp_Ab\\/c+d=\\\"e\\\\f&<g>'0123456789".to_owned(),
            "ghp_Ab/c+d=\\\"e\\\\f\\u0026\\u003cg\\u003e'0123456789".to_owned(),
            "ghp_Ab/c+d=&quot;e\\f&amp;&lt;g&gt;&#39;0123456789".to_owned(),
            "ghp_Ab/c+d=&#34;e\\f&amp;&lt;g&gt;&#39;0123456789".to_owned(),
        ] {
            let whole = format!("before {said} after");
            let shown = masked(&patterns, Fit::Exact, [whole.as_bytes()], false);
            assert_eq!(
                String::from_utf8(shown).unwrap(),
                format!("before {HOLDER} after"),
                "{said}"
            );
        }
        for user in ["", "x", "me", "git", "oauth2"] {
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{VALUE}"));
            let shown = masked(&patterns, Fit::Exact, [basic.as_bytes()], false);
            let shown = String::from_utf8(shown).unwrap();
            assert!(
                shown.contains(HOLDER) && shown.len() < HOLDER.len() + 20,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_value_that_begins_another_one_is_hidden_with_it() {
        let short = "abcdefgh";
        let patterns = patterns(&[(short, "S"), ("abcdefghijkl", "L")]);
        for (said, expected) in [
            ("abcdefghijkl", "L"),
            ("abcdefghijk.", "Sijk."),
            ("abcdefgh", "S"),
        ] {
            let bytes: Vec<&[u8]> = said.as_bytes().chunks(1).collect();
            assert_eq!(
                masked(&patterns, Fit::Exact, bytes, false),
                expected.as_bytes()
            );
        }
    }

    #[test]
    fn silence_gives_a_little_and_hides_the_rest() {
        let patterns = patterns(&[(VALUE, HOLDER)]);
        let mut mask = Mask::new(patterns, Fit::Length);
        assert_eq!(mask.feed("the end is gh".into()), "the end is ");
        assert!(mask.waits());
        assert_eq!(mask.release(), "gh");
        assert!(!mask.waits());
        assert_eq!(mask.feed(". ".into()), ". ");
        assert_eq!(mask.feed(Bytes::from(VALUE[..20].to_owned())), "");
        assert_eq!(mask.release(), &VALUE[..HARMLESS]);
        let rest = mask.feed(Bytes::from(VALUE[20..].to_owned()));
        assert_eq!(rest.len(), VALUE.len() - HARMLESS);
        assert!(rest.starts_with(b"snowglobe"));
    }

    proptest! {
        /// However the data is cut, no value comes out, and everything else does.
        #[test]
        fn no_cut_lets_a_value_through(
            parts in prop::collection::vec(prop_oneof![Just(VALUE.to_owned()), "[ghp_A]{0,6}", ".{0,5}"], 0..8),
            cuts in prop::collection::vec(1usize..40, 0..40),
            silent: bool,
        ) {
            let patterns = patterns(&[(VALUE, HOLDER)]);
            let data = parts.concat();
            let (mut pieces, mut rest) = (Vec::new(), data.as_bytes());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let same = masked(&patterns, Fit::Length, pieces.iter().copied(), silent);
            prop_assert_eq!(same.len(), data.len());
            prop_assert!(memchr::memmem::find(&same, VALUE.as_bytes()).is_none());
            if !silent {
                let exact = masked(&patterns, Fit::Exact, pieces, false);
                prop_assert_eq!(String::from_utf8(exact).unwrap(), data.replace(VALUE, HOLDER));
            }
        }
    }
}
