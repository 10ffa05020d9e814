//! What a terminal shows of a command's output in the end, line by line.
//!
//! The crates `vte` and `strip-ansi-escapes` behave as terminals do: a string sequence (a title, a link) without an end
//! swallows all output after it. Here it does not:
//!
//! - a string sequence is left out only if BEL or ST ends it on its own line and within [`MAX_STRING`]; of any other only
//!   the introducer is left out, and its text is shown;
//! - a line break ends every sequence, and so does a byte that can't belong to it;
//! - a complete line is passed on at once, and no later output can change it.
//!
//! Within a line, `\r`, backspaces, cursor moves and erasing work as on a screen. A cursor that moves up finds an empty
//! line there: text written there becomes a further line, and the last line waits for the cursor's return. A jump to
//! any other place, and clearing the screen, begin a new line. Of the other control characters NUL becomes `␀`, form feed
//! and vertical tab end the line, and the rest is left out. Characters that only change the direction of text are text.
//!
//! Output without control characters passes through byte for byte, invalid UTF-8 included. Memory is bounded: a line of
//! more than [`line::ROW`] bytes or columns is passed on in pieces, and `\r` then leads to the start of the newest piece.

mod line;

use line::{Line, Sink};

/// The longest string sequence that is left out, in bytes.
const MAX_STRING: usize = 64 << 10;

/// The longest other sequence, in bytes.
const MAX_SEQUENCE: usize = 256;

/// How far up the cursor is followed, in lines.
const MAX_UP: usize = 1000;

/// A terminal of one line, through which a stream passes.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    state: State,
    /// The bytes of the unfinished sequence.
    held: Vec<u8>,
    /// The length of its introducer.
    introducer: usize,
    line: Line,
    /// How far above the last line the cursor is, and that line.
    above: usize,
    last: Line,
    saved: Option<usize>,
    changed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After the first byte of a character that may be a C1 control.
    Lead,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte.
    Intermediate,
    Csi,
    String,
    StringEscape,
    StringLead,
}

/// What a terminal shows of all of `bytes`.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let mut shown = Vec::with_capacity(bytes.len());
    let mut terminal = Terminal::default();
    terminal.push(bytes, &mut |piece| shown.extend_from_slice(piece));
    terminal.finish(&mut |piece| shown.extend_from_slice(piece));
    String::from_utf8_lossy(&shown).into_owned()
}

/// Whether a byte is shown unchanged: it is neither a control character nor the start of one.
fn is_plain(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f && byte != 0xc2) || byte == b'\t'
}

