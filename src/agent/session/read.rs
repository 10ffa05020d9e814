//! A file's entries, up to the first damaged one: every later one may depend on it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use super::entry::{Entry, FORMAT, First, Header, opened};
use super::error::{SessionError, failed};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// What its first line says; none if that is damaged.
    pub(super) header: Option<Header>,
    /// Its entries, in order. The first has the number 1, and no number is left out.
    pub(super) entries: Vec<Entry>,
    /// Where the last of them ends; what is after it is damaged.
    pub(super) sound_end: u64,
}

impl Contents {
    /// Reads a file.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self, SessionError> {
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let contents = reader.rewind().and_then(|()| Self::scan(reader));
        let contents = contents.map_err(failed("read the session", path))?;
        match &contents.header {
            Some(header) if header.format > FORMAT => Err(SessionError::Newer {
                path: path.to_owned(),
                format: header.format,
                program: header.program.clone(),
            }),
            _ => Ok(contents),
        }
    }

    pub(super) fn scan(mut from: impl BufRead) -> io::Result<Self> {
        let mut contents = Self::default();
        let (mut line, mut at) = (Vec::new(), 0);
        loop {
            line.clear();
            match from.read_until(b'\n', &mut line)? {
                0 => return Ok(contents),
                read => at += read as u64,
            }
            match opened::<Entry>(&line) {
                Some(entry) if contents.is_next(&entry) => contents.entries.push(entry),
                // Without a sound header, the entries still count.
                _ if contents.entries.is_empty() => match opened::<First>(&line) {
                    Some(First { session }) => contents.header = Some(session),
                    None => continue,
                },
                _ => return Ok(contents),
            }
            contents.sound_end = at;
        }
    }

    /// Whether an entry can follow. Only a forged line can't, but following parents must come to an end.
    fn is_next(&self, entry: &Entry) -> bool {
        let (n, parent) = (entry.place.n, entry.place.parent);
        n.0 == self.entries.len() as u64 + 1
            && parent.is_none_or(|parent| (1..n.0).contains(&parent.0))
    }
}
