//! An index of where lines begin in the files that were read last.
//!
//! A page of a long file is requested by the number of its first line, and finding that line takes counting all lines
//! before it. So [`Marks`] of the last few files are kept: the offset of one line in every 64 KiB or more, and the number
//! of lines once it is known. They are valid while the file's device, inode, size and times stay the same ([`Stamp`]).
//! Memory is bounded: [`FILES`] files with [`MARKS`] marks each.

use std::fs::Metadata;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many files the index has.
const FILES: usize = 8;

/// How many marks a file has.
const MARKS: usize = 2048;

/// The least distance of two marks, and how many bytes are read at once.
const STRIDE: usize = 64 << 10;

/// A file that was changed within this time may change again without a change of its times.
const SETTLED: Duration = Duration::from_millis(50);

/// A stamp that changes when a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    times: [(i64, i64); 2],
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.len(),
            times: [
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ],
        }
    }

    /// Whether any later change will change the stamp. Files in `/proc` have no size, and their times mean nothing.
    fn is_reliable(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let settled = now.unwrap_or_default().saturating_sub(SETTLED);
        let settled = (
            settled.as_secs().cast_signed(),
            i64::from(settled.subsec_nanos()),
        );
        self.size > 0 && self.times.iter().all(|time| *time < settled)
    }
}

/// The start of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The number of lines before it.
    line: u64,
    offset: u64,
}

/// The known line starts of one file.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    /// Ascending; the first is the start of the file.
    marks: Vec<Mark>,
    /// The least distance of two marks.
    stride: u64,
    /// The number of lines, if known.
    pub(super) total: Option<u64>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            marks: vec![Mark { line: 0, offset: 0 }],
            stride: STRIDE as u64,
            total: None,
        }
    }
}

impl Marks {
    /// The last mark at or before a line.
    fn before(&self, line: u64) -> Mark {
        let after = self.marks.partition_point(|mark| mark.line <= line);
        self.marks[after.saturating_sub(1)]
    }

    fn last(&self) -> Mark {
        self.before(u64::MAX)
    }

    fn add(&mut self, mark: Mark) {
        if mark.offset < self.last().offset + self.stride {
            return;
        }
        self.marks.push(mark);
        if self.marks.len() > MARKS {
            let mut at = 0;
            self.marks.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

/// The marks of the files that were read last.
#[derive(Debug, Default)]
pub(crate) struct LineIndex(Mutex<Vec<(Stamp, Marks)>>);

impl LineIndex {
    /// The marks of a file.
    pub(super) fn get(&self, stamp: &Stamp) -> Marks {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(known, _)| known == stamp);
        found.map(|(_, marks)| marks.clone()).unwrap_or_default()
    }

    /// Keeps the marks of a file, if its stamp is reliable.
    pub(super) fn put(&self, stamp: Stamp, marks: Marks) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, _)| known.file != stamp.file);
        if stamp.is_reliable() {
            if known.len() >= FILES {
                known.remove(0);
            }
            known.push((stamp, marks));
        }
    }
}

/// The result of moving to a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// The line begins here.
    There,
    /// The file has no such line.
    End,
    /// Time ran out before the line was reached.
    OutOfTime,
}

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The complete line, with its line break if it has one.
    Whole,
    /// The beginning of a longer line.
    Longer,
    /// There is no further line.
    End,
}

/// Reads a file line by line, and marks where lines begin.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    pub(super) marks: Marks,
    /// The number of complete lines before the position.
    pub(super) line: u64,
    offset: u64,
    /// Whether the position is inside a line.
    inside: bool,
}

impl<R: Read + Seek> Lines<R> {
    /// Starts at the last mark at or before `line` (the first line is 0).
    pub(super) fn new(reader: R, marks: Marks, line: u64) -> io::Result<Self> {
        let mut lines = Self {
            reader: BufReader::with_capacity(STRIDE, reader),
            line: 0,
            offset: 0,
            inside: false,
            marks,
        };
        lines.seek(lines.marks.before(line))?;
        Ok(lines)
    }

    fn seek(&mut self, mark: Mark) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(mark.offset))?;
        (self.line, self.offset, self.inside) = (mark.line, mark.offset, false);
        Ok(())
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Some files in `/proc` wait for more data; what is there now is enough.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(&[]),
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        Ok(self.reader.buffer())
    }

    fn consume(&mut self, bytes: usize, breaks: u64, inside: bool) {
        self.reader.consume(bytes);
        self.offset += bytes as u64;
        self.line += breaks;
        self.inside = inside;
    }

    fn mark(&mut self) {
        if !self.inside {
            let (line, offset) = (self.line, self.offset);
            self.marks.add(Mark { line, offset });
        }
    }

    /// Moves to the start of a line (the first line is 0), at most until this time.
    pub(super) fn pass(&mut self, to: u64, until: Instant) -> io::Result<Passed> {
        while self.line < to {
            if Instant::now() >= until {
                return Ok(Passed::OutOfTime);
            }
            let wanted = to - self.line;
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Ok(self.end());
            }
            let breaks = memchr::memchr_iter(b'\n', buffer).count() as u64;
            let end = if breaks >= wanted {
                memchr::memchr_iter(b'\n', buffer)
                    .nth(usize::try_from(wanted - 1).unwrap_or(usize::MAX))
            } else {
                memchr::memrchr(b'\n', buffer)
            };
            let (length, breaks) = (buffer.len(), breaks.min(wanted));
            match end {
                Some(end) => {
                    self.consume(end + 1, breaks, false);
                    self.mark();
                }
                None => self.consume(length, 0, true),
            }
        }
        Ok(Passed::There)
    }

    /// Counts all lines, from the last mark on, at most until this time.
    pub(super) fn count(&mut self, until: Instant) -> io::Result<Option<u64>> {
        if self.marks.total.is_none() {
            let furthest = self.marks.last();
            if furthest.offset > self.offset {
                self.seek(furthest)?;
            }
            self.pass(u64::MAX, until)?;
        }
        Ok(self.marks.total)
    }

    /// Whether any data follows.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        Ok(!self.fill()?.is_empty())
    }

    fn end(&mut self) -> Passed {
        self.marks.total = Some(self.line + u64::from(self.inside));
        Passed::End
    }

    /// Adds the next line to `text`, at most `most` bytes of it.
    pub(super) fn next(&mut self, most: usize, text: &mut Vec<u8>) -> io::Result<Line> {
        self.mark();
        let mut room = most;
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                let line = match self.inside {
                    true => Line::Whole,
                    false => Line::End,
                };
                self.end();
                return Ok(line);
            }
            let end = memchr::memchr(b'\n', buffer).map(|at| at + 1);
            let length = end.unwrap_or(buffer.len());
            if length > room {
                text.extend_from_slice(&buffer[..room]);
                self.consume(room, 0, self.inside || room > 0);
                return Ok(Line::Longer);
            }
            text.extend_from_slice(&buffer[..length]);
            room -= length;
            self.consume(length, u64::from(end.is_some()), end.is_none());
            if end.is_some() {
                return Ok(Line::Whole);
            }
        }
    }
}

#[cfg(test)]
mod tests;
