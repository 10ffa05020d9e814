//! The line that a terminal's cursor is in: what was written, and where.

use unicode_width::UnicodeWidthChar as _;

use super::Out;
use crate::mcp::output::utf8::whole_at_end;

/// How much of a line is held, in bytes and in columns.
pub(crate) const ROW: usize = 8 << 10;

/// How far the cursor moves beyond a line's text, in columns.
pub(crate) const WIDTH: usize = 200;

/// The most marks on one character, in bytes.
const MARKS: usize = 32;

/// A column of a line in which the cursor was moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    /// The character that begins here; none where one reaches over from the left.
    glyph: Option<char>,
    /// Marks on it.
    marks: String,
}

impl Cell {
    fn of(glyph: char) -> Self {
        Self {
            glyph: Some(glyph),
            marks: String::new(),
        }
    }
}

/// The line that the cursor is in: at first text as it came, cells once the cursor was moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// What was written since the cursor was last moved, from its column on.
    pub(crate) text: Vec<u8>,
    pub(crate) cells: Vec<Cell>,
    cursor: usize,
    /// Whether the cursor was moved.
    moved: bool,
    /// Whether `\r` came last: it is nothing before a line break.
    back: bool,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.cells.is_empty()
    }

    /// Writes at the cursor.
    pub(crate) fn add(&mut self, mut bytes: &[u8], out: Out<'_>) {
        if self.back {
            self.to(0);
        }
        while !bytes.is_empty() {
            let room = ROW.saturating_sub(self.cursor + self.text.len());
            if room == 0 {
                self.wrap(out);
                continue;
            }
            let (fits, rest) = bytes.split_at(bytes.len().min(room));
            self.text.extend_from_slice(fits);
            bytes = rest;
        }
    }

    /// Gives the beginning of a very long line away; a character is never cut in two.
    fn wrap(&mut self, out: Out<'_>) {
        let whole = whole_at_end(&self.text).len();
        let cut = self.text.split_off(whole);
        if self.moved {
            self.settle();
            // A cut character has no column yet.
            if self.cells.len() + 4 >= ROW {
                out(self.shown().as_bytes());
                *self = Self::default();
            }
        } else {
            out(&self.text);
        }
        self.text = cut;
    }

    /// Gives all of it away, and begins anew.
    pub(crate) fn give(&mut self, out: Out<'_>) {
        if self.moved {
            self.settle();
            // What was blanked is as good as empty.
            out(self.shown().trim_end_matches(' ').as_bytes());
        } else {
            out(&self.text);
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = Self {
            text,
            ..Self::default()
        };
    }

    fn shown(&self) -> String {
        let mut shown = String::with_capacity(self.cells.len());
        for cell in &self.cells {
            shown.extend(cell.glyph);
            shown.push_str(&cell.marks);
        }
        shown
    }

    /// The cursor goes to the start of the line; where a line break follows, it need not.
    pub(crate) fn carriage_return(&mut self) {
        if self.is_empty() {
            self.cursor = 0;
        } else {
            self.back = true;
        }
    }

    /// The cursor's column.
    pub(crate) fn column(&mut self) -> usize {
        self.settle();
        if self.back { 0 } else { self.cursor }
    }

    pub(crate) fn left(&mut self, columns: usize) {
        let column = self.column();
        self.to(column.saturating_sub(columns));
    }

    pub(crate) fn right(&mut self, columns: usize) {
        let column = self.column();
        self.to(column + columns);
    }

    /// Moves the cursor.
    pub(crate) fn to(&mut self, column: usize) {
        self.settle();
        self.back = false;
        self.moved = true;
        self.cursor = column.min(self.cells.len().max(WIDTH));
    }

    /// Makes cells of the text.
    fn settle(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        for char in String::from_utf8_lossy(&text).chars() {
            self.put(char);
        }
        self.text = text;
        self.text.clear();
        self.moved = true;
    }

    fn put(&mut self, char: char) {
        if char == '\t' {
            let stop = (self.cursor / 8 + 1) * 8;
            if self.cursor < self.cells.len() {
                self.cursor = stop;
            } else {
                self.place(char, stop - self.cursor);
            }
            return;
        }
        match char.width() {
            Some(0) => self.mark(char),
            width => self.place(char, width.unwrap_or(1)),
        }
    }

    /// Adds a mark to the character before the cursor.
    fn mark(&mut self, char: char) {
        let before = self.cursor.min(self.cells.len());
        let before = self.cells[..before].iter_mut();
        match before.rev().find(|cell| cell.glyph.is_some()) {
            Some(cell) if cell.marks.len() < MARKS => cell.marks.push(char),
            Some(_) => {}
            None => self.place(char, 1),
        }
    }

    /// Writes one character over what is there.
    fn place(&mut self, char: char, width: usize) {
        self.blank(width);
        self.cells[self.cursor] = Cell::of(char);
        for cell in &mut self.cells[self.cursor + 1..self.cursor + width] {
            *cell = Cell::default();
        }
        self.cursor += width;
    }

    /// Blanks so many columns from the cursor on; of a character that is partly there, all of it.
    pub(crate) fn blank(&mut self, width: usize) {
        self.settle();
        let end = self.cursor + width;
        if self.cells.len() < end {
            self.cells.resize(end, Cell::of(' '));
        }
        let mut from = self.cursor;
        while from > 0 && self.cells[from].glyph.is_none() {
            from -= 1;
        }
        let mut to = end;
        while to < self.cells.len() && self.cells[to].glyph.is_none() {
            to += 1;
        }
        for cell in &mut self.cells[from..to] {
            *cell = Cell::of(' ');
        }
    }

    /// Erases to the end (0), from the start (1), or all of it (2).
    pub(crate) fn erase(&mut self, what: usize) {
        let column = self.column();
        self.to(column);
        match what {
            0 if column < self.cells.len() => {
                self.blank(1);
                self.cells.truncate(column);
            }
            1 => {
                self.cursor = 0;
                self.blank((column + 1).min(self.cells.len()));
                self.cursor = column;
            }
            2 => self.cells.clear(),
            _ => {}
        }
    }

    /// Takes characters out at the cursor.
    pub(crate) fn delete(&mut self, many: usize) {
        let column = self.column();
        self.to(column);
        let end = (column + many).min(self.cells.len());
        if column < end {
            self.blank(end - column);
            self.cells.drain(column..end);
        }
    }

    /// Makes room at the cursor.
    pub(crate) fn insert(&mut self, many: usize) {
        let column = self.column();
        self.to(column);
        if column < self.cells.len() && self.cells.len() < ROW {
            self.blank(0);
            let room = std::iter::repeat_n(Cell::of(' '), many);
            self.cells.splice(column..column, room);
        }
    }
}
