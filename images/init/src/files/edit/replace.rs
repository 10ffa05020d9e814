//! Finding a text in a file's content and replacing it. Pure.
//!
//! Matching uses the text as readers see it: decoded, with one kind of line end, also after the last line. Parts that the
//! old and the new text share are copied from the file byte for byte, so each kept line keeps its line end. A changed line
//! keeps the line end of the line that it replaces. An added line gets the usual line end of the file.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

use super::error::Unclear;
use super::hint;
use super::lines::{self, Style};
use super::plan::{Damage, Part, encode, marks_of, plan};
use crate::files::encoding::Encoding;

/// How many places a message names.
const PLACES: usize = 5;

/// A file's content with a text replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    /// The content.
    pub(super) bytes: Vec<u8>,
    /// The number of replacements.
    pub(super) count: usize,
    /// The text before, with LF as line end.
    pub(super) before: String,
    /// The text after, with LF as line end.
    pub(super) after: String,
}

/// The text to find and the new text, with LF as line end unless only line ends differ.
struct Wanted<'a> {
    old: Cow<'a, str>,
    new: Cow<'a, str>,
    /// Whether the texts differ in line ends only, which are then literal.
    literal: bool,
}

/// An occurrence in the unified text.
struct Place {
    range: Range<usize>,
    /// Whether it is the file's last line, which has no line end although the old text has one.
    last: bool,
}

/// Replaces `old` in a file's content: its only occurrence, or with `all` every occurrence.
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
    // A file of one line gets the line ends of the new text.
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
    let mut output = Output {
        content,
        text: &text,
        bytes: Vec::with_capacity(content.len()),
        after: String::with_capacity(text.len()),
        from: (0, 0),
    };
    let mut mark = 0;
    for place in &places {
        let plan = plan_of(place);
        let new_bytes = match &end_bytes {
            Some(bytes) if place.last => bytes,
            _ => &usual_bytes,
        };
        let count = marks_of(plan);
        let (bytes_at, text_at) = (&in_bytes[mark..mark + count], &in_text[mark..mark + count]);
        damage.refuse(plan, bytes_at, text_at)?;
        output.put(plan, new_bytes, bytes_at, text_at);
        mark += count;
    }
    let (bytes, after) = output.finish();
    // Decoding the result must give the intended text.
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

/// The new content while it is put together, as bytes and as text.
struct Output<'a> {
    content: &'a [u8],
    text: &'a str,
    bytes: Vec<u8>,
    after: String,
    /// The offsets in `content` and `text` of the part that is not copied yet.
    from: (usize, usize),
}

impl Output<'_> {
    /// Copies the content up to a place, and adds the place's parts. The offsets are those of [`marks`].
    fn put(&mut self, plan: &[Part], new: &[Vec<u8>], bytes_at: &[usize], text_at: &[usize]) {
        self.copy(self.from.0..bytes_at[0], self.from.1..text_at[0]);
        let mut next = 1;
        let mut new = new.iter();
        for part in plan {
            match part {
                Part::Keep(_) => {
                    self.copy(
                        bytes_at[next]..bytes_at[next + 1],
                        text_at[next]..text_at[next + 1],
                    );
                    next += 2;
                }
                Part::New(text) => {
                    self.bytes.extend(new.next().into_iter().flatten());
                    self.after.push_str(text);
                }
            }
        }
        self.from = (bytes_at[next], text_at[next]);
    }

    fn copy(&mut self, bytes: Range<usize>, text: Range<usize>) {
        self.bytes.extend_from_slice(&self.content[bytes]);
        self.after.push_str(&self.text[text]);
    }

    /// Copies the rest.
    fn finish(mut self) -> (Vec<u8>, String) {
        self.copy(
            self.from.0..self.content.len(),
            self.from.1..self.text.len(),
        );
        (self.bytes, self.after)
    }
}

fn wanted<'a>(
    old: &'a str,
    new: &'a str,
    style: Option<Style>,
    bom: bool,
) -> Result<Wanted<'a>, Unclear> {
    const BOM: char = '\u{feff}';
    // A byte order mark does not belong to the text, but may have been copied with it.
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
        // A caller that sends CR may mean only the place that has it.
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

/// The offsets in the unified text that are needed: the start and the end of each place, and of each part that stays.
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

#[cfg(test)]
mod tests;
