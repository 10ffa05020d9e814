//! Whole messages out of a stream of bytes.

use std::io::{self, Read};

use crate::wire::share::{MOST, TOUCH};

/// The longest message: the most that one request reads or writes, and what precedes it.
const LONGEST: usize = MOST as usize + 0x2000;

/// The length of a message's header.
const HEADER: usize = 16;

/// A message of the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The reply to a request.
    Reply(&'a [u8]),
    /// Of a change on the host.
    Note(Note),
}

/// What is said of a change on the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// What the kernel must no longer believe.
    Kernel(Vec<u8>),
    /// The path of a file that the host changed.
    Touch(Vec<u8>),
}

/// What was read and not yet taken.
pub(super) struct Frames {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            buffer: vec![0; 2 * LONGEST],
            start: 0,
            end: 0,
        }
    }
}

impl Frames {
    /// Reads once; gives how many bytes there were.
    pub(super) fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = from.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((header, _)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let number = |at: usize| {
            header[at..at + 4]
                .iter()
                .rev()
                .fold(0_u32, |n, byte| n << 8 | u32::from(*byte))
        };
        let length = number(0) as usize;
        if !(HEADER..=LONGEST).contains(&length) {
            let message = format!("the host sent a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if waiting.len() < length {
            return Ok(None);
        }
        let kind = (number(8), number(12), number(4));
        let message = self.start..self.start + length;
        self.start += length;
        let message = &self.buffer[message];
        // A note answers no request.
        Ok(Some(match kind {
            (0, 0, TOUCH) => Frame::Note(Note::Touch(message[HEADER..].to_vec())),
            (0, 0, _) => Frame::Note(Note::Kernel(message.to_vec())),
            _ => Frame::Reply(message),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(unique: u64, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_le_bytes().to_vec();
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&unique.to_le_bytes());
        message.extend_from_slice(body);
        message
    }

    #[test]
    fn messages_in_any_pieces_are_whole() {
        let all = [
            message(7, b"reply"),
            message(0, b"note"),
            message(1 << 40, b""),
        ];
        let stream = all.concat();
        for piece in 1..stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                frames.fill(&mut &*bytes).unwrap();
                while let Some(frame) = frames.next().unwrap() {
                    seen.push(match frame {
                        Frame::Reply(bytes) => (true, bytes.to_vec()),
                        Frame::Note(Note::Kernel(bytes) | Note::Touch(bytes)) => (false, bytes),
                    });
                }
            }
            let expected = [true, false, true].into_iter().zip(all.iter().cloned());
            assert_eq!(seen, expected.collect::<Vec<_>>(), "{piece}");
        }
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        for length in [0_u32, 15, LONGEST as u32 + 1, u32::MAX] {
            let mut frames = Frames::default();
            let mut bytes = message(1, b"");
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            frames.fill(&mut &*bytes).unwrap();
            assert!(frames.next().is_err(), "{length}");
        }
    }
}
