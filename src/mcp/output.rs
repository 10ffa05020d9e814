//! Bounds a command's output: its head and tail are kept, with a line between them about what is missing.
//!
//! Pure, and bounded in memory whatever a command writes. A stream of at most [`HEAD`] and [`TAIL`] bytes together is kept whole. Of a longer
//! one [`HEAD`] and [`TAIL`] bytes are kept, each shortened to whole characters. Bytes that are not UTF-8 become U+FFFD.
//! The bounds count bytes, so a stream is never more than that many characters.

pub(crate) mod terminal;
pub(crate) mod utf8;

use std::collections::VecDeque;

use crate::text;
use terminal::Terminal;
use utf8::{whole_at_end, whole_at_start};

/// How much of the beginning of a longer stream is shown.
pub(crate) const HEAD: usize = 4_000;

/// How much of the end of a longer stream is shown: more than of its head, since errors come last.
pub(crate) const TAIL: usize = 6_000;

/// Takes a stream in pieces, and keeps its head and tail.
#[derive(Debug, Default)]
pub(crate) struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

/// What a result shows of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// The text, with a line about the missing part if there is one.
    pub text: String,
    /// How many bytes are missing.
    pub omitted: u64,
    /// Whether the text is not the stream itself but what a terminal shows of it.
    pub cleaned: bool,
}

/// One output stream of a command: as a terminal shows it, or unchanged; bounded either way.
///
/// It is cleaned before it is bounded, so the bound never cuts a control sequence in two.
#[derive(Debug, Default)]
pub(crate) struct OutputStream {
    terminal: Terminal,
    shown: HeadTail,
    /// The stream itself, if it is wanted unchanged.
    raw: Option<HeadTail>,
    total: u64,
}

impl OutputStream {
    /// `raw`: show the stream unchanged.
    pub(crate) fn new(raw: bool) -> Self {
        Self {
            raw: raw.then(HeadTail::default),
            ..Self::default()
        }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.total += piece.len() as u64;
        let shown = &mut self.shown;
        self.terminal.push(piece, &mut |line| shown.push(line));
        if let Some(raw) = &mut self.raw {
            raw.push(piece);
        }
    }

    /// How many bytes were taken.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The newest line with text in it, for a status line.
    pub(crate) fn newest_line(&self) -> Option<String> {
        newest_line(self.terminal.current().as_bytes()).or_else(|| newest_line(&self.shown.end()))
    }

    /// What to show. `file` is the file that holds the whole stream, if there is one; `total` is how many bytes the
    /// command wrote, if that is more than were taken here.
    pub(crate) fn finish(mut self, file: Option<&str>, total: u64) -> Excerpt {
        let unseen = total.saturating_sub(self.total);
        if let Some(raw) = self.raw {
            return raw.finish(file, self.total + unseen);
        }
        let shown = &mut self.shown;
        let cleaned = self.terminal.finish(&mut |line| shown.push(line));
        let total = self.shown.total + unseen;
        Excerpt {
            cleaned,
            ..self.shown.finish(file, total)
        }
    }
}

impl HeadTail {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.total += piece.len() as u64;
        let (head, rest) = piece.split_at(piece.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// The end of the stream.
    fn end(&self) -> Vec<u8> {
        match self.tail.is_empty() {
            true => self.head.clone(),
            false => self.tail.iter().copied().collect(),
        }
    }

    /// What to show. See [`OutputStream::finish`].
    pub(crate) fn finish(self, file: Option<&str>, total: u64) -> Excerpt {
        let total = total.max(self.total);
        let mut head = self.head;
        let tail: Vec<u8> = self.tail.into();
        if total == (head.len() + tail.len()) as u64 {
            head.extend_from_slice(&tail);
            return Excerpt {
                text: String::from_utf8_lossy(&head).into_owned(),
                omitted: 0,
                cleaned: false,
            };
        }
        let head = whole_at_end(&head);
        let tail = whole_at_start(&tail);
        let omitted = total - (head.len() + tail.len()) as u64;
        let mut text = String::from_utf8_lossy(head).into_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&marker(omitted, file));
        text.push_str(&String::from_utf8_lossy(tail));
        Excerpt {
            text,
            omitted,
            cleaned: false,
        }
    }
}

/// The newest line of output with text in it, short enough for a status line.
pub(crate) fn newest_line(output: &[u8]) -> Option<String> {
    const MAX_LENGTH: usize = 160;
    // The end of the output is enough, from a point on that is inside no control sequence.
    let end = &output[output.len().saturating_sub(4096)..];
    let cut = end.len() < output.len();
    let start = end
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r' | 0x1b));
    let end = &end[start.filter(|_| cut).unwrap_or(0)..];
    let text = terminal::plain(end);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(line.chars().take(MAX_LENGTH).collect())
}

/// The note about a stream that is not shown unchanged; `file` is the file that holds all of it.
pub(crate) fn cleaned_note(name: &str, file: Option<&str>) -> String {
    let file = file.map(|file| format!("{file}, or ")).unwrap_or_default();
    format!("{name} is as a terminal shows it in the end; unchanged: {file}`raw`")
}

