//! The one place where text is made safe to print.
//!
//! Errors, progress, tables and logs contain text of guests, registries, manifests and projects' files. A terminal would
//! obey control sequences in it, and characters that turn the direction of text or are invisible would deceive a reader.
//! So everything that this program prints goes through here, and such a character is printed as its number, `\u{1b}`. The
//! streams of `exec` and `shell` are the exception ([`raw`]): the user asked for them raw.
//!
//! A stream that can't be written is an error, so that nothing is lost without a word. A reader that has gone ends the
//! program as SIGPIPE ends others, which Rust's programs ignore.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether a terminal would obey a character, or a reader would be deceived by it.
fn is_unfit(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Marks, embeddings, overrides and isolates that turn the direction of text.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        // Line breaks that not every program knows.
        '\u{2028}' | '\u{2029}' => true,
        // Characters without width and without use in a message; joiners have a use.
        '\u{180e}'
        | '\u{200b}'
        | '\u{2060}'..='\u{2064}'
        | '\u{206a}'..='\u{206f}'
        | '\u{feff}' => true,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

fn replaced(
    text: &str,
    unfit: impl Fn(char) -> bool,
    with: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    let Some(first) = text.find(&unfit) else {
        return Cow::Borrowed(text);
    };
    let mut shown = text[..first].to_owned();
    for c in text[first..].chars() {
        match unfit(c) {
            true => with(c, &mut shown),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Text of any number of lines.
pub fn text(text: &str) -> Cow<'_, str> {
    replaced(text, is_unfit, |c, shown| shown.extend(c.escape_default()))
}

/// Text that is part of a line.
pub fn line(text: &str) -> Cow<'_, str> {
    let breaks = |c| is_unfit(c) || matches!(c, '\n' | '\t');
    replaced(text, breaks, |c, shown| match c {
        '\n' | '\t' => shown.push(' '),
        c => shown.extend(c.escape_default()),
    })
}

/// A value as JSON with the same meaning; unsafe characters occur in its strings only, where they are escaped.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(json_fit(&serde_json::to_string_pretty(value)?).into_owned())
}

/// As [`json`], on one line.
pub fn json_line(value: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(json_fit(&serde_json::to_string(value)?).into_owned())
}

fn json_fit(text: &str) -> Cow<'_, str> {
    replaced(text, is_unfit, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

/// A writer that makes text safe. Pieces may end in the middle of a character.
#[derive(Debug)]
pub struct Shown<W: Write> {
    to: W,
    rest: Vec<u8>,
}

impl<W: Write> Shown<W> {
    /// A writer in front of `to`.
    pub fn new(to: W) -> Self {
        Self {
            to,
            rest: Vec::new(),
        }
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(&self.rest) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.rest.len(),
        };
        let whole: Vec<u8> = self.rest.drain(..cut).collect();
        let whole = String::from_utf8_lossy(&whole);
        self.to.write_all(text(&whole).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Shown<W> {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            // There is no one to report the failure to.
            self.to.write_all("\u{fffd}".as_bytes()).ok();
        }
    }
}

/// A standard stream of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// A failure to write to this stream, as an error that holds an [`Unwritten`].
    pub fn unwritten(self, error: &io::Error) -> io::Error {
        let unwritten = Unwritten {
            stream: self,
            reason: error.to_string(),
            reader_gone: error.kind() == io::ErrorKind::BrokenPipe,
        };
        io::Error::other(unwritten)
    }
}

impl Stream {
    /// The error of a copy to this stream: only writing fails because a reader has gone.
    pub fn copied(self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe => self.unwritten(&error),
            _ => error,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Output => "standard output",
            Self::Error => "standard error",
        })
    }
}

/// A standard stream could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write to {stream}: {reason}")]
pub struct Unwritten {
    stream: Stream,
    /// Not the error's source: the remedy for a full disk of Snowglobe's own is not the remedy here.
    reason: String,
    /// Whether its reader has gone.
    reader_gone: bool,
}

