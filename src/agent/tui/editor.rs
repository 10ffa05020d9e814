//! The editor of a prompt.
//!
//! A long paste is one character of the text, from an area of Unicode that no text uses, so that no key costs more because
//! of it. It is shown as what it is, and sent whole. Text that is typed and gets long becomes such a character, too.

use std::borrow::Cow;
use std::ops::Range;

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};

use super::lines::{breaks, safe, width};
use crate::text;

/// The character of the first paste.
const FIRST: char = '\u{f0000}';

/// How many pastes a text may have.
const MOST: usize = 60_000;

/// A paste of more lines or bytes than this is folded.
const FOLDED_LINES: usize = 12;
const FOLDED_BYTES: usize = 2_000;

/// From this length on the text itself is folded.
const LONGEST: usize = 16 << 10;

/// A place in the text, seen from the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Start,
    Finish,
}

/// What a key does to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    Insert(char),
    Go(To),
    Remove(To),
    /// Removes what [`Edit::Yank`] brings back.
    Kill(To),
    Yank,
}

/// A long text that was pasted.
#[derive(Debug)]
struct Paste {
    text: String,
    /// What is shown in its place.
    sign: String,
}

/// The text and the cursor in it.
#[derive(Debug, Default)]
pub(super) struct Editor {
    text: String,
    cursor: usize,
    pastes: Vec<Paste>,
    killed: String,
    /// The column that a cursor that moves up and down wants.
    goal: Option<usize>,
}

fn paste_at(character: char) -> Option<usize> {
    let number = u32::from(character).checked_sub(u32::from(FIRST))?;
    usize::try_from(number).ok().filter(|number| *number < MOST)
}

/// Text as it may be in the editor: line breaks are LF, and no character stands for a paste.
fn clean(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    match text.contains(|character| paste_at(character).is_some()) {
        true => text.replace(|c| paste_at(c).is_some(), "\u{fffd}"),
        false => text,
    }
}

impl Editor {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text with its pastes.
    pub(super) fn whole(&self) -> String {
        self.expanded(&self.text)
    }

    fn expanded(&self, text: &str) -> String {
        let mut whole = String::with_capacity(text.len());
        for character in text.chars() {
            match paste_at(character).and_then(|at| self.pastes.get(at)) {
                Some(paste) => whole.push_str(&paste.text),
                None => whole.push(character),
            }
        }
        whole
    }

    /// The text as it is shown, and the cursor in it.
    pub(super) fn raw(&self) -> (&str, usize) {
        (&self.text, self.cursor)
    }

    /// Takes the text out.
    pub(super) fn take(&mut self) -> String {
        let whole = self.whole();
        self.set("");
        whole
    }

    /// Replaces the text; the cursor is at its end.
    pub(super) fn set(&mut self, text: &str) {
        *self = Self {
            killed: std::mem::take(&mut self.killed),
            ..Self::default()
        };
        self.insert(&clean(text));
    }

    /// Replaces a part of the text by another.
    pub(super) fn replace(&mut self, range: Range<usize>, by: &str) {
        self.cursor = range.start;
        self.text.replace_range(range, "");
        self.paste(by);
    }

    /// Adds a text at the cursor, folded if it is long.
    pub(super) fn paste(&mut self, text: &str) {
        let text = clean(text);
        let is_long = text.len() > FOLDED_BYTES || text.matches('\n').count() >= FOLDED_LINES;
        match is_long && self.pastes.len() < MOST {
            true => {
                let sign = self.fold(text);
                self.insert(&sign.to_string());
            }
            false => self.insert(&text),
        }
    }

    fn fold(&mut self, text: String) -> char {
        let number = u32::try_from(self.pastes.len()).unwrap_or_default();
        let lines = text::grouped(text.lines().count() as u64);
        let size = text::size(text.len() as u64);
        let sign = format!("[pasted {size}, {lines} lines]");
        self.pastes.push(Paste { text, sign });
        char::from_u32(u32::from(FIRST) + number).unwrap_or('\u{fffd}')
    }

    fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        if self.text.len() > LONGEST && self.pastes.len() < MOST {
            let typed = std::mem::take(&mut self.text);
            let (before, after) = typed.split_at(self.cursor);
            let before = self.expanded(before);
            let sign = self.fold(before);
            self.text = format!("{sign}{after}");
            self.cursor = sign.len_utf8();
        }
    }

    pub(super) fn apply(&mut self, edit: Edit) {
        self.goal = None;
        match edit {
            Edit::Insert(character) => {
                let text = clean(character.encode_utf8(&mut [0; 4]));
                self.insert(&text);
            }
            Edit::Go(to) => self.cursor = self.place(to),
            Edit::Remove(to) => {
                self.cut(to);
            }
            Edit::Kill(to) => {
                let cut = self.cut(to);
                if !cut.is_empty() {
                    self.killed = self.expanded(&cut);
                }
            }
            Edit::Yank => self.paste(&self.killed.clone()),
        }
    }

    fn place(&self, to: To) -> usize {
        match to {
            To::Left => self.left(),
            To::Right => self.right(),
            To::WordLeft => self.word_left(),
            To::WordRight => self.word_right(),
            To::Home => self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1),
            To::End => {
                let rest = self.text[self.cursor..].find('\n');
                rest.map_or(self.text.len(), |at| self.cursor + at)
            }
            To::Start => 0,
            To::Finish => self.text.len(),
        }
    }

    /// Takes out the text between the cursor and a place. Where nothing is left of a line, its line break goes.
    fn cut(&mut self, to: To) -> String {
        let at = match (self.place(to), to) {
            (at, To::Home) if at == self.cursor => self.left(),
            (at, To::End) if at == self.cursor => self.right(),
            (at, _) => at,
        };
        let range = at.min(self.cursor)..at.max(self.cursor);
        self.cursor = range.start;
        self.text.drain(range).collect()
    }

    fn left(&self) -> usize {
        let mut cursor = GraphemeCursor::new(self.cursor, self.text.len(), true);
        let found = cursor.prev_boundary(&self.text, 0);
        found.ok().flatten().unwrap_or(0)
    }

    fn right(&self) -> usize {
        let mut cursor = GraphemeCursor::new(self.cursor, self.text.len(), true);
        let found = cursor.next_boundary(&self.text, 0);
        found.ok().flatten().unwrap_or(self.text.len())
    }

    fn word_left(&self) -> usize {
        let words = self.text[..self.cursor].split_word_bound_indices();
        let word = words.rev().find(|(_, word)| is_word(word));
        word.map_or(0, |(at, _)| at)
    }

    fn word_right(&self) -> usize {
        let mut words = self.text[self.cursor..].split_word_bound_indices();
        let word = words.find(|(_, word)| is_word(word));
        word.map_or(self.text.len(), |(at, word)| self.cursor + at + word.len())
    }

    /// What one grapheme looks like.
    fn cell<'a>(&self, grapheme: &'a str) -> Cow<'a, str> {
        let paste = grapheme.chars().next().and_then(paste_at);
        match paste.and_then(|at| self.pastes.get(at)) {
            None => safe(grapheme),
            Some(paste) => Cow::Owned(paste.sign.clone()),
        }
    }

    /// The parts of the text that are a row each.
    fn rows(&self, columns: usize) -> Vec<Range<usize>> {
        let mut rows = Vec::new();
        let mut start = 0;
        for line in self.text.split('\n') {
            let cells: Vec<(&str, usize)> = line
                .graphemes(true)
                .map(|grapheme| (grapheme, width(&self.cell(grapheme))))
                .collect();
            let (mut from, mut at) = (0, start);
            for end in breaks(cells.iter().copied(), columns, false) {
                let bytes: usize = cells[from..end].iter().map(|(text, _)| text.len()).sum();
                rows.push(at..at + bytes);
                (from, at) = (end, at + bytes);
            }
            start += line.len() + 1;
        }
        rows
    }

    /// The rows as they are shown in so many columns, and the cursor's column and row.
    pub(super) fn layout(&self, columns: usize) -> (Vec<String>, (usize, usize)) {
        let rows = self.rows(columns);
        let y = row_of(&rows, self.cursor);
        let x = self.column(&rows[y], self.cursor);
        let shown = rows.into_iter().map(|row| {
            let graphemes = self.text[row].graphemes(true);
            graphemes.map(|grapheme| self.cell(grapheme)).collect()
        });
        (shown.collect(), (x, y))
    }

    fn column(&self, row: &Range<usize>, to: usize) -> usize {
        let before = self.text[row.start..to.clamp(row.start, row.end)].graphemes(true);
        before.map(|grapheme| width(&self.cell(grapheme))).sum()
    }

    /// Moves the cursor a row up, or down; whether there is one.
    pub(super) fn vertical(&mut self, columns: usize, down: bool) -> bool {
        let rows = self.rows(columns);
        let y = row_of(&rows, self.cursor);
        let to = if down { y + 1 } else { y.wrapping_sub(1) };
        let Some(row) = rows.get(to) else {
            return false;
        };
        let here = || self.column(&rows[y], self.cursor);
        let goal = self.goal.unwrap_or_else(here);
        // The end of a row that goes on in the next belongs to that.
        let goes_on = rows.get(to + 1).is_some_and(|next| next.start == row.end);
        let (mut x, mut at) = (0, row.start);
        for grapheme in self.text[row.clone()].graphemes(true) {
            x += width(&self.cell(grapheme));
            if x > goal || (goes_on && at + grapheme.len() == row.end) {
                break;
            }
            at += grapheme.len();
        }
        self.cursor = at;
        self.goal = Some(goal);
        true
    }
}

fn is_word(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

/// The row of a place in the text. The place between two rows of one line is in the second.
fn row_of(rows: &[Range<usize>], at: usize) -> usize {
    let row = rows.iter().rposition(|row| row.start <= at);
    row.unwrap_or(0)
}

#[cfg(test)]
mod tests;
