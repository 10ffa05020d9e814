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
mod tests {
    use proptest::prelude::*;

    use super::line::{ROW, WIDTH};
    use super::*;

    /// What is shown of a stream that comes in pieces.
    fn in_pieces(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut terminal = Terminal::default();
        for piece in bytes.chunks(piece) {
            terminal.push(piece, &mut |piece| shown.extend_from_slice(piece));
            let held = &terminal.line;
            assert!(held.text.len() <= ROW && held.cells.len() <= 10 * ROW);
            assert!(terminal.held.len() <= MAX_STRING + 1);
        }
        terminal.finish(&mut |piece| shown.extend_from_slice(piece));
        shown
    }

    #[track_caller]
    fn shows(came: &str, expected: &str) {
        assert_eq!(plain(came.as_bytes()), expected, "{came:?}");
    }

    #[test]
    fn sequences_go_and_text_stays() {
        shows("\x1b[1;31merror\x1b[0m: \x1b]0;title\x07x", "error: x");
        shows("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link");
        shows("\u{9b}31mred\u{9d}0;title\u{9c}.", "red.");
        shows("\x1b(B\x1b)0\x1b#8text\x1b=\x1b>", "text");
        shows(
            "\x1bP1$r0m\x1b\\\x1b_Gf=100;AAAA\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\ok",
            "ok",
        );
        shows(
            "\x1b[?25l\x1b[38;2;1;2;3m\x1b[38:5:9mcolour\x1b[?25h\x1b[0 q",
            "colour",
        );
        shows("cut \x1b[3", "cut ");
        shows("cut \x1b", "cut ");
        shows("©\u{a0}Â", "©\u{a0}Â");
        shows("\u{202e}kept", "\u{202e}kept");
        shows("a\0b\x07c\x7fd\x0ee", "a␀bcde");
        shows("one\x0ctwo\x0b\nthree", "one\ntwo\n\nthree");
    }

    #[test]
    fn a_sequence_without_an_end_hides_nothing() {
        for introducer in [
            "\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\u{9d}", "\u{90}", "\u{9f}",
        ] {
            shows(
                &format!("{introducer}0;title\nerror: no such file\n"),
                "0;title\nerror: no such file\n",
            );
            shows(
                &format!("{introducer}0;error: no such file"),
                "0;error: no such file",
            );
            shows(
                &format!("{introducer}0;error\x1b[31m: red\x1b[m\n"),
                "0;error: red\n",
            );
            shows(&format!("{introducer}0;a\u{9b}1mb\n"), "0;ab\n");
            shows(&format!("{introducer}{introducer}x\x1b"), "x");
        }
        shows("\x1b[31\nerror\n", "\nerror\n");
        shows("\x1b[错误：文件\n", "错误：文件\n");
        shows("\x1b\nerror", "\nerror");
        shows("\x1b(\nerror", "\nerror");
        shows("\x1b[1;\rerror\n", "error\n");
        let long = format!("\x1b]{}\x07end\n", "x".repeat(MAX_STRING + 10));
        assert!(plain(long.as_bytes()).ends_with("xxxend\n"));
        let long = format!("\x1b[{}m!\n", "1;".repeat(MAX_SEQUENCE));
        assert!(plain(long.as_bytes()).ends_with(";m!\n"));
    }

    #[test]
    fn a_line_is_shown_in_its_last_state() {
        shows("10%\r20%\r100%\n", "100%\n");
        shows("downloading\rdone\n", "doneloading\n");
        shows("downloading\r\x1b[Kdone\n", "done\n");
        shows("downloading\x1b[2K\rdone\n", "done\n");
        shows("downloading\r           \rdone\r\n", "done\n");
        shows("50%\r", "50%");
        shows("dos\r\nlines\t\r\r\n", "dos\nlines\t\n");
        shows("a\x08ab\x08b _\x08u", "ab u");
        shows("12345\x08\x08\x08\x08\x08\x08\x08x", "x2345");
        shows("abc\x1b[2Dx\x1b[5Gy\x1b[1Gz", "zxc y");
        shows("\x1b[3Cx", "   x");
        shows("abcdef\x1b[3G\x1b[1K", "   def");
        shows("abcdef\x1b[3G\x1b[2P\x1b[1G\x1b[1@-", "-abef");
        shows("abcdef\x1b[3G\x1b[2Xx", "abx ef");
        shows("a\x1b[s123\x1b[ub", "ab23");
        shows("世界\rab", "ab界");
        shows("世界\ra", "a 界");
        shows("e\u{301}x\rE", "Ex");
        shows("e\u{301}x\x08y", "e\u{301}y");
        shows("a\tb\rxy", "xy      b");
        shows("12345678901\r\tx", "12345678x01");
        assert_eq!(plain(b"\x1b[999999Gy").len(), WIDTH + 1);
    }

