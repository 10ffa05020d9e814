//! A file's text as it is searched: UTF-8 from any encoding, without the CR of CRLF, until the time limit.

use std::io::{self, Read};
use std::time::Instant;

use crate::files::encoding::{Content, TextReader};

/// How many bytes are read at once.
const PIECE: usize = 64 << 10;

/// The text of a file that is searched.
pub(super) struct SearchedText<R> {
    text: TextReader<R>,
    keeps_cr: bool,
    until: Instant,
    raw: Vec<u8>,
    ready: Vec<u8>,
    at: usize,
    /// The number of CRs at the end; the next byte decides whether they belong to a line end.
    pending: usize,
}

impl<R: Read> SearchedText<R> {
    pub(super) fn new(text: TextReader<R>, keeps_cr: bool, until: Instant) -> Self {
        Self {
            text,
            keeps_cr,
            until,
            raw: Vec::new(),
            ready: Vec::new(),
            at: 0,
            pending: 0,
        }
    }

    /// The kind of content, as far as it was read.
    pub(super) fn content(&self) -> Content {
        self.text.content()
    }

    fn take(&mut self, read: usize) {
        let mut rest = &self.raw[..read];
        while !rest.is_empty() {
            if self.pending > 0 {
                let more = rest.iter().take_while(|byte| **byte == b'\r').count();
                self.pending += more;
                rest = &rest[more..];
                match rest.first() {
                    None => return,
                    Some(b'\n') => {}
                    Some(_) => self.ready.extend(std::iter::repeat_n(b'\r', self.pending)),
                }
                self.pending = 0;
            }
            let text = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
            self.ready.extend_from_slice(&rest[..text]);
            rest = &rest[text..];
            if let Some((_, after)) = rest.split_first() {
                self.pending = 1;
                rest = after;
            }
        }
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.ready.extend(std::iter::repeat_n(b'\r', pending));
    }
}

impl<R: Read> Read for SearchedText<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.keeps_cr {
            return self.text.read(buffer);
        }
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            self.raw.resize(PIECE, 0);
            let read = self.text.read(&mut self.raw)?;
            if read == 0 {
                self.flush();
                if self.ready.is_empty() {
                    return Ok(0);
                }
                break;
            }
            self.take(read);
        }
        let length = buffer.len().min(self.ready.len() - self.at);
        buffer[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Reads at most this many bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(self.0.len()).min(self.1);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    proptest! {
        #[test]
        fn only_line_ends_lose_their_cr(text in "[ab\r\n]{0,60}", filler in 0_usize..3, piece in 1_usize..9) {
            // Past the first window, text comes in the pieces in which it is read.
            let text = format!("{}{text}", "x".repeat(filler * crate::files::encoding::WINDOW));
            let until = Instant::now() + Duration::from_secs(60);
            let text_of = |keeps_cr| {
                let pieces = Pieces(text.as_bytes(), piece * 1000);
                let mut source = SearchedText::new(TextReader::new(pieces).unwrap(), keeps_cr, until);
                let mut read = String::new();
                source.read_to_string(&mut read).unwrap();
                read
            };
            let mut expected = text.clone();
            while expected.contains("\r\n") {
                expected = expected.replace("\r\n", "\n");
            }
            prop_assert_eq!(text_of(false), expected);
            prop_assert_eq!(&text_of(true), &text);
        }
    }
}
