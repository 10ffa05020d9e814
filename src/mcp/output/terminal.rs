//! What a terminal would show of a command's output at last, line by line.
//!
//! The crates `vte` and `strip-ansi-escapes` do as terminals do: a string sequence (a title, a link) that never ends
//! takes all that follows with it. Here it does not, whatever comes:
//!
//! - only a string sequence that is ended by BEL or ST, on its own line and within [`LONGEST_STRING`], is left out;
//!   of any other the introducer alone goes, and its text is shown;
//! - a line break ends every sequence, and so does a byte that can't belong to it;
//! - a line that is complete is given away at once, and nothing that comes later can take it back.
//!
//! Within a line, `\r`, backspaces, cursor moves and erasing do what they do on a screen. A cursor that goes up finds
//! an empty line there: what is written comes out as a further line, and the last line waits for the cursor's return.
//! A jump to anywhere else, and clearing the screen, begin a new line. Of the other control characters NUL becomes
//! `␀`, form feed and vertical tab end the line, and the rest is left out. Characters that only change the direction
//! of text are text.
//!
//! What holds no control characters passes through byte for byte, invalid UTF-8 included. Memory is bounded: a
//! line of more than [`line::ROW`] bytes or columns is given away in pieces, and `\r` then leads to the newest one's start.

mod line;

use line::Line;

/// The longest string sequence that is left out, in bytes.
const LONGEST_STRING: usize = 64 << 10;

/// The longest other sequence, in bytes.
const LONGEST_SEQUENCE: usize = 256;

/// How far up the cursor is followed, in lines.
const HIGHEST: usize = 1000;

/// Takes what is ready to be shown.
type Out<'a> = &'a mut dyn FnMut(&[u8]);

/// A stream on its way through a terminal of one line.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    state: State,
    /// The sequence under way, as it came.
    held: Vec<u8>,
    /// How much of it is the introducer.
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

/// What a terminal would show of all of `bytes`.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let mut shown = Vec::with_capacity(bytes.len());
    let mut terminal = Terminal::default();
    terminal.push(bytes, &mut |piece| shown.extend_from_slice(piece));
    terminal.finish(&mut |piece| shown.extend_from_slice(piece));
    String::from_utf8_lossy(&shown).into_owned()
}

/// What is shown as it is: neither a control character nor the start of one.
fn is_plain(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f && byte != 0xc2) || byte == b'\t'
}