impl Unwritten {
    /// This error among an error and its sources.
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let wrapped = error
                .downcast_ref()
                .and_then(|error: &io::Error| error.get_ref());
            if let Some(found) = wrapped.and_then(|error| error.downcast_ref()) {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Whether its reader has gone, as that of `… | head`: nobody is left to be told.
    pub fn reader_gone(&self) -> bool {
        self.reader_gone
    }
}

/// Does what may wait for a reader who does not read. An async worker that waits may be the one that looks for events, so
/// without a replacement no signal would be noticed meanwhile.
fn waiting<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Writes to a standard stream. Its errors hold an [`Unwritten`], which tells them from all other errors.
#[derive(Debug)]
pub struct Standard(Stream);

impl Standard {
    /// Tries until the stream takes data. Another process may have made a shared one non-blocking.
    fn retried<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        waiting(|| {
            loop {
                match write() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable()?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.0.unwritten(&error)),
                    Ok(done) => return Ok(done),
                }
            }
        })
    }

    fn writable(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        let (out, err) = (io::stdout(), io::stderr());
        let mut ready = match self.0 {
            Stream::Output => [PollFd::new(&out, PollFlags::OUT)],
            Stream::Error => [PollFd::new(&err, PollFlags::OUT)],
        };
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a full-screen front end has the terminal.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Tells that a front end has the terminal, or has it no longer. Meanwhile no message goes to standard error if that is
/// the terminal, too: `2>FILE` keeps them.
pub fn take_terminal(taken: bool) {
    TAKEN.store(taken, Ordering::SeqCst);
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self.0, Stream::Error)
            && TAKEN.load(Ordering::SeqCst)
            && io::stderr().is_terminal()
        {
            return Ok(bytes.len());
        }
        self.retried(|| match self.0 {
            Stream::Output => io::stdout().lock().write(bytes),
            Stream::Error => io::stderr().lock().write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.retried(|| match self.0 {
            Stream::Output => io::stdout().lock().flush(),
            Stream::Error => io::stderr().lock().flush(),
        })
    }
}

/// Standard output, for tables.
pub fn out() -> Shown<Standard> {
    Shown::new(Standard(Stream::Output))
}

/// Standard error.
pub fn err() -> Shown<Standard> {
    Shown::new(Standard(Stream::Error))
}

/// Passes bytes on as they are: a command's output, a protocol's messages.
pub fn raw(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    let mut to = Standard(stream);
    to.write_all(bytes)?;
    to.flush()
}

/// How much this program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// Errors, questions and what was asked for.
    Quiet,
    /// Results, too, and progress on a terminal.
    Normal,
    /// Progress everywhere.
    Loud,
}

static QUIET: AtomicBool = AtomicBool::new(false);
static LOUD: AtomicBool = AtomicBool::new(false);

/// Sets how much this program says from now on.
pub fn set_volume(volume: Volume) {
    QUIET.store(volume == Volume::Quiet, Ordering::Relaxed);
    LOUD.store(volume == Volume::Loud, Ordering::Relaxed);
}

/// How much this program says.
pub fn volume() -> Volume {
    match (QUIET.load(Ordering::Relaxed), LOUD.load(Ordering::Relaxed)) {
        (true, _) => Volume::Quiet,
        (false, true) => Volume::Loud,
        (false, false) => Volume::Normal,
    }
}

/// The first failure to print a message.
static UNPRINTED: Mutex<Option<Unwritten>> = Mutex::new(None);

/// Prints lines on standard error, unless the program is to be quiet.
pub fn print(what: fmt::Arguments<'_>) {
    if volume() != Volume::Quiet {
        write_error(what);
    }
}

/// Prints an error or a question, with the program's name before it, even if the program is to be quiet.
pub fn complain(what: fmt::Arguments<'_>) {
    write_error(format_args!("snowglobe: {what}"));
}

