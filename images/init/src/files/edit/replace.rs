//! Where a text is and what the file is with another in its place. Pure.
//!
//! Matching sees what a reader is shown: decoded text whose lines all end alike, and a last line that has an end, too.
//! What both texts share is copied from the file byte for byte, so every kept line keeps its own end; a changed line
//! keeps the end of the line it replaces; an added one gets the end that is usual in the file.

use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, Instant};

use memchr::memmem;
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use super::hint;
use super::lines::{self, Style};
use crate::files::encoding::Encoding;

/// How many places are named where there are too many.
const PLACES: usize = 5;

/// How long the lines that two texts share are looked for.
const PAIRING: Duration = Duration::from_millis(500);

/// Why a text could not be replaced: a fragment that goes after the path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    #[error("old_string is empty; to make a file or replace all of it use write")]
    Empty,
    #[error("old_string and new_string are the same")]
    Same,
    #[error("old_string is not in it{0}; read the file and copy the text exactly")]
    Absent(String),
    #[error(
        "old_string is in it {count} times, at lines {lines}; add lines around it to name one, or set replace_all"
    )]
    Ambiguous { count: usize, lines: String },
    #[error(
        "old_string is in it more than once, overlapping itself from line {0} on; add lines around it to name one place"
    )]
    Overlapping(usize),
    #[error(
        "it is in {encoding}, which has no character {char:?} (U+{code:04X}) of new_string; write that \
         otherwise, or convert the file first with exec: iconv -f {label} -t UTF-8"
    )]
    Lacks {
        char: char,
        code: u32,
        encoding: String,
        label: &'static str,
    },
    #[error(
        "new_string has U+FFFD where the file has bytes that are no text in {0}, and they can't be written; \
         change the lines before and after them only, or use exec"
    )]
    Damaged(String),
    #[error(
        "the change can't be made without changing the bytes around it; use exec with a script"
    )]
    Entangled,
}

/// A file's content with a text replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    /// The content.
    pub(super) bytes: Vec<u8>,
    /// How often the text was replaced.
    pub(super) count: usize,
    /// The text before, its lines ended alike.
    pub(super) before: String,
    /// The text after, its lines ended alike.
    pub(super) after: String,
}

/// What to find and what takes its place, with the line ends that mean the same made the same.
struct Wanted<'a> {
    old: Cow<'a, str>,
    new: Cow<'a, str>,
    /// Only line ends change, so they are meant as they are.
    literal: bool,
}

/// A piece of what takes the old text's place.
enum Part {
    /// A range of the old text, as it is in the file.
    Keep(Range<usize>),
    New(String),
}

/// An occurrence in the unified text.
struct Place {
    range: Range<usize>,
    /// Whether it is the last line, and the old text ends that line where the file does not.
    last: bool,
}

/// Replaces `old` in a file's content, once or (if `all`) wherever it is.
pub(super) fn replace(
    encoding: Encoding,
    content: &[u8],
    old: &str,
    new: &str,
    all: bool,
) -> Result<Replaced, Unclear> {
    let text = encoding.decode(content);
    let style = Style::of(&text);
    let wanted = wanted(old, new, style, encoding.has_bom())?;
    let unified = match wanted.literal {
        true => Cow::Borrowed(text.as_ref()),
        false => lines::unified(&text, true),
    };
    let places = find(&unified, &text, &wanted, old, all)?;
    // A file of one line takes the ends that the call has.
    let style = style.unwrap_or(match new.contains("\r\n") {
        true => Style::CrLf,
        false => Style::Lf,
    });
    let usual = plan(&wanted.old, &wanted.new, style, wanted.literal);
    let at_end = places.iter().any(|place| place.last).then(|| {
        let old = wanted.old.strip_suffix('\n').unwrap_or(&wanted.old);
        let new = wanted.new.strip_suffix('\n').unwrap_or(&wanted.new);
        plan(old, new, style, wanted.literal)
    });
    let plan_of = |place: &Place| match &at_end {
        Some(plan) if place.last => plan,
        _ => &usual,
    };
    let marks = marks(&places, &plan_of);
    let in_text = match wanted.literal {
        true => marks,
        false => lines::offsets(&text, &marks),
    };
    let in_bytes = encoding
        .offsets(content, &in_text)
        .ok_or(Unclear::Entangled)?;
    let damage = Damage {
        encoding,
        content,
        text: &text,
    };
    let encoded = |plan: &[Part]| encode(encoding, plan);
    let (usual_bytes, end_bytes) = (
        encoded(&usual)?,
        at_end.as_deref().map(encoded).transpose()?,
    );
    let mut bytes = Vec::with_capacity(content.len());
    let mut after = String::with_capacity(text.len());
    let (mut from, mut text_from, mut mark) = (0, 0, 0);
    for place in &places {
        let plan = plan_of(place);
        let new_bytes = match &end_bytes {
            Some(bytes) if place.last => bytes,
            _ => &usual_bytes,
        };
        let count = marks_of(plan);
        let (bytes_at, text_at) = (&in_bytes[mark..mark + count], &in_text[mark..mark + count]);
        damage.refuse(plan, bytes_at, text_at)?;
        mark += count;
        bytes.extend_from_slice(&content[from..bytes_at[0]]);
        after.push_str(&text[text_from..text_at[0]]);
        let mut next = 1;
        let mut new_bytes = new_bytes.iter();
        for part in plan {
            match part {
                Part::Keep(_) => {
                    bytes.extend_from_slice(&content[bytes_at[next]..bytes_at[next + 1]]);
                    after.push_str(&text[text_at[next]..text_at[next + 1]]);
                    next += 2;
                }
                Part::New(new) => {
                    bytes.extend(new_bytes.next().into_iter().flatten());
                    after.push_str(new);
                }
            }
        }
        (from, text_from) = (bytes_at[next], text_at[next]);
    }
    bytes.extend_from_slice(&content[from..]);
    after.push_str(&text[text_from..]);
    // What is read afterwards must be what was meant.
    if encoding.decode(&bytes) != after {
        return Err(Unclear::Entangled);
    }
    Ok(Replaced {
        bytes,
        count: places.len(),
        before: lines::unified(&text, true).into_owned(),
        after: lines::unified(&after, true).into_owned(),
    })
}