    #[test]
    fn no_complete_line_is_changed() {
        shows(
            "error: important\n\x1b[1A\x1b[2Kfine\n",
            "error: important\nfine\n",
        );
        shows(
            "make: error\n\x1b[H\x1b[2J\x1b[3Jdone\n",
            "make: error\ndone\n",
        );
        shows("half\x1b[2J\x1b[Hother", "half\nother");
        shows("half\x1bcother\x1b[?1049hmore", "half\nother\nmore");
        // Two bars of tqdm: the inner one moves far more often.
        let mut bars = "outer 0%".to_owned();
        for percent in 0..=100 {
            bars += &format!("\n\rinner {percent}%\x1b[A");
        }
        bars += "\router 100%\n\n";
        shows(&bars, "outer 0%\nouter 100%\ninner 100%\n");
        shows("a\nb\x1b[1F\x1b[Bc\x1b[Bd", "a\nc\nd");
    }

    #[test]
    fn a_gigantic_line_of_bars_takes_little_memory() {
        let mut terminal = Terminal::default();
        let mut shown = 0;
        let piece = "50% [####    ]\r".repeat(1000);
        for _ in 0..300 {
            terminal.push(piece.as_bytes(), &mut |piece| shown += piece.len());
        }
        assert_eq!(shown, 0);
        assert!(terminal.line.cells.capacity() < 100);
        let mut last = Vec::new();
        assert!(terminal.finish(&mut |piece| last.extend_from_slice(piece)));
        assert_eq!(last, b"50% [####    ]");
    }

    /// Streams as ordinary and hostile programs write them.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-z 世é\u{301}]{0,20}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..12),
            prop::sample::select(vec![
                "\r", "\n", "\r\n", "\t", "\x08", "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x07",
                "\x1b\\", "\u{9b}", "\u{9d}", "\u{9c}", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[A",
                "\x1b[3B", "\x1b[5C", "\x1b[2D", "\x1b[G", "\x1b[9P", "\x1b[9@", "\x1b[9X",
                "\x1b[J", "\x1b[H", "\x1b7", "\x1b8", "\x1b[m", ";1", "\u{2}",
            ])
            .prop_map(|piece: &str| piece.as_bytes().to_vec()),
            (1_usize..3 * ROW).prop_map(|length| vec![b'-'; length]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn left_out_bytes_join_nothing() {
        for between in ["\x0e", "\x1b[m", "\u{82}", "\x7f"] {
            let bytes = [b"a\xc2".as_slice(), between.as_bytes(), b"\x80b"].concat();
            assert_eq!(plain(&bytes), "a\u{fffd}\u{fffd}b", "{between:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in stream(), piece in 1_usize..300) {
            let whole = in_pieces(&bytes, bytes.len().max(1));
            prop_assert_eq!(in_pieces(&bytes, piece), whole);
        }

        #[test]
        fn output_without_controls_is_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..3 * ROW)) {
            let mut bytes = bytes;
            bytes.retain(|byte| (is_plain(*byte) || *byte == b'\n') && *byte != 0xc2);
            prop_assert_eq!(in_pieces(&bytes, 1000), bytes);
        }

        #[test]
        fn text_is_unchanged(text in "[^\\p{Cc}]{0,200}", lines in 1_usize..5) {
            let text = vec![text; lines].join("\n\t");
            prop_assert_eq!(plain(text.as_bytes()), text);
        }

        #[test]
        fn a_line_after_a_line_break_is_never_lost(before in stream(), after in "[a-z 世]{0,10}[a-z]") {
            let mut bytes = before;
            bytes.extend_from_slice(format!("\n{after}\n").as_bytes());
            let shown = String::from_utf8_lossy(&in_pieces(&bytes, 7)).into_owned();
            prop_assert!(shown.contains(&after), "{:?} in {:?}", after, shown);
        }

        #[test]
        fn no_control_character_is_left(bytes in stream()) {
            let shown = String::from_utf8_lossy(&in_pieces(&bytes, 50)).into_owned();
            let control = |char: char| char.is_control() && char != '\n' && char != '\t';
            prop_assert!(!shown.contains(control), "{:?}", shown);
        }

        #[test]
        fn a_stream_is_cleaned_exactly_if_the_guest_keeps_it(bytes in stream()) {
            let mut terminal = Terminal::default();
            terminal.push(&bytes, &mut |_| {});
            let mut before = 0;
            let kept = bytes.iter().any(|byte| {
                let kept = snowglobe_init::wire::is_control(before, *byte);
                before = *byte;
                kept
            });
            prop_assert_eq!(terminal.finish(&mut |_| {}), kept);
        }
    }
}