/// Writes lines to standard error. A failure is reported by [`finish`]; a reader that has gone is no failure.
fn write_error(what: fmt::Arguments<'_>) {
    let what = format!("{what}\n");
    let mut to = Standard(Stream::Error);
    if let Err(error) = to.write_all(text(&what).as_bytes())
        && let Some(unwritten) = Unwritten::within(&error)
        && !unwritten.reader_gone
    {
        let unwritten = Unwritten {
            reason: unwritten.reason.clone(),
            ..*unwritten
        };
        let mut first = UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(unwritten);
    }
}

/// Writes what standard output still holds back; fails if anything could not be printed.
pub fn finish() -> io::Result<()> {
    Standard(Stream::Output).flush()?;
    let mut unprinted = UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    match unprinted.take() {
        Some(unwritten) => Err(io::Error::other(unwritten)),
        None => Ok(()),
    }
}

/// Like [`print()`], with the program's name before it.
pub fn say(what: fmt::Arguments<'_>) {
    print(format_args!("snowglobe: {what}"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_as_its_number() {
        for (from, to) in [
            ("plain é 日本 עברית 👩‍💻\n\tx", "plain é 日本 עברית 👩‍💻\n\tx"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m\u{7f}\0", "\\u{9b}31m\\u{7f}\\u{0}"),
            ("a\r\nb\rc", "a\\r\nb\\rc"),
            ("user\u{202e}gpj.exe", "user\\u{202e}gpj.exe"),
            (
                "a\u{2028}b\u{feff}\u{e0041}",
                "a\\u{2028}b\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(text(from), to);
        }
        assert_eq!(line("a\nb\tc\u{1b}"), "a b c\\u{1b}");
        let value = serde_json::json!({"a\u{202e}": "\u{1b}\u{9b}\u{e0041}\n"});
        let shown = json(&value).unwrap();
        assert_eq!(shown.find(is_unfit), None, "{shown}");
        let on_a_line = json_line(&value).unwrap();
        assert_eq!(on_a_line.find(is_unfit), None, "{on_a_line}");
        assert!(!on_a_line.contains('\n'));
        for shown in [shown, on_a_line] {
            let read = serde_json::from_str::<serde_json::Value>(&shown);
            assert_eq!(read.unwrap(), value);
        }
    }

    proptest! {
        #[test]
        fn nothing_unfit_comes_out_and_what_is_fit_stays(
            chars in prop::collection::vec(prop_oneof![any::<char>(), (0u32..0xa0).prop_map(|c| char::from_u32(c).unwrap()),
                prop::sample::select(vec!['\u{202e}', '\u{2069}', '\u{1b}', '\n', 'é'])], 0..60),
            cuts in prop::collection::vec(0usize..200, 0..5),
        ) {
            let given: String = chars.into_iter().collect();
            let shown = text(&given);
            prop_assert_eq!(shown.find(is_unfit), None);
            prop_assert_eq!(text(&shown), shown.clone());
            let fit: String = given.chars().filter(|c| !is_unfit(*c)).collect();
            prop_assert!(given.contains(is_unfit) || shown == fit);
            prop_assert!(!line(&given).contains(['\n', '\t']));
            // The result does not depend on where it is cut.
            let mut written = Vec::new();
            {
                let mut writer = Shown::new(&mut written);
                let (mut from, bytes) = (0, given.as_bytes());
                let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
                cuts.sort();
                for cut in cuts.into_iter().chain([bytes.len()]) {
                    writer.write_all(&bytes[from..cut]).unwrap();
                    from = cut;
                }
            }
            prop_assert_eq!(String::from_utf8(written).unwrap(), shown);
        }

        #[test]
        fn bytes_that_are_no_text_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut written = Vec::new();
            let mut writer = Shown::new(&mut written);
            for piece in bytes.chunks(3) {
                writer.write_all(piece).unwrap();
            }
            drop(writer);
            prop_assert_eq!(String::from_utf8(written).unwrap().find(is_unfit), None);
        }
    }
}