fn wanted<'a>(
    old: &'a str,
    new: &'a str,
    style: Option<Style>,
    bom: bool,
) -> Result<Wanted<'a>, Unclear> {
    const BOM: char = '\u{feff}';
    // A byte order mark is no part of the text, but may have been copied with it.
    let (old, new) = match old.strip_prefix(BOM) {
        Some(old) => (old, new.strip_prefix(BOM).unwrap_or(new)),
        None if bom => (old, new.strip_prefix(BOM).unwrap_or(new)),
        None => (old, new),
    };
    if old.is_empty() {
        return Err(Unclear::Empty);
    }
    if old == new {
        return Err(Unclear::Same);
    }
    let wanted = Wanted {
        old: lines::unified(old, true),
        new: lines::unified(new, style == Some(Style::Cr)),
        literal: false,
    };
    if wanted.old != lines::unified(new, true) {
        return Ok(wanted);
    }
    Ok(Wanted {
        old: Cow::Borrowed(old),
        new: Cow::Borrowed(new),
        literal: true,
    })
}

/// The places to replace.
fn find(
    unified: &str,
    text: &str,
    wanted: &Wanted<'_>,
    exact: &str,
    all: bool,
) -> Result<Vec<Place>, Unclear> {
    let old = wanted.old.as_ref();
    let finder = memmem::Finder::new(old);
    let mut places: Vec<Place> = finder
        .find_iter(unified.as_bytes())
        .map(|at| Place {
            range: at..at + old.len(),
            last: false,
        })
        .collect();
    if !wanted.literal
        && !unified.ends_with('\n')
        && let Some(line) = old.strip_suffix('\n').filter(|line| !line.is_empty())
        && unified.ends_with(line)
    {
        let range = unified.len() - line.len()..unified.len();
        if !all
            || places
                .last()
                .is_none_or(|place| place.range.end <= range.start)
        {
            places.push(Place { range, last: true });
        }
    }
    if places.len() > 1 && !all && exact.contains('\r') && !wanted.literal {
        // Whoever sends CR may mean just the place that has it.
        let starts: Vec<usize> = places.iter().map(|place| place.range.start).collect();
        let starts = lines::offsets(text, &starts);
        let mut exactly = starts.iter().map(|at| text[*at..].starts_with(exact));
        if exactly.clone().filter(|exactly| *exactly).count() == 1 {
            places.retain(|_| exactly.next().unwrap_or(false));
            return Ok(places);
        }
    }
    let line = |place: &Place| {
        let at = match wanted.literal {
            true => place.range.start,
            false => lines::offsets(text, &[place.range.start])[0],
        };
        memchr::memchr_iter(b'\n', &text.as_bytes()[..at]).count() + 1
    };
    match places.as_slice() {
        [] if wanted.literal => Err(Unclear::Absent(
            " with these line ends, and old_string and new_string differ in nothing else"
                .to_owned(),
        )),
        [] => Err(Unclear::Absent(hint::absent(unified, old, &wanted.new))),
        _ if all => Ok(places),
        [place] => {
            let next = place.range.start + old.chars().next().map_or(1, char::len_utf8);
            match unified.get(next..).map(str::as_bytes) {
                Some(rest) if finder.find(rest).is_some() => Err(Unclear::Overlapping(line(place))),
                _ => Ok(places),
            }
        }
        many => {
            let mut lines: Vec<String> = many
                .iter()
                .take(PLACES)
                .map(|place| line(place).to_string())
                .collect();
            if many.len() > PLACES {
                lines.push("…".to_owned());
            }
            Err(Unclear::Ambiguous {
                count: many.len(),
                lines: lines.join(", "),
            })
        }
    }
}