impl Terminal {
    /// Takes the next piece; complete lines go to `out`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: Out<'_>) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.state == State::Text {
                let plain = bytes.iter().position(|byte| !is_plain(*byte));
                let (text, after) = bytes.split_at(plain.unwrap_or(bytes.len()));
                if !text.is_empty() {
                    self.line.add(text, out);
                    bytes = after;
                    continue;
                }
            }
            // A byte that ends a sequence without being part of it is looked at anew.
            if self.step(*byte, out) {
                bytes = rest;
            }
        }
    }

    /// Gives away what is left; says whether something was not shown as it came.
    pub(crate) fn finish(mut self, out: Out<'_>) -> bool {
        match self.state {
            State::Lead => self.line.add(&[0xc2], out),
            State::String | State::StringEscape => self.rescue(out),
            State::StringLead => {
                self.held.push(0xc2);
                self.rescue(out);
                if self.state == State::Lead {
                    self.line.add(&[0xc2], out);
                }
            }
            State::Text | State::Escape | State::Intermediate | State::Csi => {}
        }
        if self.above > 0 {
            self.give_line(out);
            self.line = std::mem::take(&mut self.last);
        }
        self.line.give(out);
        self.changed
    }

    /// How many bytes of a sequence or character wait for its end.
    pub(crate) fn waiting(&self) -> usize {
        let escape = matches!(self.state, State::StringEscape | State::StringLead);
        self.held.len() + usize::from(escape)
    }

    /// The line that the cursor is in, as it is now.
    pub(crate) fn current(&self) -> String {
        let mut line = self.line.clone();
        let mut shown = Vec::new();
        line.give(&mut |piece| shown.extend_from_slice(piece));
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Takes one byte; false if it is to be taken again in another state.
    fn step(&mut self, byte: u8, out: Out<'_>) -> bool {
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
                0x20..=0x2f if self.held.len() < LONGEST_SEQUENCE => self.held.push(byte),
                0x30..=0x7e => self.end(),
                _ => return self.abandon(),
            },
            State::Csi => match byte {
                0x20..=0x3f if self.held.len() < LONGEST_SEQUENCE => self.held.push(byte),
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

    /// A byte of a string sequence.
    fn string(&mut self, byte: u8, out: Out<'_>) -> bool {
        match (self.state, byte) {
            (State::String, 0x07) | (State::StringEscape, b'\\') | (State::StringLead, 0x9c) => {
                self.end();
            }
            (State::String, 0x1b) => self.state = State::StringEscape,
            (State::String, 0xc2) => self.state = State::StringLead,
            (State::String, b'\n' | 0x18 | 0x1a) => {
                self.rescue(out);
                return false;
            }
            (State::StringEscape, _) => {
                self.rescue(out);
                self.hold(State::Escape, 0x1b);
                return false;
            }
            (State::StringLead, 0x80..=0x9f) => {
                self.rescue(out);
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
                if self.held.len() > LONGEST_STRING {
                    self.rescue(out);
                }
            }
        }
        true
    }

    /// A string sequence that did not end: its text is shown. There is no ESC, no C1 control and no line break in it.
    fn rescue(&mut self, out: Out<'_>) {
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

    /// The second byte of a character whose first was 0xC2.
    fn second(&mut self, byte: u8, out: Out<'_>) -> bool {
        if !(0x80..=0x9f).contains(&byte) {
            self.end();
            // What comes next may be left out: the byte after it must not make a control character with this one.
            let joined = !is_plain(byte) && byte != b'\n';
            let lone = if joined {
                "\u{fffd}".as_bytes()
            } else {
                &[0xc2]
            };
            self.line.add(lone, out);
            if (0xa0..=0xbf).contains(&byte) {
                self.line.add(&[byte], out);
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

    /// A control character outside of any sequence.
    fn control(&mut self, byte: u8, out: Out<'_>) {
        self.changed |= byte != b'\n' && byte != 0xc2;
        match byte {
            b'\n' => self.feed(out),
            0x0b | 0x0c => self.new_line(out),
            b'\r' => self.line.carriage_return(),
            0x08 => self.line.left(1),
            0x1b => self.hold(State::Escape, byte),
            0xc2 => self.hold(State::Lead, byte),
            0x00 => self.line.add("␀".as_bytes(), out),
            _ => {}
        }
    }

    /// ESC and a letter.
    fn escape(&mut self, byte: u8, out: Out<'_>) {
        match byte {
            b'7' => self.saved = Some(self.line.column()),
            b'8' => self.restore(),
            b'D' | b'E' => self.feed(out),
            b'M' => self.up(1, out),
            b'c' => self.new_line(out),
            _ => {}
        }
    }

    /// A sequence of ESC, `[`, parameters and a letter.
    fn csi(&mut self, parameters: &[u8], byte: u8, out: Out<'_>) {
        let text = std::str::from_utf8(parameters).unwrap_or_default();
        if matches!((text, byte), ("?1049" | "?1047" | "?47", b'h' | b'l')) {
            return self.new_line(out);
        }
        let first = text.split(';').next().unwrap_or_default();
        let Ok(number) = (match first {
            "" => Ok(0),
            digits => digits.parse::<usize>(),
        }) else {
            // A private mode, or a number that no screen has.
            return;
        };
        let many = number.clamp(1, HIGHEST);
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

    /// Gives the line away if there is something in it.
    fn give_line(&mut self, out: Out<'_>) {
        if self.line.is_empty() {
            self.line = Line::default();
        } else {
            self.line.give(out);
            out(b"\n");
        }
        self.saved = None;
    }

    /// A line break.
    fn feed(&mut self, out: Out<'_>) {
        if self.above == 0 {
            self.line.give(out);
            out(b"\n");
            self.saved = None;
            return;
        }
        self.give_line(out);
        self.above -= 1;
        if self.above == 0 {
            self.line = std::mem::take(&mut self.last);
            self.line.carriage_return();
        }
    }

    /// The cursor goes somewhere that is not in this line.
    fn new_line(&mut self, out: Out<'_>) {
        self.give_line(out);
        if self.above > 0 {
            self.above = 0;
            self.line = std::mem::take(&mut self.last);
            self.give_line(out);
        }
    }

    fn up(&mut self, lines: usize, out: Out<'_>) {
        if self.above == 0 {
            self.last = std::mem::take(&mut self.line);
        }
        self.give_line(out);
        self.above = (self.above + lines).min(HIGHEST);
    }

    fn down(&mut self, lines: usize, out: Out<'_>) {
        let known = lines.min(self.above);
        for _ in 0..known {
            self.feed(out);
        }
        if lines > known {
            self.give_line(out);
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
            assert!(terminal.held.len() <= LONGEST_STRING + 1);
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
    fn what_does_not_end_takes_nothing_along() {
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
        let long = format!("\x1b]{}\x07end\n", "x".repeat(LONGEST_STRING + 10));
        assert!(plain(long.as_bytes()).ends_with("xxxend\n"));
        let long = format!("\x1b[{}m!\n", "1;".repeat(LONGEST_SEQUENCE));
        assert!(plain(long.as_bytes()).ends_with(";m!\n"));
    }

    #[test]
    fn a_line_is_what_it_was_at_last() {
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
    fn no_line_is_taken_back() {
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

    /// Pieces of streams as programs and rogues write them.
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
    fn what_is_left_out_joins_nothing() {
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
        fn what_has_no_controls_is_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..3 * ROW)) {
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
        fn nothing_of_the_controls_is_left(bytes in stream()) {
            let shown = String::from_utf8_lossy(&in_pieces(&bytes, 50)).into_owned();
            let control = |char: char| char.is_control() && char != '\n' && char != '\t';
            prop_assert!(!shown.contains(control), "{:?}", shown);
        }

        #[test]
        fn what_is_changed_is_what_the_guest_keeps(bytes in stream()) {
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
