//! Excerpts of very long lines: the text around the matches, and the length of what is left out.

use std::ops::Range;

use crate::text::grouped;

/// The longest line that is shown whole, in bytes. An excerpt of a longer line has about this length.
pub(crate) const LONGEST: usize = 400;

/// How many bytes are shown before and after a match.
const AROUND: usize = 100;

/// How many bytes of a long match are shown.
const MATCH: usize = 200;

/// The shortest text that is left out, in bytes.
const GAP: usize = 40;

/// The line, or an excerpt of a long line: the text around `matches`, which ascend, or the beginning if there are none.
/// Characters stay whole. A mark counts the characters that are left out.
pub(crate) fn excerpt(line: &str, matches: &[Range<usize>]) -> String {
    if line.len() <= LONGEST {
        return line.to_owned();
    }
    let (windows, shown) = windows(line, matches);
    let mut text = String::new();
    let mut from = 0;
    for window in &windows {
        mark(&mut text, &line[from..window.start], 0);
        text.push_str(&line[window.clone()]);
        from = window.end;
    }
    mark(&mut text, &line[from..], matches.len() - shown);
    text
}

/// The parts to show, and how many matches they contain.
fn windows(line: &str, matches: &[Range<usize>]) -> (Vec<Range<usize>>, usize) {
    let mut windows: Vec<Range<usize>> = Vec::new();
    let (mut room, mut shown) = (LONGEST, 0);
    for found in matches {
        let end = found.end.min(found.start + MATCH);
        let mut window = Range {
            start: before(line, found.start.saturating_sub(AROUND)),
            end: after(line, end + AROUND),
        };
        if let Some(last) = windows.last_mut()
            && window.start < last.end + GAP
        {
            window.start = last.end;
            window.end = window.end.max(last.end);
        }
        if window.len() > room && shown > 0 {
            break;
        }
        room = room.saturating_sub(window.len());
        shown += 1;
        match windows.last_mut() {
            Some(last) if last.end == window.start => last.end = window.end,
            _ => windows.push(window),
        }
    }
    if windows.is_empty() {
        windows.push(0..before(line, LONGEST));
    }
    (windows, shown)
}

/// The start of the character at `at`, or the start of the line if it is near.
fn before(line: &str, at: usize) -> usize {
    if at < GAP {
        return 0;
    }
    let mut at = at.min(line.len());
    while !line.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The end of the character before `at`, or the end of the line if it is near.
fn after(line: &str, at: usize) -> usize {
    if at + GAP > line.len() {
        return line.len();
    }
    let mut at = at;
    while !line.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// Adds a mark for text that is left out.
fn mark(text: &mut String, omitted: &str, matches: usize) {
    if omitted.is_empty() {
        return;
    }
    let count = grouped(omitted.chars().count() as u64);
    let with = match matches {
        0 => String::new(),
        1 => " with another match".to_owned(),
        more => format!(" with {} more matches", grouped(more as u64)),
    };
    text.push_str(&format!("[… {count} characters{with} …]"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn around(line: &str, wanted: &str) -> String {
        let matches: Vec<_> = line
            .match_indices(wanted)
            .map(|(at, text)| at..at + text.len())
            .collect();
        excerpt(line, &matches)
    }

    #[test]
    fn the_text_around_the_match_is_shown() {
        let (a, b) = ("a".repeat(5_000), "b".repeat(3_000));
        let shown = around(&format!("{a}needle{b}"), "needle");
        let expected = format!(
            "[… 4,900 characters …]{}needle{}[… 2,900 characters …]",
            &a[..AROUND],
            &b[..AROUND]
        );
        assert_eq!(shown, expected);
        let shown = around(&format!("needle{b}"), "needle");
        assert!(shown.starts_with("needlebbb"), "{shown}");
        let shown = around(&format!("{a}needle"), "needle");
        assert!(shown.ends_with("aneedle"), "{shown}");
        let shown = excerpt(&a, &[]);
        assert!(shown.ends_with("aaa[… 4,600 characters …]"), "{shown}");
        assert_eq!(excerpt(&a[..LONGEST], &[]), a[..LONGEST]);
    }

    #[test]
    fn several_matches_are_shown_or_counted() {
        let line = format!("{0}needle{0}needle{0}", "x".repeat(1_000));
        let shown = around(&line, "needle");
        assert_eq!(shown.matches("needle").count(), 1);
        assert!(
            shown.ends_with("x[… 1,906 characters with another match …]"),
            "{shown}"
        );
        let line = format!("{0}needle and needle{0}", "x".repeat(1_000));
        assert_eq!(around(&line, "needle").matches("needle").count(), 2);
    }

    proptest! {
        /// Nothing is lost uncounted, the first match is there, and the result is bounded.
        #[test]
        fn what_is_not_shown_is_counted(
            start in "[a-é€😀]{0,2000}",
            found in "(needle|n€€dle){1,80}",
            end in "[a-é€😀]{0,2000}",
        ) {
            let line = format!("{start}{found}{end}");
            let shown = excerpt(&line, std::slice::from_ref(&(start.len()..start.len() + found.len())));
            prop_assert!(shown.contains(&found.chars().take(6).collect::<String>()));
            prop_assert!(shown.len() < LONGEST + 120);
            let mut characters = 0;
            for part in shown.split(['[', ']']) {
                characters += match part.strip_prefix("… ").and_then(|part| part.strip_suffix(" characters …")) {
                    Some(count) => count.replace(',', "").parse().unwrap(),
                    None => part.chars().count(),
                };
            }
            prop_assert_eq!(characters, line.chars().count());
        }
    }
}
