//! The part of the terminal that the front end draws: finished lines, which scroll away with what was there before, and
//! below them the live part, which is drawn anew.
//!
//! Ratatui's own inline viewport has a fixed height, asks the terminal for its cursor's position (a round trip before the
//! first frame), and scrolls regions, which not every terminal keeps in its scrollback. So this one moves relative to
//! the live part's first row only, and lets finished lines scroll as every program's lines do. It writes nothing itself:
//! a frame is bytes.
//!
//! While it draws, the terminal does not break lines: where its widths differ from ours, a row is cut, and the rows below
//! stay where they are.

use std::fmt::Write as _;

use ratatui_core::buffer::{Buffer, Cell, CellWidth};
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier};
use ratatui_core::text::Line;

use crate::shown;

const BEGIN: &str = "\x1b[?2026h\x1b[?25l\x1b[?7l";
const END: &str = "\x1b[?7h";
const SHOW_CURSOR: &str = "\x1b[?25h";
const DONE: &str = "\x1b[?2026l";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// A row as it is on the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    bytes: String,
    width: u16,
}

/// What is on the terminal.
#[derive(Debug)]
pub(super) struct Screen {
    columns: u16,
    rows: Vec<Row>,
    /// The column and row of the cursor in the live part.
    cursor: (u16, u16),
    /// Whether the terminal breaks long rows anew when it gets narrower.
    reflows: bool,
}

impl Screen {
    pub(super) fn new(columns: u16, reflows: bool) -> Self {
        Self {
            columns: columns.max(1),
            rows: Vec::new(),
            cursor: (0, 0),
            reflows,
        }
    }

    /// The bytes that print finished lines, and draw the live part below them. The lines are broken to the width before.
    pub(super) fn frame(
        &mut self,
        finished: &[Line<'static>],
        live: &Buffer,
        cursor: Option<(u16, u16)>,
    ) -> Vec<u8> {
        let rows = encode(live);
        let at = cursor.unwrap_or((0, 0));
        if finished.is_empty() && rows == self.rows && at == self.cursor {
            return Vec::new();
        }
        let mut out = BEGIN.to_owned();
        up(&mut out, self.cursor.1);
        for lines in finished.chunks(100) {
            let count = u16::try_from(lines.len()).unwrap_or(u16::MAX);
            let mut buffer = Buffer::empty(Rect::new(0, 0, self.columns, count));
            for (y, line) in (0..).zip(lines) {
                buffer.set_line(0, y, line, self.columns);
            }
            for row in encode(&buffer) {
                self.write(&mut out, &row);
                out.push_str("\r\n");
            }
        }
        self.draw(&mut out, &rows, !finished.is_empty());
        let last = u16::try_from(rows.len().saturating_sub(1)).unwrap_or(u16::MAX);
        up(&mut out, last.saturating_sub(at.1));
        write!(out, "\x1b[{}G{END}", at.0 + 1).ok();
        if cursor.is_some() {
            out.push_str(SHOW_CURSOR);
        }
        out.push_str(DONE);
        self.cursor = at;
        self.rows = rows;
        out.into_bytes()
    }

    /// Draws the live part from the cursor's row on. Rows that are there already are passed over, unless the live part has
    /// moved.
    fn draw(&self, out: &mut String, rows: &[Row], has_moved: bool) {
        let leaves_rest = has_moved || rows.len() < self.rows.len();
        for (y, row) in rows.iter().enumerate() {
            let erases = leaves_rest && y + 1 == rows.len();
            if erases {
                out.push_str(ERASE_BELOW);
            }
            if erases || has_moved || self.rows.get(y) != Some(row) {
                self.write(out, row);
            }
            if y + 1 < rows.len() {
                out.push_str("\r\n");
            }
        }
        if rows.is_empty() {
            out.push_str(ERASE_BELOW);
        }
    }

    /// Writes a row over what is there. The cursor stays in the last column of a full row, so nothing is erased there.
    fn write(&self, out: &mut String, row: &Row) {
        out.push_str(&row.bytes);
        if row.width < self.columns {
            out.push_str(ERASE_LINE);
        }
    }

    /// The bytes that erase the live part, for another program's output.
    pub(super) fn erase(&mut self) -> Vec<u8> {
        let mut out = String::new();
        up(&mut out, self.cursor.1);
        out.push_str(ERASE_BELOW);
        out.push_str(SHOW_CURSOR);
        self.rows.clear();
        self.cursor = (0, 0);
        out.into_bytes()
    }

    /// The bytes that clear the terminal of its so many rows, whatever is on it: all of it scrolls away.
    pub(super) fn clear(&mut self, rows: usize) -> Vec<u8> {
        self.rows.clear();
        self.cursor = (0, 0);
        format!("\x1b[{rows}H{}\x1b[H{ERASE_BELOW}", "\n".repeat(rows)).into_bytes()
    }

    /// The bytes that erase the live part after the terminal got another width; what is above is the terminal's. A row
    /// that is wider than the terminal takes several now, if the terminal breaks lines anew.
    pub(super) fn resized(&mut self, columns: u16) -> Vec<u8> {
        let columns = columns.max(1);
        if columns == self.columns {
            return Vec::new();
        }
        if self.reflows {
            let above = self.rows.iter().take(usize::from(self.cursor.1));
            let above: u16 = above.map(|row| row.width.div_ceil(columns).max(1)).sum();
            self.cursor.1 = above.saturating_add(self.cursor.0 / columns);
        }
        self.columns = columns;
        self.erase()
    }
}

/// Goes to the first column of the row so many rows above.
fn up(out: &mut String, by: u16) {
    if by > 0 {
        write!(out, "\x1b[{by}A").ok();
    }
    out.push('\r');
}

/// The rows of a buffer, without the blanks at their ends. Whatever has come this far is safe already; a symbol that is
/// not is still not written as it is.
fn encode(buffer: &Buffer) -> Vec<Row> {
    let blank = |cell: &Cell| {
        let visible = Modifier::REVERSED | Modifier::UNDERLINED;
        cell.symbol() == " " && cell.bg == Color::Reset && !cell.modifier.intersects(visible)
    };
    let rows = buffer.content.chunks(usize::from(buffer.area.width.max(1)));
    let encoded = rows.map(|cells| {
        let used = cells.iter().rposition(|cell| !blank(cell));
        let used = used.map_or(0, |last| last + 1);
        let (mut bytes, mut before, mut x) = (String::new(), anstyle::Style::new(), 0);
        while x < used {
            let style = style(&cells[x]);
            if style != before {
                write!(bytes, "\x1b[0m{style}").ok();
                before = style;
            }
            bytes.push_str(&shown::line(cells[x].symbol()));
            x += usize::from(cells[x].cell_width().max(1));
        }
        if !before.is_plain() {
            bytes.push_str("\x1b[0m");
        }
        let width = u16::try_from(x).unwrap_or(u16::MAX);
        Row { bytes, width }
    });
    encoded.collect()
}

/// How a cell looks. The 16 colours have their old codes, which every terminal knows.
fn style(cell: &Cell) -> anstyle::Style {
    let colour = |colour| (colour != Color::Reset).then(|| anstyle::Color::from(colour));
    anstyle::Style::new()
        .fg_color(colour(cell.fg))
        .bg_color(colour(cell.bg))
        .effects(cell.modifier.into())
}
