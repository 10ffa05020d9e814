//! The pattern of a search, and whether it spans lines.

use grep_regex::{ErrorKind, RegexMatcher, RegexMatcherBuilder};
use regex_syntax::hir::{Hir, HirKind};

use crate::wire::SearchRequest;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) matcher: RegexMatcher,
    /// Whether a match can span lines.
    pub(super) multi_line: bool,
    /// Whether the pattern names CR; otherwise lines are searched without the CR of CRLF.
    pub(super) keeps_cr: bool,
}

impl Pattern {
    /// Compiles a pattern; an error says what is wrong with it.
    pub(super) fn new(request: &SearchRequest) -> Result<Self, String> {
        // A CRLF in the pattern's text stands for any line end.
        let text = match request.pattern.replace("\r\n", "\n") {
            text if text.trim_matches('\n').is_empty() => request.pattern.clone(),
            text => text,
        };
        let hir = match request.literal {
            true => None,
            false => regex_syntax::ParserBuilder::new()
                .multi_line(true)
                .utf8(false)
                .build()
                .parse(&text)
                .ok(),
        };
        let keeps_cr = match &hir {
            Some(hir) => any(hir, &names_cr),
            None => text.contains('\r'),
        };
        let spans = hir.as_ref().is_some_and(|hir| any(hir, &spans_lines));
        let mut builder = RegexMatcherBuilder::new();
        builder
            .multi_line(true)
            .case_insensitive(request.ignore_case)
            .fixed_strings(request.literal);
        let mut built = Err(());
        if !spans {
            match builder.line_terminator(Some(b'\n')).build(&text) {
                Ok(matcher) => built = Ok((matcher, false)),
                // The pattern contains a line end.
                Err(e) if matches!(e.kind(), ErrorKind::NotAllowed(_)) => {}
                Err(e) => return Err(wrong(&request.pattern, &e)),
            }
        }
        let (matcher, multi_line) = match built {
            Ok(built) => built,
            Err(()) => builder
                .line_terminator(None)
                .build(&text)
                .map(|matcher| (matcher, true))
                .map_err(|e| wrong(&request.pattern, &e))?,
        };
        Ok(Self {
            matcher,
            multi_line,
            keeps_cr,
        })
    }
}

/// What is wrong with a pattern, and what to do about it.
fn wrong(pattern: &str, error: &grep_regex::Error) -> String {
    let error = error.to_string();
    let remedy = if error.contains("look-around") || error.contains("backreferences") {
        "leave it out and look through more matches, or use exec with `grep -P`, where the image has it"
    } else if error.contains("size limit") {
        "use smaller counts of repetition"
    } else {
        "put a backslash before characters that are meant as they are, or set `literal` to search for the text itself"
    };
    format!("search for {pattern:?}: {error}\n{remedy}")
}

/// A remark on a valid pattern without matches that probably means something else.
pub(super) fn remark(request: &SearchRequest) -> Option<String> {
    let has = |text| request.pattern.contains(text);
    if request.literal {
        return None;
    }
    if has("\\|") {
        return Some(
            "`\\|` stands for the character `|` here; alternatives are written `one|other`"
                .to_owned(),
        );
    }
    (has("\\(") && has("\\)") && (has(".*") || has("\\+"))).then(|| {
        "`\\(`, `\\)` and `\\+` stand for the characters themselves here; groups are written `(…)`, repetition `+`"
            .to_owned()
    })
}

/// Whether the condition is true for some part of the pattern.
fn any(hir: &Hir, condition: &dyn Fn(&Hir) -> bool) -> bool {
    condition(hir)
        || match hir.kind() {
            HirKind::Repetition(repetition) => any(&repetition.sub, condition),
            HirKind::Capture(capture) => any(&capture.sub, condition),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().any(|part| any(part, condition))
            }
            HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
        }
}

/// Whether a part is a CR, or a set of line ends.
fn names_cr(hir: &Hir) -> bool {
    let end = |char: char| matches!(char, '\r' | '\n');
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.contains(&b'\r'),
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class
                .iter()
                .any(|range| range.start() == '\r' || range.end() == '\r')
                && class
                    .iter()
                    .all(|range| end(range.start()) && end(range.end()))
        }
        _ => false,
    }
}

/// Whether a part is meant to span lines: `[\s\S]` and the like, a dot with the flag `s`, or a set of line ends.
fn spans_lines(hir: &Hir) -> bool {
    let HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
        return false;
    };
    match class.ranges() {
        [all] if all.start() == '\0' && all.end() == char::MAX => true,
        ranges => {
            let ends = ranges
                .iter()
                .all(|range| matches!((range.start(), range.end()), ('\r' | '\n', '\r' | '\n')));
            ends && ranges.iter().any(|range| range.start() == '\n')
        }
    }
}

#[cfg(test)]
mod tests {
    use grep_matcher::Matcher;

    use super::*;
    use crate::wire::User;

    fn request(pattern: &str, literal: bool) -> SearchRequest {
        SearchRequest {
            pattern: pattern.to_owned(),
            literal,
            ignore_case: false,
            path: String::new(),
            user: User::Root,
            globs: Vec::new(),
            context: 0,
            limit: 1,
            max_bytes: 1,
        }
    }

    #[test]
    fn patterns_that_span_lines_are_known() {
        for (pattern, multi_line, keeps_cr) in [
            ("foo", false, false),
            ("foo;$", false, false),
            ("\\s+$", false, false),
            ("[^x]*y", false, false),
            ("a.*b", false, false),
            ("a\\nb", true, false),
            ("a\nb", true, false),
            ("a\r\nb", true, false),
            ("foo\\s*\\n\\s*bar", true, false),
            ("(?s)a.*b", true, false),
            ("(?s:a.*)b", true, false),
            ("a[\\s\\S]*?b", true, false),
            ("a(.|\\n)*b", true, false),
            ("a\\x0ab", true, false),
            ("\\r$", false, true),
            ("\\r\\n", true, true),
            ("a[\\r\\n]+b", true, true),
        ] {
            let compiled = Pattern::new(&request(pattern, false)).unwrap();
            assert_eq!(
                (compiled.multi_line, compiled.keeps_cr),
                (multi_line, keeps_cr),
                "{pattern:?}"
            );
        }
        for (pattern, multi_line, keeps_cr) in [
            ("a\nb", true, false),
            ("a\r\nb", true, false),
            ("a.*(", false, false),
            ("\r\n", true, true),
            ("\r", false, true),
        ] {
            let compiled = Pattern::new(&request(pattern, true)).unwrap();
            assert_eq!(
                (compiled.multi_line, compiled.keeps_cr),
                (multi_line, keeps_cr),
                "{pattern:?}"
            );
        }
        let over = Pattern::new(&request("foo\\s*\\n\\s*bar", false)).unwrap();
        assert!(over.matcher.is_match(b"foo\n\n  bar").unwrap());
    }

    #[test]
    fn a_wrong_pattern_has_its_place_and_remedy() {
        for (pattern, said) in [
            ("one(", "unclosed group"),
            ("one(", "`literal`"),
            ("foo(?=bar)", "grep -P"),
            ("(?<!x)y", "look-around"),
            ("(a)\\1", "backreferences"),
            ("a{1000}{1000}{1000}", "repetition"),
            ("[z-a]", "[z-a]"),
        ] {
            let wrong = Pattern::new(&request(pattern, false)).unwrap_err();
            assert!(wrong.contains(said), "{pattern}: {wrong}");
        }
    }
}
