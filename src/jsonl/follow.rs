//! Reading a log, also while it is written.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

use serde::de::DeserializeOwned;

use super::Place;
use super::files::KEPT;

/// How much is read at once, in bytes.
const PIECE: u64 = 1 << 20;

/// A reader of the log: of all that is kept, and then of what is added.
#[derive(Debug)]
pub struct Follow<T> {
    place: Place,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    records: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Follow<T> {
    /// Reads the log from its oldest line on. It need not exist yet.
    pub fn new(place: Place) -> io::Result<Self> {
        let mut file = None;
        for newer in (0..KEPT).rev() {
            file = open(&place, newer)?;
            if file.is_some() {
                break;
            }
        }
        Ok(Self {
            place,
            file,
            rest: Vec::new(),
            records: PhantomData,
        })
    }

    /// All lines that are written and were not read yet.
    pub fn read_all(&mut self) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        loop {
            match self.read()? {
                more if more.is_empty() => return Ok(all),
                more => all.extend(more),
            }
        }
    }

    /// The next lines: none if no more are written at the moment. Lines that are no records are left out.
    pub fn read(&mut self) -> io::Result<Vec<T>> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.place, 0)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(Vec::new());
            };
            // Looked up before reading: what is renamed afterwards is read to its end by the next call.
            let next = next(&self.place, file)?;
            let read = file.take(PIECE).read_to_end(&mut self.rest)?;
            if read == 0
                && let Some(next) = next
            {
                (self.file, self.rest) = (Some(next), Vec::new());
                continue;
            }
            let end = self
                .rest
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let lines: Vec<u8> = self.rest.drain(..end).collect();
            let records = lines
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok());
            let records: Vec<T> = records.collect();
            if !records.is_empty() || read == 0 {
                return Ok(records);
            }
        }
    }
}

fn open(place: &Place, newer: usize) -> io::Result<Option<File>> {
    match File::open(place.file(newer)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file after this one, unless this is the newest. One that is no longer kept is before the oldest.
fn next(place: &Place, file: &File) -> io::Result<Option<File>> {
    let this = file.metadata()?.ino();
    let mut after = None;
    for newer in 0..KEPT {
        let Some(other) = open(place, newer)? else {
            continue;
        };
        if other.metadata()?.ino() == this {
            return Ok(after);
        }
        after = Some(other);
    }
    Ok(after)
}
