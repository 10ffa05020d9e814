//! The difference of two texts, in hunks that can be taken one by one. Pure; texts are bytes.

use std::collections::{BTreeSet, HashMap};

use diffy::{DiffOptions, Line};

/// The longest text that is compared line by line, in bytes.
pub const LONGEST: u64 = 4 << 20;

/// How much of a file is searched for the NUL that makes it binary, in bytes.
const SEARCHED: usize = 8000;

/// The most steps that the comparison of two texts may take. The search's time grows with the square of the differences,
/// so two texts of the guest could keep the host busy for hours. It is a number of steps and no time: hunks that were
/// listed have the same numbers when they are applied.
const MOST_STEPS: usize = 16_000_000;

/// The context of a hunk, in lines.
const CONTEXT: usize = 3;

/// Whether contents are text, as git decides it.
pub fn is_text(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= LONGEST && !bytes[..bytes.len().min(SEARCHED)].contains(&0)
}

/// The difference of two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextDiff {
    /// The hunks, in the order of the text.
    pub hunks: Vec<Hunk>,
    /// How many lines are new.
    pub added: u64,
    /// How many lines are gone.
    pub removed: u64,
}

/// A place where the texts differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The hunk as in a unified diff, with its head.
    pub text: Vec<u8>,
    /// The first line of the old text, from 0, and how many lines the hunk has of it.
    old: (usize, usize),
    /// What stands there instead.
    new: Vec<u8>,
}

impl TextDiff {
    /// Compares two texts. Where they differ too much, all between the first and the last difference is one hunk.
    pub fn of(old: &[u8], new: &[u8]) -> Self {
        if !differ_little(old, new) {
            return Self::coarse(old, new);
        }
        let patch = DiffOptions::new().create_patch_bytes(old, new);
        let (mut added, mut removed) = (0, 0);
        let hunks = patch.hunks().iter().map(|hunk| {
            let (mut text, mut now) = (Vec::new(), Vec::new());
            for line in hunk.lines() {
                match line {
                    Line::Context(line) => now.extend_from_slice(line),
                    Line::Delete(_) => removed += 1,
                    Line::Insert(line) => {
                        added += 1;
                        now.extend_from_slice(line);
                    }
                }
            }
            let range = hunk.old_range();
            // A range without lines is counted from the line before it.
            let start = match range.len() {
                0 => range.start(),
                _ => range.start().saturating_sub(1),
            };
            write_hunk(hunk, &mut text);
            Hunk {
                text,
                old: (start, range.len()),
                new: now,
            }
        });
        let hunks = hunks.collect();
        Self {
            hunks,
            added,
            removed,
        }
    }

    /// One hunk with all between the first and the last line that differ.
    fn coarse(old: &[u8], new: &[u8]) -> Self {
        let (old, new) = (lines(old), lines(new));
        let (before, after) = common(&old, &new);
        let (gone, come) = (before..old.len() - after, before..new.len() - after);
        let first = before.saturating_sub(CONTEXT);
        let follow = after.min(CONTEXT);
        let (old_length, new_length) = (gone.end + follow - first, come.end + follow - first);
        let mut text = format!(
            "@@ -{} +{} @@\n",
            in_words(first, old_length),
            in_words(first, new_length)
        )
        .into_bytes();
        let context = |sign, lines: &[&[u8]], text: &mut Vec<u8>| {
            lines.iter().for_each(|line| write_line(sign, line, text));
        };
        context(b' ', &old[first..before], &mut text);
        context(b'-', &old[gone.clone()], &mut text);
        context(b'+', &new[come.clone()], &mut text);
        context(b' ', &old[gone.end..gone.end + follow], &mut text);
        Self {
            hunks: vec![Hunk {
                text,
                old: (first, old_length),
                new: new[first..come.end + follow].concat(),
            }],
            added: come.len() as u64,
            removed: gone.len() as u64,
        }
    }

    /// The old text with these hunks, counted from 1.
    pub fn with(&self, old: &[u8], taken: &BTreeSet<usize>) -> Vec<u8> {
        let lines = lines(old);
        let (mut text, mut at) = (Vec::with_capacity(old.len()), 0);
        for (number, hunk) in self.hunks.iter().enumerate() {
            if !taken.contains(&(number + 1)) {
                continue;
            }
            let (start, length) = hunk.old;
            text.extend(lines[at..start].concat());
            text.extend_from_slice(&hunk.new);
            at = start + length;
        }
        text.extend(lines[at..].concat());
        text
    }
}