/// What of the old text stays, and what comes between.
fn plan(old: &str, new: &str, style: Style, literal: bool) -> Vec<Part> {
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
    // The lines with their starts; the last of them has no end.
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

/// Every offset of the unified text that is needed: of each place its start, what its plan keeps, and its end.
fn marks<'a>(places: &[Place], plan_of: &impl Fn(&Place) -> &'a Vec<Part>) -> Vec<usize> {
    let mut marks = Vec::new();
    for place in places {
        let start = place.range.start;
        marks.push(start);
        for part in plan_of(place) {
            if let Part::Keep(range) = part {
                marks.extend([start + range.start, start + range.end]);
            }
        }
        marks.push(place.range.end);
    }
    marks
}

fn marks_of(plan: &[Part]) -> usize {
    let kept = plan.iter().filter(|part| matches!(part, Part::Keep(_)));
    2 + 2 * kept.count()
}

/// The bytes of each new part.
fn encode(encoding: Encoding, plan: &[Part]) -> Result<Vec<Vec<u8>>, Unclear> {
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

/// Guards bytes that are no text: a reader is shown U+FFFD for them, which must not take their place.
struct Damage<'a> {
    encoding: Encoding,
    content: &'a [u8],
    text: &'a str,
}

impl Damage<'_> {
    fn refuse(&self, plan: &[Part], bytes: &[usize], text: &[usize]) -> Result<(), Unclear> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::files::encoding::detect_whole;

    fn replaced(content: &[u8], old: &str, new: &str, all: bool) -> Result<Vec<u8>, String> {
        let encoding = detect_whole(content).encoding().unwrap_or(Encoding::UTF_8);
        replace(encoding, content, old, new, all)
            .map(|replaced| replaced.bytes)
            .map_err(|unclear| unclear.to_string())
    }

    fn text(content: &str, old: &str, new: &str) -> Result<String, String> {
        replaced(content.as_bytes(), old, new, false).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn one_place_or_all_of_them() {
        assert_eq!(text("a b c", "b", "x").unwrap(), "a x c");
        assert_eq!(replaced(b"b b", "b", "bb", true).unwrap(), b"bb bb");
        assert_eq!(replaced(b"aaaaa", "aa", "b", true).unwrap(), b"bba");
        assert_eq!(text("a\nb\n", "a\n", "").unwrap(), "b\n");
        let refused = text("b\n\nb\nb", "b", "x").unwrap_err();
        assert!(refused.contains("3 times, at lines 1, 3, 4;"), "{refused}");
        let refused = text("x\naaa", "aa", "b").unwrap_err();
        assert!(
            refused.contains("overlapping itself from line 2"),
            "{refused}"
        );
        for (old, new) in [("", "b"), ("a", "a"), ("\u{feff}", "x")] {
            assert!(text("a", old, new).is_err());
        }
    }

    #[test]
    fn every_line_keeps_its_own_end() {
        for (content, old, new, expected) in [
            ("a\r\nb\r\n", "a\nb", "x\ny\nz", "x\r\ny\r\nz\r\n"),
            ("a\r\nb\nc\r\n", "a\nb\nc", "x\nb\ny", "x\r\nb\ny\r\n"),
            ("a\r\nb\nc\n", "b\n", "x\ny\n", "a\r\nx\ny\nc\n"),
            ("a\r\nb\nc\r\n", "b\n", "b\nnew\n", "a\r\nb\nnew\r\nc\r\n"),
            ("a\nb\n", "a\r\nb", "x\r\nb\r\nc", "x\nb\nc\n"),
            ("a\rb\rc\r", "b\n", "x\ny\n", "a\rx\ry\rc\r"),
            ("a\rb\rc\r", "a\rb", "x\rb", "x\rb\rc\r"),
            ("a\r\r\nb\r\r\n", "a\nb", "a\nc", "a\r\r\nc\r\r\n"),
            ("1%\r2%\n", "2%", "3%\r4%", "1%\r3%\r4%\n"),
            ("a\r\nb\r\nc\r\n", "a\nb\nc", "c", "c\r\n"),
            ("a\nb\r\nc\n", "a\nb", "a b", "a b\r\nc\n"),
            ("one", "one", "one\r\ntwo", "one\r\ntwo"),
            // Only the ends differ: they are meant.
            ("a\r\nb\r\n", "a\r\nb", "a\nb", "a\nb\r\n"),
            ("a\nb\n", "a\n", "a\r\n", "a\r\nb\n"),
            // The same text twice, but for the end that is sent.
            ("x\r\ny\nx\ny\n", "x\r\ny", "z\r\ny", "z\r\ny\nx\ny\n"),
        ] {
            assert_eq!(
                text(content, old, new).as_deref(),
                Ok(expected),
                "{content:?}"
            );
        }
        let refused = text("x\r\ny\nx\ny\n", "x\ny", "z").unwrap_err();
        assert!(refused.contains("2 times, at lines 1, 3;"), "{refused}");
        assert_eq!(
            replaced(b"a\r\na\na", "a\n", "b\n", true).unwrap(),
            b"b\r\nb\nb"
        );
        assert_eq!(
            replaced(b"a\r\nb\r\n", "\r\n", "\n", true).unwrap(),
            b"a\nb\n"
        );
        let refused = text("a\nb\n", "a\r\n", "a\n").unwrap_err();
        assert!(refused.contains("with these line ends"), "{refused}");
    }

    #[test]
    fn the_last_line_need_not_end() {
        for (content, old, new, expected) in [
            ("a\nlast", "last\n", "new\n", "a\nnew"),
            ("a\nlast", "last\n", "last\nmore\n", "a\nlast\nmore"),
            ("a\r\nlast", "a\nlast\n", "b\nlast\n", "b\r\nlast"),
            ("a\nlast", "last\n", "", "a\n"),
            ("a\nlast\n", "last", "new", "a\nnew\n"),
            ("a\nlast\n", "last\n", "new", "a\nnew"),
            ("first\nb\n", "first\n", "", "b\n"),
        ] {
            assert_eq!(
                text(content, old, new).as_deref(),
                Ok(expected),
                "{content:?}"
            );
        }
        let refused = text("}\n}", "}\n", "]\n").unwrap_err();
        assert!(refused.contains("2 times, at lines 1, 2;"), "{refused}");
        assert_eq!(replaced(b"}\n}", "}\n", "]\n", true).unwrap(), b"]\n]");
    }

    #[test]
    fn a_byte_order_mark_stays() {
        let content = "\u{feff}first\r\nb\r\n";
        for old in ["first\nb", "\u{feff}first\nb"] {
            for new in ["x\nb", "\u{feff}x\nb"] {
                assert_eq!(text(content, old, new).unwrap(), "\u{feff}x\r\nb\r\n");
            }
        }
        assert_eq!(
            text("first\n", "\u{feff}first", "\u{feff}x").unwrap(),
            "x\n"
        );
    }

    #[test]
    fn other_encodings_stay_what_they_are() {
        let latin = b"caf\xe9 one\r\nna\xefve two\r\n";
        assert_eq!(
            replaced(latin, "café one\nnaïve", "thé one\nnaïve", false).unwrap(),
            b"th\xe9 one\r\nna\xefve two\r\n"
        );
        let refused = replaced(latin, "one", "→", false).unwrap_err();
        assert!(
            refused.contains("windows-1252 (Latin-1), which has no character '→' (U+2192)"),
            "{refused}"
        );
        let wide = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            [0xff, 0xfe].into_iter().chain(units).collect()
        };
        assert_eq!(
            replaced(&wide("año\r\n世界 😀\r\n"), "世界", "→\nx", false).unwrap(),
            wide("año\r\n→\r\nx 😀\r\n")
        );
        let japanese = encoding_rs::SHIFT_JIS
            .encode("これは日本語の表です。\nもう一行の日本語。\n")
            .0;
        let expected = encoding_rs::SHIFT_JIS
            .encode("これは日本語の能力です。\nもう一行の日本語。\n")
            .0;
        assert_eq!(
            replaced(&japanese, "表です", "能力です", false).unwrap(),
            expected.as_ref()
        );
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let damaged = b"\xc3\xa9t\xc3\xa9 \xff one\ntwo \xfe\n\xc3\xa9\n";
        assert_eq!(
            replaced(damaged, "two", "2", false).unwrap(),
            b"\xc3\xa9t\xc3\xa9 \xff one\n2 \xfe\n\xc3\xa9\n"
        );
        // What a reader is shown of them may be around the change.
        assert_eq!(
            replaced(
                damaged,
                "été \u{fffd} one\ntwo",
                "été \u{fffd} 1\ntwo",
                false
            )
            .unwrap(),
            b"\xc3\xa9t\xc3\xa9 \xff 1\ntwo \xfe\n\xc3\xa9\n"
        );
        assert_eq!(
            replaced(damaged, " \u{fffd} one", "", false).unwrap(),
            b"\xc3\xa9t\xc3\xa9\ntwo \xfe\n\xc3\xa9\n"
        );
        let refused = replaced(damaged, " \u{fffd} one", " a\u{fffd}b", false).unwrap_err();
        assert!(refused.contains("U+FFFD"), "{refused}");
        assert_eq!(
            replaced(b"\x7fELF\0\xff text\0", "text", "TEXT", false).unwrap(),
            b"\x7fELF\0\xff TEXT\0"
        );
    }

    /// Lines that differ, with any ends.
    fn file() -> impl Strategy<Value = Vec<String>> {
        let end = prop::sample::select(vec!["\n", "\r\n", "\r\r\n"]);
        let line = ("[a-c\té世]{0,4}", end).prop_map(|(text, end)| text + end);
        (prop::collection::vec(line, 1..12), any::<bool>()).prop_map(|(mut lines, unended)| {
            for (number, line) in lines.iter_mut().enumerate() {
                line.insert_str(0, &format!("{number}:"));
            }
            if unended && let Some(last) = lines.last_mut() {
                let text = last.trim_end_matches(['\r', '\n']).len();
                last.truncate(text);
            }
            lines
        })
    }

    fn bare(line: &str) -> &str {
        line.trim_end_matches(['\r', '\n'])
    }

    proptest! {
        /// Some lines of a file, copied as a reader is shown them, are found where they are, and all other bytes stay.
        #[test]
        fn what_is_shown_is_what_matches(
            lines in file(),
            window in (0_usize..12, 1_usize..6),
            changed in 0_usize..6,
            crlf in any::<bool>(),
            ended in any::<bool>(),
            wide in any::<bool>(),
            bom in any::<bool>(),
        ) {
            let bom = bom || wide;
            let start = window.0 % lines.len();
            let end = lines.len().min(start + window.1);
            let changed = start + changed % (end - start);
            let shown = |change: bool| {
                let lines: Vec<String> = (start..end)
                    .map(|at| match change && at == changed {
                        true => format!("{}!new", bare(&lines[at])),
                        false => bare(&lines[at]).to_owned(),
                    })
                    .collect();
                let by = if crlf { "\r\n" } else { "\n" };
                lines.join(by) + if ended { by } else { "" }
            };
            let mut expected = lines.clone();
            let text = bare(&expected[changed]).len();
            expected[changed].insert_str(text, "!new");
            let bytes = |lines: &[String]| -> Vec<u8> {
                let text = format!("{}{}", if bom { "\u{feff}" } else { "" }, lines.concat());
                match wide {
                    true => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                    false => text.into_bytes(),
                }
            };
            // One line without its end may be the beginning of another.
            let (old, new) = (shown(false), shown(true));
            match replaced(&bytes(&lines), &old, &new, false) {
                Ok(done) => prop_assert_eq!(done, bytes(&expected)),
                Err(refused) => prop_assert!(
                    !ended && refused.contains("times"),
                    "{:?}: {}", old, refused
                ),
            }
        }

        /// Any text that is there once is replaced there, and all bytes around it stay.
        #[test]
        fn bytes_around_a_change_stay(
            before in prop::collection::vec(any::<u8>(), 0..40),
            after in prop::collection::vec(any::<u8>(), 0..40),
            new in "[a-zé→\n]{0,10}",
        ) {
            let content = [before.as_slice(), b"<needle>", &after].concat();
            match replace(Encoding::UTF_8, &content, "<needle>", &new, false) {
                Ok(done) => {
                    prop_assert!(done.bytes.starts_with(&before) && done.bytes.ends_with(&after));
                }
                // Two halves of a character must not meet.
                Err(refused) => prop_assert!(refused == Unclear::Entangled && new.is_empty()),
            }
        }
    }
}
