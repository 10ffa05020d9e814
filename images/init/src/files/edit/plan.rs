//! The plan of a replacement: which parts of the old text stay, and what comes between them. Pure.

use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use super::error::Unclear;
use super::lines::Style;
use crate::files::encoding::Encoding;

/// The longest search for the lines that two texts share.
const PAIRING: Duration = Duration::from_millis(500);

/// A part of the replacement.
pub(super) enum Part {
    /// A range of the old text, as it is in the file.
    Keep(Range<usize>),
    New(String),
}

/// The parts that replace the old text.
pub(super) fn plan(old: &str, new: &str, style: Style, literal: bool) -> Vec<Part> {
    let start: usize = old
        .chars()
        .zip(new.chars())
        .take_while(|(one, other)| one == other)
        .map(|(char, _)| char.len_utf8())
        .sum();
    let end: usize = old[start..]
        .chars()
        .rev()
        .zip(new[start..].chars().rev())
        .take_while(|(one, other)| one == other)
        .map(|(char, _)| char.len_utf8())
        .sum();
    let (middle, new) = (start..old.len() - end, &new[start..new.len() - end]);
    let mut plan = vec![Part::Keep(0..start)];
    if literal || !new.contains('\n') {
        plan.push(Part::New(new.to_owned()));
    } else {
        pair(old, middle.clone(), new, style, &mut plan);
    }
    plan.push(Part::Keep(middle.end..old.len()));
    plan.retain(|part| match part {
        Part::Keep(range) => !range.is_empty(),
        Part::New(text) => !text.is_empty(),
    });
    plan
}

/// Pairs the lines of a range of the old text with those of the new text.
fn pair(old: &str, range: Range<usize>, new: &str, style: Style, plan: &mut Vec<Part>) {
    let mut at = range.start;
    // The lines and their starts; the last line has no end.
    let old_lines: Vec<&str> = old[range].split('\n').collect();
    let starts: Vec<usize> = old_lines
        .iter()
        .map(|line| {
            let start = at;
            at += line.len() + 1;
            start
        })
        .collect();
    let new_lines: Vec<&str> = new.split('\n').collect();
    let mut add = |line: usize, paired: Option<usize>, equal: bool| {
        let text = new_lines[line];
        let end = paired.map(|old| starts[old] + old_lines[old].len());
        match (paired, end) {
            (Some(old), Some(end)) if equal => plan.push(Part::Keep(starts[old]..end)),
            _ => plan.push(Part::New(text.to_owned())),
        }
        if line + 1 < new_lines.len() {
            match (paired, end) {
                (Some(old), Some(end)) if old + 1 < old_lines.len() => {
                    plan.push(Part::Keep(end..end + 1));
                }
                _ => plan.push(Part::New(style.as_str().to_owned())),
            }
        }
    };
    let deadline = Some(Instant::now() + PAIRING);
    for op in capture_diff_slices_deadline(Algorithm::Myers, &old_lines, &new_lines, deadline) {
        match op {
            DiffOp::Equal {
                old_index,
                new_index,
                len,
            } => (0..len).for_each(|n| add(new_index + n, Some(old_index + n), true)),
            DiffOp::Replace {
                old_index,
                old_len,
                new_index,
                new_len,
            } => (0..new_len).for_each(|n| {
                add(new_index + n, (n < old_len).then_some(old_index + n), false);
            }),
            DiffOp::Insert {
                new_index, new_len, ..
            } => (0..new_len).for_each(|n| add(new_index + n, None, false)),
            DiffOp::Delete { .. } => {}
        }
    }
}

/// The number of offsets that a plan needs: the start and the end of the place, and of each part that stays.
pub(super) fn marks_of(plan: &[Part]) -> usize {
    let kept = plan.iter().filter(|part| matches!(part, Part::Keep(_)));
    2 + 2 * kept.count()
}

/// The bytes of each new part.
pub(super) fn encode(encoding: Encoding, plan: &[Part]) -> Result<Vec<Vec<u8>>, Unclear> {
    let new = plan.iter().filter_map(|part| match part {
        Part::New(text) => Some(encoding.encode(text)),
        Part::Keep(_) => None,
    });
    new.collect::<Result<_, _>>().map_err(|char| match char {
        char::REPLACEMENT_CHARACTER => Unclear::Damaged(encoding.name()),
        char => Unclear::Lacks {
            char,
            code: char.into(),
            encoding: encoding.name(),
            label: encoding.label(),
        },
    })
}

/// A content that may have bytes that are no text. Readers see U+FFFD for them, which must not replace them.
pub(super) struct Damage<'a> {
    pub(super) encoding: Encoding,
    pub(super) content: &'a [u8],
    pub(super) text: &'a str,
}

impl Damage<'_> {
    /// Refuses a plan that writes U+FFFD over such bytes.
    pub(super) fn refuse(
        &self,
        plan: &[Part],
        bytes: &[usize],
        text: &[usize],
    ) -> Result<(), Unclear> {
        let writes = plan.iter().any(
            |part| matches!(part, Part::New(new) if new.contains(char::REPLACEMENT_CHARACTER)),
        );
        if !writes {
            return Ok(());
        }
        let (first, last) = (0, bytes.len() - 1);
        let there = &self.text[text[first]..text[last]];
        let same = self
            .encoding
            .encode(there)
            .is_ok_and(|there| there == self.content[bytes[first]..bytes[last]]);
        match same {
            true => Ok(()),
            false => Err(Unclear::Damaged(self.encoding.name())),
        }
    }
}
