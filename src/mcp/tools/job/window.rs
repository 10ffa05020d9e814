//! A window of a job's output. Pure.
//!
//! A character or control sequence is never cut in two: what the window's start cuts is left out, and what its end cuts
//! comes with the next window.

use crate::mcp::output::terminal::Terminal;
use crate::mcp::output::utf8::{whole_at_end, whole_at_start};
use crate::sandbox::JobReport;

/// The longest cut sequence that is left for the next window, in bytes. A longer one is shown, or a sequence that never
/// ends would hide all output after it.
const MAX_CUT: usize = 256;

/// How output is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Display {
    /// Unchanged, not as a terminal shows it.
    pub(super) raw: bool,
    /// The newest output, since the call names no offset.
    pub(super) newest: bool,
}

/// A window of a job's output.
#[derive(Debug, PartialEq)]
pub(super) struct Window {
    pub(super) text: String,
    /// Its first byte in the job's output, and the byte after its last.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Whether the text is not the output itself but what a terminal shows of it.
    pub(super) cleaned: bool,
}

impl Window {
    /// The window of the output `data`, which came with `report`.
    pub(super) fn of(report: &JobReport, data: &[u8], display: Display) -> Self {
        let mut whole = match report.offset {
            0 => data,
            _ => whole_at_start(data),
        };
        if display.newest && !display.raw && report.offset > 0 {
            // Only a line's start is sure to be outside of any sequence.
            let line = whole.iter().position(|byte| *byte == b'\n');
            whole = match line {
                Some(line) if line + 1 < whole.len() => &whole[line + 1..],
                _ => whole,
            };
        }
        let start = report.offset + (data.len() - whole.len()) as u64;
        let cut = whole_at_end(whole);
        let mut shown = if cut.is_empty() { whole } else { cut };
        if display.raw {
            return Self {
                text: String::from_utf8_lossy(shown).into_owned(),
                start,
                end: start + shown.len() as u64,
                cleaned: false,
            };
        }
        let mut screen = Screen::default();
        screen.push(shown);
        let pending = screen.terminal.pending();
        let more_comes =
            report.job.outcome.is_none() || start + (shown.len() as u64) < report.job.kept_bytes;
        if more_comes && (1..=MAX_CUT).contains(&pending) && pending < shown.len() {
            shown = &shown[..shown.len() - pending];
            screen = Screen::default();
            screen.push(shown);
        }
        let (text, cleaned) = screen.finish();
        Self {
            text,
            start,
            end: start + shown.len() as u64,
            cleaned,
        }
    }
}

/// A terminal and what it has shown.
#[derive(Default)]
struct Screen {
    terminal: Terminal,
    shown: Vec<u8>,
}

impl Screen {
    fn push(&mut self, bytes: &[u8]) {
        let shown = &mut self.shown;
        self.terminal
            .push(bytes, &mut |piece| shown.extend_from_slice(piece));
    }

    /// The text, and whether it is not the bytes themselves.
    fn finish(self) -> (String, bool) {
        let mut shown = self.shown;
        let cleaned = self
            .terminal
            .finish(&mut |piece| shown.extend_from_slice(piece));
        (String::from_utf8_lossy(&shown).into_owned(), cleaned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::tools::job::tests::info;

    #[test]
    fn a_window_is_shown_as_a_terminal_would_and_cuts_no_sequence() {
        let of = |data: &str, offset: u64, display: Display| {
            let mut job = info(None);
            job.kept_bytes = offset + data.len() as u64;
            let report = JobReport {
                offset,
                next_offset: job.kept_bytes,
                job,
            };
            let window = Window::of(&report, data.as_bytes(), display);
            (window.text, window.start, window.end, window.cleaned)
        };
        let bars = "10%\r100%\r\n\x1b[32mok\x1b[3";
        let from = Display::default();
        assert_eq!(of(bars, 0, from), ("100%\nok".to_owned(), 0, 17, true));
        assert_eq!(of("1m", 17, from), ("1m".to_owned(), 17, 19, false));
        let newest = Display {
            newest: true,
            ..from
        };
        assert_eq!(
            of("31mx\nnew", 5, newest),
            ("new".to_owned(), 10, 13, false)
        );
        assert_eq!(of("a\nb", 0, newest), ("a\nb".to_owned(), 0, 3, false));
        assert_eq!(of("a\n", 5, newest), ("a\n".to_owned(), 5, 7, false));
        let raw = Display {
            raw: true,
            ..newest
        };
        assert_eq!(
            of(bars, 7, raw),
            (bars.to_owned(), 7, 7 + bars.len() as u64, false)
        );
        // A sequence that never ends is shown.
        let open = format!("a\x1b]0;{}", "x".repeat(300));
        assert_eq!(of(&open, 0, from).2, open.len() as u64);
        assert_eq!(of("\x1b[", 0, from), (String::new(), 0, 2, true));
    }
}
