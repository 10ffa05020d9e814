//! The line of a terminal's cursor: its text, and the columns in which it stands.

use unicode_width::UnicodeWidthChar as _;

use crate::mcp::output::utf8::whole_at_end;

/// Takes output that is ready to be shown.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// The longest line that is held, in bytes and in columns.
pub(crate) const ROW: usize = 8 << 10;

/// How far right of the text the cursor may move, in columns.
pub(crate) const WIDTH: usize = 200;

/// The longest combining marks of one character, in bytes.
const MAX_MARKS: usize = 32;

/// A column of a line in which the cursor was moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    /// The character that begins here; none if a wide character on the left covers this column.
    glyph: Option<char>,
    /// The combining marks of the character.
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

/// The line of the cursor: at first plain bytes, then cells once the cursor was moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// The bytes that were written since the cursor was last moved, from its column on.
    pub(crate) text: Vec<u8>,
    pub(crate) cells: Vec<Cell>,
    cursor: usize,
    /// Whether the cursor was moved.
    moved: bool,
    /// Whether `\r` came last; before a line break it has no effect.
    returned: bool,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.cells.is_empty()
    }

    /// Writes at the cursor.
    pub(crate) fn write(&mut self, mut bytes: &[u8], out: Sink<'_>) {
        if self.returned {
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

    /// Passes on the beginning of a very long line. A character is never cut in two.
    fn wrap(&mut self, out: Sink<'_>) {
        let whole = whole_at_end(&self.text).len();
        let cut = self.text.split_off(whole);
        if self.moved {
            self.make_cells();
            // The cut character needs columns, too.
            if self.cells.len() + 4 >= ROW {
                out(self.shown().as_bytes());
                *self = Self::default();
            }
        } else {
            out(&self.text);
        }
        self.text = cut;
    }

    /// Passes on the whole line, and starts an empty one.
    pub(crate) fn flush(&mut self, out: Sink<'_>) {
        if self.moved {
            self.make_cells();
            // Blanks at the end stand for erased text.
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

    /// The cursor returns to the start of the line, unless a line break follows.
    pub(crate) fn carriage_return(&mut self) {
        if self.is_empty() {
            self.cursor = 0;
        } else {
            self.returned = true;
        }
    }

    /// The cursor's column.
    pub(crate) fn column(&mut self) -> usize {
        self.make_cells();
        if self.returned { 0 } else { self.cursor }
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
        self.make_cells();
        self.returned = false;
        self.moved = true;
        self.cursor = column.min(self.cells.len().max(WIDTH));
    }

    /// Turns the bytes into cells.
    fn make_cells(&mut self) {
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

    /// Adds a combining mark to the character before the cursor.
    fn mark(&mut self, char: char) {
        let before = self.cursor.min(self.cells.len());
        let before = self.cells[..before].iter_mut();
        match before.rev().find(|cell| cell.glyph.is_some()) {
            Some(cell) if cell.marks.len() < MAX_MARKS => cell.marks.push(char),
            Some(_) => {}
            None => self.place(char, 1),
        }
    }

    /// Writes one character at the cursor.
    fn place(&mut self, char: char, width: usize) {
        self.blank(width);
        self.cells[self.cursor] = Cell::of(char);
        for cell in &mut self.cells[self.cursor + 1..self.cursor + width] {
            *cell = Cell::default();
        }
        self.cursor += width;
    }

    /// Blanks columns from the cursor on, and every wide character that is partly in them.
    pub(crate) fn blank(&mut self, width: usize) {
        self.make_cells();
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

    /// Erases to the end (0), from the start (1), or the whole line (2).
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

    /// Deletes columns at the cursor.
    pub(crate) fn delete(&mut self, many: usize) {
        let column = self.column();
        self.to(column);
        let end = (column + many).min(self.cells.len());
        if column < end {
            self.blank(end - column);
            self.cells.drain(column..end);
        }
    }

    /// Inserts blank columns at the cursor.
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
