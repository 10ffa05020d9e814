//! Line ends. Matching ignores their kind, and writing keeps each line's own.
//!
//! A line ends in LF, in CRLF (with any number of CR, as bad conversions leave them) or, as on an old Mac, in CR.

use std::borrow::Cow;

/// A kind of line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Lf,
    CrLf,
    Cr,
}

impl Style {
    /// The line end that most lines of `text` have; `None` if there is no line end.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (mut lf, mut crlf, mut cr) = (0_usize, 0_usize, 0_usize);
        let bytes = text.as_bytes();
        for at in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            match (bytes[at], bytes.get(at + 1)) {
                (b'\n', _) if at > 0 && bytes[at - 1] == b'\r' => crlf += 1,
                (b'\n', _) => lf += 1,
                (_, Some(b'\n' | b'\r')) => {}
                _ => cr += 1,
            }
        }
        if lf + crlf + cr == 0 {
            None
        } else if cr > lf + crlf {
            Some(Self::Cr)
        } else if crlf > lf {
            Some(Self::CrLf)
        } else {
            Some(Self::Lf)
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "\n",
            Self::CrLf => "\r\n",
            Self::Cr => "\r",
        }
    }
}

/// The text with each line end as LF. With `alone`, a CR without LF counts as a line end.
pub(super) fn unified(text: &str, alone: bool) -> Cow<'_, str> {
    if !text.contains('\r') {
        return Cow::Borrowed(text);
    }
    let mut result = String::with_capacity(text.len());
    walk(text, &mut |run| match run {
        Run::Text(text) => result.push_str(text),
        Run::End(_) => result.push('\n'),
        Run::Alone(count) => {
            result.extend(std::iter::repeat_n(if alone { '\n' } else { '\r' }, count))
        }
    });
    Cow::Owned(result)
}

/// The offsets in `text` of the characters at these ascending offsets of `unified(text)`.
pub(super) fn offsets(text: &str, wanted: &[usize]) -> Vec<usize> {
    let mut found = Vec::with_capacity(wanted.len());
    let (mut at, mut unified) = (0, 0);
    walk(text, &mut |run| {
        let (length, shown) = match run {
            Run::Text(text) => (text.len(), text.len()),
            Run::End(length) => (length, 1),
            Run::Alone(count) => (count, count),
        };
        while let Some(offset) = wanted.get(found.len())
            && *offset < unified + shown
        {
            found.push(at + offset - unified);
        }
        at += length;
        unified += shown;
    });
    found.resize(wanted.len(), at);
    found
}

/// A part of a text.
enum Run<'a> {
    /// Text without CR.
    Text(&'a str),
    /// CRs and LF, with this many bytes.
    End(usize),
    /// This many CRs without LF.
    Alone(usize),
}

fn walk(text: &str, each: &mut dyn FnMut(Run<'_>)) {
    let mut rest = text;
    while let Some(start) = memchr::memchr(b'\r', rest.as_bytes()) {
        each(Run::Text(&rest[..start]));
        let run = &rest[start..];
        let after = run.trim_start_matches('\r');
        let count = run.len() - after.len();
        match after.strip_prefix('\n') {
            Some(after) => {
                each(Run::End(count + 1));
                rest = after;
            }
            None => {
                each(Run::Alone(count));
                rest = after;
            }
        }
    }
    each(Run::Text(rest));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_end_is_the_one_of_most_lines() {
        for (text, style) in [
            ("a", None),
            ("a\n", Some(Style::Lf)),
            ("a\r\nb\n\r\n", Some(Style::CrLf)),
            ("a\rb\r", Some(Style::Cr)),
            ("1%\r2%\r3%\n\n\n", Some(Style::Lf)),
            ("a\r\r\nb", Some(Style::CrLf)),
        ] {
            assert_eq!(Style::of(text), style, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_character_is_found_again(text in "[abé\r\n]{0,40}") {
            let unified = unified(&text, true);
            prop_assert!(!unified.contains('\r'));
            let starts: Vec<usize> = unified.char_indices().map(|(at, _)| at).collect();
            let found = offsets(&text, &starts);
            for (char, at) in unified.chars().zip(&found) {
                let there = text[*at..].chars().next().unwrap();
                prop_assert!(there == char || (there == '\r' && char == '\n'));
            }
            prop_assert_eq!(offsets(&text, &[unified.len()]), [text.len()]);
        }
    }
}
