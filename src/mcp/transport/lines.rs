//! Reads a stream as lines of a bounded length.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::envelope::{Envelope, EnvelopeScanner};
use super::malformed::MAX_MESSAGE;

/// How much is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// The next part of a stream.
pub(crate) enum Line {
    /// A line, without its end. The last one needs none.
    Whole(Vec<u8>),
    /// A line that is too long, and what a scan found in it.
    TooLong(Envelope),
    /// The end of the stream.
    End,
}

/// Reads lines. A line that is too long is scanned but not kept.
pub(crate) struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    overlong: Option<EnvelopeScanner>,
    max_length: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(PIECE, input),
            line: Vec::new(),
            overlong: None,
            max_length: MAX_MESSAGE,
        }
    }

    /// The next line. What was read is kept when the future is dropped, and the next call continues from there.
    pub(crate) async fn next(&mut self) -> Line {
        loop {
            let (taken, ended) = match self.input.fill_buf().await {
                Ok([]) => return self.rest(),
                Ok(piece) => {
                    let end = memchr::memchr(b'\n', piece);
                    let part = &piece[..end.unwrap_or(piece.len())];
                    match &mut self.overlong {
                        Some(scan) => scan.feed(part),
                        None if self.line.len() + part.len() > self.max_length => {
                            let mut scan = EnvelopeScanner::default();
                            scan.feed(&std::mem::take(&mut self.line));
                            scan.feed(part);
                            self.overlong = Some(scan);
                        }
                        None => self.line.extend_from_slice(part),
                    }
                    (end.map_or(piece.len(), |end| end + 1), end.is_some())
                }
                Err(error) => {
                    tracing::debug!(%error, "a client's stream broke");
                    return Line::End;
                }
            };
            self.input.consume(taken);
            if ended {
                return self.take();
            }
        }
    }

    fn take(&mut self) -> Line {
        match self.overlong.take() {
            Some(scan) => Line::TooLong(scan.envelope().clone()),
            None => Line::Whole(std::mem::take(&mut self.line)),
        }
    }

    fn rest(&mut self) -> Line {
        match self.line.is_empty() && self.overlong.is_none() {
            true => Line::End,
            false => self.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_the_last_needs_no_end() {
        let input = b"one\n\ntwo \r\n{\"id\":1,\"x\":\"0123456789\"}\nlast";
        let mut lines = Lines::new(&input[..]);
        lines.max_length = 10;
        let mut whole = Vec::new();
        let mut long = Vec::new();
        loop {
            match lines.next().await {
                Line::Whole(line) => whole.push(String::from_utf8(line).unwrap()),
                Line::TooLong(found) => long.push(found.id.value),
                Line::End => break,
            }
        }
        assert_eq!(whole, ["one", "", "two \r", "last"]);
        assert_eq!(long, [Some(b"1".to_vec())]);
        assert!(matches!(lines.next().await, Line::End));
    }
}
