//! The change of an edit as a unified diff of bounded length. Of very long lines only the changed parts are shown.

use std::ops::Range;
use std::time::Duration;

use similar::{ChangeTag, DiffOp, TextDiff};

use crate::files::excerpt::excerpt;

/// The longest diff, in bytes.
const LONGEST: usize = 16_000;

/// The longest search for the smallest diff.
const SEARCH: Duration = Duration::from_millis(500);

/// The number of lines around a change.
const AROUND: usize = 3;

/// The diff of two texts whose lines end in LF.
pub(super) fn diff(path: &str, old: &str, new: &str) -> String {
    let diff = TextDiff::configure().timeout(SEARCH).diff_lines(old, new);
    let mut text = format!("--- {path}\n+++ {path}\n");
    for hunk in diff.unified_diff().context_radius(AROUND).iter_hunks() {
        text.push_str(&format!("{}\n", hunk.header()));
        for op in hunk.ops() {
            for change in diff.iter_changes(op) {
                let line = change.value();
                let part = match (change.tag(), change.old_index(), change.new_index()) {
                    (ChangeTag::Delete, Some(at), _) => counterpart(op, at, true)
                        .and_then(|other| diff.new_slice(other))
                        .map(|other| differing(line, other)),
                    (ChangeTag::Insert, _, Some(at)) => counterpart(op, at, false)
                        .and_then(|other| diff.old_slice(other))
                        .map(|other| differing(line, other)),
                    _ => None,
                };
                push(&mut text, change.tag(), line, part);
            }
            if text.len() > LONGEST {
                break;
            }
        }
        if text.len() > LONGEST {
            break;
        }
    }
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("\n[… the diff goes on …]\n");
    }
    text
}

fn push(text: &mut String, tag: ChangeTag, line: &str, part: Option<Range<usize>>) {
    let sign = match tag {
        ChangeTag::Delete => '-',
        ChangeTag::Insert => '+',
        ChangeTag::Equal => ' ',
    };
    let whole = line.strip_suffix('\n').unwrap_or(line);
    text.push(sign);
    text.push_str(&excerpt(whole, part.as_slice()));
    text.push('\n');
    if whole.len() == line.len() {
        text.push_str("\\ No newline at end of file\n");
    }
}

/// The line on the other side that replaces this one, or that this one replaces.
fn counterpart(op: &DiffOp, at: usize, old: bool) -> Option<usize> {
    let (mine, other) = match old {
        true => (op.old_range(), op.new_range()),
        false => (op.new_range(), op.old_range()),
    };
    Some(other.start + (at - mine.start)).filter(|at| other.contains(at))
}

/// The part of a line that differs from the other line.
fn differing(line: &str, other: &str) -> Range<usize> {
    let start: usize = line
        .chars()
        .zip(other.chars())
        .take_while(|(one, other)| one == other)
        .map(|(char, _)| char.len_utf8())
        .sum();
    let end: usize = line[start..]
        .chars()
        .rev()
        .zip(other[start..].chars().rev())
        .take_while(|(one, other)| one == other)
        .map(|(char, _)| char.len_utf8())
        .sum();
    start..line.len() - end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_the_change_and_is_bounded() {
        let text = diff("/f", "a\nb\nc", "a\nx\nc");
        assert_eq!(
            text,
            "--- /f\n+++ /f\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n\\ No newline at end of file\n"
        );
        let (old, new) = ("a\n".repeat(20_000), "b\n".repeat(20_000));
        assert!(diff("/f", &old, &new).len() < LONGEST + 100);
    }

    #[test]
    fn of_a_long_line_the_change_is_shown() {
        let line = |word: &str| format!("{}{word}{}\n", "x".repeat(50_000), "y".repeat(50_000));
        let text = diff("/f", &line("old"), &line("newer"));
        let mut lines = text.lines().skip(3);
        let removed = lines.next().unwrap();
        assert!(
            removed.starts_with("-[… 49,900 characters …]xx"),
            "{removed}"
        );
        assert!(removed.contains("xoldy"), "{removed}");
        assert!(lines.next().unwrap().contains("xnewery"), "{text}");
        assert!(text.len() < 1_000, "{text}");
    }
}