fn write_hunk(hunk: &diffy::Hunk<'_, [u8]>, to: &mut Vec<u8>) {
    let range = |range: diffy::HunkRange| match range.len() {
        1 => range.start().to_string(),
        length => format!("{},{length}", range.start()),
    };
    let head = format!(
        "@@ -{} +{} @@\n",
        range(hunk.old_range()),
        range(hunk.new_range())
    );
    to.extend_from_slice(head.as_bytes());
    for line in hunk.lines() {
        let (sign, line) = match line {
            Line::Context(line) => (b' ', line),
            Line::Delete(line) => (b'-', line),
            Line::Insert(line) => (b'+', line),
        };
        write_line(sign, line, to);
    }
}

fn write_line(sign: u8, line: &[u8], to: &mut Vec<u8>) {
    to.push(sign);
    to.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        to.extend_from_slice(b"\n\\ No newline at end of file\n");
    }
}

/// A range of lines as the head of a hunk has it; one without lines is counted from the line before it.
fn in_words(first: usize, length: usize) -> String {
    match length {
        0 => format!("{first},0"),
        1 => format!("{}", first + 1),
        _ => format!("{},{length}", first + 1),
    }
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// How many items two lists have in common at their beginnings, and how many of the rest at their ends.
fn common<T: PartialEq>(old: &[T], new: &[T]) -> (usize, usize) {
    let same = |(one, other): &(&T, &T)| one == other;
    let before = old.iter().zip(new).take_while(same).count();
    let rest = old[before..].iter().rev().zip(new[before..].iter().rev());
    (before, rest.take_while(same).count())
}

/// Whether two texts can be compared in [`MOST_STEPS`]: the search of the shortest edit, which gives up there.
fn differ_little(old: &[u8], new: &[u8]) -> bool {
    let mut numbers = HashMap::new();
    let mut numbered = |text| -> Vec<usize> {
        let number = |line| {
            let next = numbers.len();
            *numbers.entry(line).or_insert(next)
        };
        lines(text).into_iter().map(number).collect()
    };
    let (old, new) = (numbered(old), numbered(new));
    let (before, after) = common(&old, &new);
    let old = &old[before..old.len() - after];
    let new = &new[before..new.len() - after];
    // `n` edits take n²/2 steps, so there are no more than these.
    let most = (old.len() + new.len()).min((2 * MOST_STEPS).isqrt() + 1);
    let most = most.cast_signed();
    // The furthest line of `old` on each diagonal; diagonal 0 is in the middle.
    let mut furthest = vec![0_usize; (2 * most + 3).unsigned_abs()];
    let place = |diagonal: isize| (diagonal + most + 1).unsigned_abs();
    let mut steps = 0;
    for edits in 0..=most {
        for diagonal in (-edits..=edits).step_by(2) {
            let at = |diagonal| furthest[place(diagonal)];
            let down =
                diagonal == -edits || (diagonal != edits && at(diagonal - 1) < at(diagonal + 1));
            let from = match down {
                true => at(diagonal + 1),
                false => at(diagonal - 1) + 1,
            };
            let Some(other) = from.checked_add_signed(-diagonal) else {
                continue;
            };
            let equal = match (old.get(from..), new.get(other..)) {
                (Some(old), Some(new)) => common_start(old, new),
                _ => 0,
            };
            steps += equal + 1;
            if from + equal >= old.len() && other + equal >= new.len() {
                return true;
            }
            furthest[place(diagonal)] = from + equal;
        }
        if steps > MOST_STEPS {
            break;
        }
    }
    false
}

fn common_start(old: &[usize], new: &[usize]) -> usize {
    let both = old.iter().zip(new);
    both.take_while(|(one, other)| one == other).count()
}

/// Merges two changed texts; `None` if they conflict.
pub fn merge(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let comparable = || differ_little(base, ours) && differ_little(base, theirs);
    if [base, ours, theirs].into_iter().all(is_text) && comparable() {
        return diffy::merge_bytes(base, ours, theirs).ok();
    }
    None
}

/// Reads a diff again: only for its tests.
#[cfg(test)]
fn parsed(text: &[u8]) -> diffy::Patch<'_, [u8]> {
    diffy::Patch::from_bytes(text).unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: [&[u8]; 6] = [b"a\n", b"b\n", b"c\r\n", b"\xff\n", b"\n", b" x\n"];

    const LAST: [&[u8]; 3] = [b"", b"end", b"\xfe"];

    /// A text of few different lines, perhaps without an end of the last one.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(&LINES[..]);
        let last = prop::sample::select(&LAST[..]);
        (prop::collection::vec(line, 0..40), last)
            .prop_map(|(lines, last)| [lines.concat(), last.to_vec()].concat())
    }

    fn all(diff: &TextDiff) -> BTreeSet<usize> {
        (1..=diff.hunks.len()).collect()
    }

    proptest! {
        #[test]
        fn all_hunks_give_the_new_text_and_none_the_old(old in text(), new in text()) {
            let diff = TextDiff::of(&old, &new);
            prop_assert_eq!(diff.with(&old, &all(&diff)), new.clone());
            prop_assert_eq!(diff.with(&old, &BTreeSet::new()), old.clone());
            prop_assert_eq!(diff.hunks.is_empty(), old == new);
        }

        #[test]
        fn hunks_can_be_taken_in_any_order(old in text(), new in text(), choice in any::<u64>()) {
            let diff = TextDiff::of(&old, &new);
            let chosen: BTreeSet<usize> = all(&diff).into_iter().filter(|n| choice >> (n % 64) & 1 == 1).collect();
            let some = diff.with(&old, &chosen);
            // What is left leads to the new text, and is no more than what was not taken.
            let rest = TextDiff::of(&some, &new);
            prop_assert_eq!(rest.with(&some, &all(&rest)), new);
            if chosen.is_empty() {
                prop_assert_eq!(some, old);
            }
        }

        #[test]
        fn one_hunk_for_all_is_a_diff_too(old in text(), new in text()) {
            prop_assume!(old != new);
            let diff = TextDiff::coarse(&old, &new);
            prop_assert_eq!(diff.with(&old, &all(&diff)), new.clone());
            prop_assert_eq!(diff.with(&old, &BTreeSet::new()), old.clone());
            let shown = [b"--- a\n+++ b\n", diff.hunks[0].text.as_slice()].concat();
            prop_assert_eq!(diffy::apply_bytes(&old, &parsed(&shown)).unwrap(), new);
        }

        #[test]
        fn what_is_shown_is_a_diff_that_others_read(old in text(), new in text()) {
            let diff = TextDiff::of(&old, &new);
            prop_assume!(!diff.hunks.is_empty());
            let mut shown = b"--- a\n+++ b\n".to_vec();
            diff.hunks.iter().for_each(|hunk| shown.extend_from_slice(&hunk.text));
            prop_assert_eq!(diffy::apply_bytes(&old, &parsed(&shown)).unwrap(), new);
        }

        #[test]
        fn changes_of_different_places_merge(old in text(), new in text()) {
            prop_assert_eq!(merge(&old, &old, &new), Some(new.clone()));
            prop_assert_eq!(merge(&old, &new, &old), Some(new.clone()));
            prop_assert_eq!(merge(&old, &new, &new), Some(new));
        }
    }

    #[test]
    fn texts_that_differ_too_much_are_one_hunk() {
        let text = |letter: char| -> Vec<u8> {
            let lines = (0..20_000).map(|line| format!("{letter}{line}\n"));
            format!("same\n{}same\n", lines.collect::<String>()).into_bytes()
        };
        let (old, new) = (text('a'), text('b'));
        assert!(!differ_little(&old, &new));
        let diff = TextDiff::of(&old, &new);
        assert_eq!(
            (diff.hunks.len(), diff.added, diff.removed),
            (1, 20_000, 20_000)
        );
        assert_eq!(diff.with(&old, &all(&diff)), new);
        assert_eq!(merge(&old, &new, &[&old[..], b"more\n"].concat()), None);
        // A long text with few differences is compared line by line.
        let changed = [b"first\n", &old[..], b"last\n"].concat();
        assert_eq!(TextDiff::of(&old, &changed).hunks.len(), 2);
    }

    #[test]
    fn a_conflict_is_none_and_binary_is_no_text() {
        assert_eq!(merge(b"a\n", b"b\n", b"c\n"), None);
        assert_eq!(
            merge(
                b"a\nx\nx\nx\nx\nb\n",
                b"A\nx\nx\nx\nx\nb\n",
                b"a\nx\nx\nx\nx\nB\n"
            )
            .unwrap(),
            b"A\nx\nx\nx\nx\nB\n"
        );
        assert!(!is_text(b"a\0") && is_text(b"\xff\xfe\n"));
    }
}