/// The line between head and tail.
fn marker(omitted: u64, file: Option<&str>) -> String {
    let file = file
        .map(|file| format!("; whole output in {file}"))
        .unwrap_or_default();
    format!("[… {} bytes omitted …{file}]\n", text::grouped(omitted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = HEAD + TAIL;

    fn collect<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> HeadTail {
        let mut collector = HeadTail::default();
        for piece in pieces {
            collector.push(piece);
            assert!(collector.head.len() <= HEAD && collector.tail.len() <= TAIL);
        }
        collector
    }

    #[test]
    fn five_megabytes_keep_head_and_tail_and_say_what_is_missing() {
        let line = b"0123456789abcdef0123456789abcde\n";
        let collector = collect(std::iter::repeat_n(line.as_slice(), 5_000_000 / 32));
        let total = collector.total;
        let bounded = collector.finish(Some("/tmp/out"), total);
        assert_eq!(bounded.omitted, 4_990_000);
        assert!(
            bounded
                .text
                .contains("\n[… 4,990,000 bytes omitted …; whole output in /tmp/out]\n")
        );
        assert!(bounded.text.len() < 10_200);
        assert!(collector_is_small(total));
    }

    /// The memory that is held does not grow with the stream.
    fn collector_is_small(total: u64) -> bool {
        let mut collector = HeadTail::default();
        let piece = vec![b'x'; 1 << 20];
        while collector.total < total {
            collector.push(&piece);
        }
        collector.head.capacity() <= 2 * HEAD && collector.tail.capacity() <= 4 * TAIL
    }

    #[test]
    fn bytes_that_were_not_taken_count_as_missing() {
        let bounded = collect([b"abc".as_slice()]).finish(None, 10);
        assert_eq!(bounded.text, "abc\n[… 7 bytes omitted …]\n");
        assert_eq!(bounded.omitted, 7);
    }

    #[test]
    fn a_stream_is_cleaned_before_it_is_cut() {
        let mut stream = OutputStream::default();
        let bar = "50% [#####     ] \x1b[32mok\x1b[0m\r".repeat(1_000_000 / 32);
        stream.push(b"begins\n");
        stream.push(bar.as_bytes());
        assert_eq!(stream.newest_line().as_deref(), Some("50% [#####     ] ok"));
        stream.push(b"\ndone\n\x1b[");
        assert_eq!(stream.newest_line().as_deref(), Some("done"));
        let total = stream.total();
        let shown = stream.finish(Some("f"), total + 5);
        let marker = "[… 5 bytes omitted …; whole output in f]\n";
        assert_eq!(
            shown.text,
            format!("begins\n50% [#####     ] ok\ndone\n{marker}")
        );
        assert!(shown.cleaned);

        // The bound falls into some sequence, but never into one that is shown.
        let mut stream = OutputStream::default();
        let line = "\x1b]8;;file:///a/very/long/link\x07src/main.rs\x1b]8;;\x07: \x1b[1;31merror\x1b[0m\r\n";
        stream.push(line.repeat(3000).as_bytes());
        let shown = stream.finish(None, 0);
        for line in shown.text.lines().filter(|line| !line.contains("omitted")) {
            assert!(
                "src/main.rs: error".ends_with(line) || "src/main.rs: error".starts_with(line),
                "{line}"
            );
        }
        assert!(
            shown
                .text
                .starts_with("src/main.rs: error\nsrc/main.rs: error\n")
        );
        assert!(shown.text.len() < LIMIT + 100);

        let mut raw = OutputStream::new(true);
        raw.push(b"\x1b[31mred\r\n");
        assert_eq!(raw.newest_line().as_deref(), Some("red"));
        let shown = raw.finish(None, 0);
        assert_eq!(
            (shown.text.as_str(), shown.cleaned),
            ("\x1b[31mred\r\n", false)
        );
    }

    #[test]
    fn the_newest_line_is_the_last_one_with_text() {
        assert_eq!(newest_line(b"one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(newest_line(b"10%\r20%\r").as_deref(), Some("20%"));
        assert_eq!(newest_line(b" \n\x1b[0m\n"), None);
        assert_eq!(
            newest_line("é".repeat(9000).as_bytes()).map(|line| line.chars().count()),
            Some(160)
        );
    }

    proptest! {
        #[test]
        fn short_streams_stay_whole(bytes in prop::collection::vec(any::<u8>(), 0..=LIMIT)) {
            let bounded = collect(bytes.chunks(97)).finish(None, 0);
            prop_assert_eq!(bounded.omitted, 0);
            prop_assert_eq!(bounded.text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn nothing_is_lost_uncounted(
            text in "[a-zé€😀\\n]{2500,9000}",
            piece in 1_usize..20_000,
        ) {
            let bytes = text.as_bytes();
            prop_assume!(bytes.len() > LIMIT);
            let bounded = collect(bytes.chunks(piece)).finish(None, bytes.len() as u64);
            let line = marker(bounded.omitted, None);
            let (head, tail) = bounded.text.split_once(&line).expect("the marker is there");
            prop_assert!(!bounded.text.contains('\u{fffd}'), "characters stay whole");
            prop_assert!(text.ends_with(tail));
            let head = if text.starts_with(head) { head } else { head.trim_end_matches('\n') };
            prop_assert!(text.starts_with(head));
            let kept = (head.len() + tail.len()) as u64;
            // The line break before the marker may be the stream's own or added.
            let added = bytes.len() as u64 - bounded.omitted;
            prop_assert!(kept == added || kept == added + 1, "{} of {}", kept, added);
        }

        #[test]
        fn pieces_make_no_difference(
            bytes in prop::collection::vec(any::<u8>(), 0..30_000),
            piece in 1_usize..12_000,
        ) {
            let total = bytes.len() as u64;
            let whole = collect([bytes.as_slice()]).finish(Some("f"), total);
            prop_assert_eq!(collect(bytes.chunks(piece)).finish(Some("f"), total), whole.clone());
            prop_assert!(whole.text.chars().count() <= LIMIT + 80);
        }
    }
}