impl Terminal {
    /// Takes the next piece; passes complete lines to `out`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: Sink<'_>) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.state == State::Text {
                let plain = bytes.iter().position(|byte| !is_plain(*byte));
                let (text, after) = bytes.split_at(plain.unwrap_or(bytes.len()));
                if !text.is_empty() {
                    self.line.write(text, out);
                    bytes = after;
                    continue;
                }
            }
            // A byte that ends a sequence without being part of it is processed again.
            if self.step(*byte, out) {
                bytes = rest;
            }
        }
    }

    /// Passes the rest to `out`. Returns whether the shown text differs from the stream.
    pub(crate) fn finish(mut self, out: Sink<'_>) -> bool {
        match self.state {
            State::Lead => self.line.write(&[0xc2], out),
            State::String | State::StringEscape => self.show_string(out),
            State::StringLead => {
                self.held.push(0xc2);
                self.show_string(out);
                if self.state == State::Lead {
                    self.line.write(&[0xc2], out);
                }
            }
            State::Text | State::Escape | State::Intermediate | State::Csi => {}
        }
        if self.above > 0 {
            self.flush_line(out);
            self.line = std::mem::take(&mut self.last);
        }
        self.line.flush(out);
        self.changed
    }

    /// How many bytes of an unfinished sequence or character are held.
    pub(crate) fn pending(&self) -> usize {
        let escape = matches!(self.state, State::StringEscape | State::StringLead);
        self.held.len() + usize::from(escape)
    }

    /// The line of the cursor, as it is now.
    pub(crate) fn current(&self) -> String {
        let mut line = self.line.clone();
        let mut shown = Vec::new();
        line.flush(&mut |piece| shown.extend_from_slice(piece));
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Processes one byte; false if it must be processed again in the new state.
    fn step(&mut self, byte: u8, out: Sink<'_>) -> bool {
        match self.state {
            State::Text => self.control(byte, out),
            State::Lead => return self.second(byte, out),
            State::Escape => match byte {
                b'[' => self.begin(State::Csi, byte),
                b']' | b'P' | b'X' | b'^' | b'_' => self.begin(State::String, byte),
                0x20..=0x2f => self.begin(State::Intermediate, byte),
                0x30..=0x7e => {
                    self.end();
                    self.escape(byte, out);
                }
                _ => return self.abandon(),
            },
            State::Intermediate => match byte {
                0x20..=0x2f if self.held.len() < MAX_SEQUENCE => self.held.push(byte),
                0x30..=0x7e => self.end(),
                _ => return self.abandon(),
            },
            State::Csi => match byte {
                0x20..=0x3f if self.held.len() < MAX_SEQUENCE => self.held.push(byte),
                0x40..=0x7e => {
                    let held = std::mem::take(&mut self.held);
                    self.state = State::Text;
                    self.csi(&held[self.introducer..], byte, out);
                }
                _ => return self.abandon(),
            },
            State::String | State::StringEscape | State::StringLead => {
                return self.string(byte, out);
            }
        }
        true
    }

    /// Processes a byte of a string sequence.
    fn string(&mut self, byte: u8, out: Sink<'_>) -> bool {
        match (self.state, byte) {
            (State::String, 0x07) | (State::StringEscape, b'\\') | (State::StringLead, 0x9c) => {
                self.end();
            }
            (State::String, 0x1b) => self.state = State::StringEscape,
            (State::String, 0xc2) => self.state = State::StringLead,
            (State::String, b'\n' | 0x18 | 0x1a) => {
                self.show_string(out);
                return false;
            }
            (State::StringEscape, _) => {
                self.show_string(out);
                self.hold(State::Escape, 0x1b);
                return false;
            }
            (State::StringLead, 0x80..=0x9f) => {
                self.show_string(out);
                self.hold(State::Lead, 0xc2);
                return false;
            }
            (State::StringLead, _) => {
                self.state = State::String;
                self.held.push(0xc2);
                return false;
            }
            _ => {
                self.held.push(byte);
                if self.held.len() > MAX_STRING {
                    self.show_string(out);
                }
            }
        }
        true
    }

    /// Shows the text of a string sequence that did not end. It holds no ESC, no C1 control and no line break.
    fn show_string(&mut self, out: Sink<'_>) {
        let held = std::mem::take(&mut self.held);
        self.state = State::Text;
        self.push(&held[self.introducer..], out);
    }

    fn hold(&mut self, state: State, byte: u8) {
        self.state = state;
        self.held.clear();
        self.held.push(byte);
    }

    fn begin(&mut self, state: State, byte: u8) {
        self.state = state;
        self.held.push(byte);
        self.introducer = self.held.len();
    }

    fn end(&mut self) {
        self.state = State::Text;
        self.held.clear();
    }

    fn abandon(&mut self) -> bool {
        self.end();
        false
    }

    /// Processes the second byte of a character that begins with 0xC2.
    fn second(&mut self, byte: u8, out: Sink<'_>) -> bool {
        if !(0x80..=0x9f).contains(&byte) {
            self.end();
            // The next byte may be left out; the byte after it must not form a control character with this one.
            let joined = !is_plain(byte) && byte != b'\n';
            let lone = if joined {
                "\u{fffd}".as_bytes()
            } else {
                &[0xc2]
            };
            self.line.write(lone, out);
            if (0xa0..=0xbf).contains(&byte) {
                self.line.write(&[byte], out);
                return true;
            }
            return false;
        }
        self.changed = true;
        match byte {
            0x9b => self.begin(State::Csi, byte),
            0x90 | 0x98 | 0x9d | 0x9e | 0x9f => self.begin(State::String, byte),
            // The same as ESC and a letter.
            _ => {
                self.end();
                self.escape(byte - 0x40, out);
            }
        }
        true
    }

    /// Processes a control character outside of any sequence.
    fn control(&mut self, byte: u8, out: Sink<'_>) {
        self.changed |= byte != b'\n' && byte != 0xc2;
        match byte {
            b'\n' => self.feed(out),
            0x0b | 0x0c => self.new_line(out),
            b'\r' => self.line.carriage_return(),
            0x08 => self.line.left(1),
            0x1b => self.hold(State::Escape, byte),
            0xc2 => self.hold(State::Lead, byte),
            0x00 => self.line.write("␀".as_bytes(), out),
            _ => {}
        }
    }

    /// Processes ESC and a letter.
    fn escape(&mut self, byte: u8, out: Sink<'_>) {
        match byte {
            b'7' => self.saved = Some(self.line.column()),
            b'8' => self.restore(),
            b'D' | b'E' => self.feed(out),
            b'M' => self.up(1, out),
            b'c' => self.new_line(out),
            _ => {}
        }
    }

    /// Processes a sequence of ESC, `[`, parameters and a letter.
    fn csi(&mut self, parameters: &[u8], byte: u8, out: Sink<'_>) {
        let text = std::str::from_utf8(parameters).unwrap_or_default();
        if matches!((text, byte), ("?1049" | "?1047" | "?47", b'h' | b'l')) {
            return self.new_line(out);
        }
        let first = text.split(';').next().unwrap_or_default();
        let Ok(number) = (match first {
            "" => Ok(0),
            digits => digits.parse::<usize>(),
        }) else {
            // A private mode, or a number beyond any screen.
            return;
        };
        let many = number.clamp(1, MAX_UP);
        match byte {
            b'C' | b'a' => self.line.right(many),
            b'D' => self.line.left(many),
            b'G' | b'`' => self.line.to(many - 1),
            b'K' => self.line.erase(number),
            b'J' if number < 2 => self.line.erase(number),
            b'X' => self.line.blank(many),
            b'P' => self.line.delete(many),
            b'@' => self.line.insert(many),
            b'A' | b'F' => self.up(many, out),
            b'B' | b'E' => self.down(many, out),
            b's' => self.saved = Some(self.line.column()),
            b'u' => self.restore(),
            b'J' | b'H' | b'f' | b'd' => self.new_line(out),
            _ => {}
        }
    }

    fn restore(&mut self) {
        if let Some(column) = self.saved {
            self.line.to(column);
        }
    }

    /// Passes the line on, if it is not empty.
    fn flush_line(&mut self, out: Sink<'_>) {
        if self.line.is_empty() {
            self.line = Line::default();
        } else {
            self.line.flush(out);
            out(b"\n");
        }
        self.saved = None;
    }

    /// A line break.
    fn feed(&mut self, out: Sink<'_>) {
        if self.above == 0 {
            self.line.flush(out);
            out(b"\n");
            self.saved = None;
            return;
        }
        self.flush_line(out);
        self.above -= 1;
        if self.above == 0 {
            self.line = std::mem::take(&mut self.last);
            self.line.carriage_return();
        }
    }

    /// The cursor jumps to a place outside of this line.
    fn new_line(&mut self, out: Sink<'_>) {
        self.flush_line(out);
        if self.above > 0 {
            self.above = 0;
            self.line = std::mem::take(&mut self.last);
            self.flush_line(out);
        }
    }

    fn up(&mut self, lines: usize, out: Sink<'_>) {
        if self.above == 0 {
            self.last = std::mem::take(&mut self.line);
        }
        self.flush_line(out);
        self.above = (self.above + lines).min(MAX_UP);
    }

    fn down(&mut self, lines: usize, out: Sink<'_>) {
        let known = lines.min(self.above);
        for _ in 0..known {
            self.feed(out);
        }
        if lines > known {
            self.flush_line(out);
        }
    }
}

#[cfg(test)]
mod tests;
