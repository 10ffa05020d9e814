//! Hints for a text that is not in the file: the usual mistakes, then the most similar line.

use std::time::{Duration, Instant};

use similar::TextDiff;

use crate::files::excerpt::excerpt;

/// The longest search for the most similar line.
const SEARCH: Duration = Duration::from_millis(300);

/// The longest line that is compared, in bytes.
const LONGEST: usize = 500;

/// How many lines are compared character by character.
const CANDIDATES: usize = 12;

/// How many lines are shown.
const SHOWN: usize = 3;

/// Recognizes one kind of mistake from the content, the old text and the new text.
type Mistake = fn(&str, &str, &str) -> Option<String>;

/// A hint, in brackets or after a semicolon; empty if there is none.
pub(super) fn absent(content: &str, old: &str, new: &str) -> String {
    let mistakes: [Mistake; 6] = [numbered, done, spaced, escaped, cased, nearest];
    mistakes
        .iter()
        .find_map(|mistake| mistake(content, old, new))
        .unwrap_or_default()
}

/// The old text has line numbers as `read` shows them.
fn numbered(content: &str, old: &str, _: &str) -> Option<String> {
    let number_off = |line: &str| -> Option<String> {
        let rest = line.trim_start();
        let text = rest.trim_start_matches(|char: char| char.is_ascii_digit());
        let text = text
            .strip_prefix(['\t', '→'])
            .filter(|text| text.len() < rest.len())?;
        rest.starts_with(|char: char| char.is_ascii_digit())
            .then(|| text.to_owned())
    };
    let lines: Option<Vec<String>> = old
        .strip_suffix('\n')
        .unwrap_or(old)
        .split('\n')
        .map(number_off)
        .collect();
    let text = lines?.join("\n");
    let there = match content.contains(&text) {
        true => ", and is in it without them",
        false => "",
    };
    Some(format!(
        ": it has the line numbers that read shows{there}; leave out each line's number and tab"
    ))
}

/// The edit was already made.
fn done(content: &str, _: &str, new: &str) -> Option<String> {
    let at = content.find(new).filter(|_| new.trim().len() > 8)?;
    Some(format!(
        "; new_string is, at line {}: perhaps this change was made before",
        line_of(content, at)
    ))
}

/// The white space differs.
fn spaced(content: &str, old: &str, _: &str) -> Option<String> {
    let words = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let (wanted, lines) = (words(old), words(content));
    if wanted.iter().all(String::is_empty) {
        return None;
    }
    let at = lines
        .windows(wanted.len())
        .position(|window| window == wanted)?;
    Some(format!(
        " (at line {} is a text that differs in white space only: {})",
        at + 1,
        shown(content, at, wanted.len())
    ))
}

/// The old text has escapes instead of the characters themselves.
fn escaped(content: &str, old: &str, _: &str) -> Option<String> {
    let mut text = String::with_capacity(old.len());
    let mut chars = old.chars();
    while let Some(char) = chars.next() {
        match (char, chars.as_str().chars().next()) {
            ('\\', Some(next @ ('n' | 't' | '"' | '\'' | '\\'))) => {
                chars.next();
                text.push(match next {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                });
            }
            _ => text.push(char),
        }
    }
    let at = content.find(&text).filter(|_| text != old)?;
    Some(format!(
        "; without the backslashes it is, at line {}: send line breaks, tabs and quotes as they are",
        line_of(content, at)
    ))
}

/// Upper and lower case differ.
fn cased(content: &str, old: &str, _: &str) -> Option<String> {
    let content = content.to_lowercase();
    let at = content.find(&old.to_lowercase())?;
    Some(format!(
        " (at line {} is a text that differs in upper and lower case only)",
        line_of(&content, at)
    ))
}

/// The line that is most similar to the longest line of the old text.
fn nearest(content: &str, old: &str, _: &str) -> Option<String> {
    let until = Instant::now() + SEARCH;
    let (offset, wanted) = old
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| (4..=LONGEST).contains(&line.len()))
        .max_by_key(|(_, line)| line.len())?;
    let counts = letters(wanted);
    let mut candidates: Vec<(usize, usize, &str)> = Vec::new();
    for (number, line) in content.lines().enumerate() {
        if number % 1024 == 0 && Instant::now() >= until {
            break;
        }
        let line = line.trim();
        let both = line.len() + wanted.len();
        if line.len() > LONGEST || both > 4 * line.len().min(wanted.len()) {
            continue;
        }
        let common: usize = letters(line)
            .iter()
            .zip(&counts)
            .map(|(one, other)| usize::from(*one.min(other)))
            .sum();
        candidates.push((2000 * common / both, number, line));
    }
    candidates.sort_by_key(|(likeness, number, _)| (std::cmp::Reverse(*likeness), *number));
    let (likeness, number) = candidates
        .iter()
        .take(CANDIDATES)
        .map(|(_, number, line)| (TextDiff::from_chars(wanted, *line).ratio(), *number))
        .max_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1)))?;
    if likeness < 0.6 {
        return None;
    }
    let first = number.saturating_sub(offset);
    Some(format!(
        " (the nearest text is at line {}: {})",
        first + 1,
        shown(content, first, old.lines().count())
    ))
}

fn letters(line: &str) -> [u16; 256] {
    let mut counts = [0_u16; 256];
    for byte in line.bytes() {
        counts[usize::from(byte)] = counts[usize::from(byte)].saturating_add(1);
    }
    counts
}

/// Some lines, with visible white space.
fn shown(content: &str, from: usize, count: usize) -> String {
    let lines: Vec<String> = content
        .lines()
        .skip(from)
        .take(count.min(SHOWN))
        .map(|line| excerpt(line, &[]))
        .collect();
    let more = if count > SHOWN { " …" } else { "" };
    format!("{:?}{more}", lines.join("\n"))
}

fn line_of(content: &str, at: usize) -> usize {
    memchr::memchr_iter(b'\n', &content.as_bytes()[..at]).count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_slips_are_named() {
        let content = "fn one() {\n\tlet total = first + second;\n}\nprint(\"a\\n\");\n";
        for (old, said) in [
            (
                "     1\tfn one() {\n     2\t\tlet total",
                "line numbers that read shows, and is in it",
            ),
            ("2→\tlet total = first + second;", "line numbers"),
            (
                "    let total = first + second;",
                "line 2 is a text that differs in white space only: \"\\tlet",
            ),
            (
                "fn one() {\\n\\tlet",
                "without the backslashes it is, at line 1",
            ),
            ("print(\\\"a", "without the backslashes it is, at line 4"),
            (
                "FN one",
                "line 1 is a text that differs in upper and lower case",
            ),
            (
                "let total = first - second;\n",
                "the nearest text is at line 2: \"\\tlet total = first + second;\"",
            ),
        ] {
            let hint = absent(content, old, "x");
            assert!(hint.contains(said), "{old:?}: {hint}");
        }
        let hint = absent(content, "entirely different", "let total = first");
        assert!(hint.contains("new_string is, at line 2"), "{hint}");
        assert_eq!(absent(content, "entirely different", "x"), "");
        assert_eq!(absent("", "x", ""), "");
    }

    #[test]
    fn hints_are_bounded() {
        let content = format!("{}\n", "ab ".repeat(4_000)).repeat(400);
        let started = Instant::now();
        let hint = absent(&content, &"ab  ".repeat(4_000), "x");
        assert!(hint.len() < 600, "{}", hint.len());
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
