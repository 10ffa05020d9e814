//! Reading the audit log, also while it is written.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Record;
use super::files::{KEPT, path};

/// How much is read at once, in bytes.
const PIECE: u64 = 1 << 20;

/// A reader of the log: of all that is kept, and then of what is added.
#[derive(Debug)]
pub struct Follow {
    directory: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follow {
    /// Reads the log in a directory from its oldest line on. The log need not exist yet.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let mut file = None;
        for newer in (0..KEPT).rev() {
            file = open(directory, newer)?;
            if file.is_some() {
                break;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            file,
            rest: Vec::new(),
        })
    }

    /// The next lines: none if no more are written at the moment. Lines that are no records are left out.
    pub fn read(&mut self) -> io::Result<Vec<Record>> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.directory, 0)?;
            }
            let Some(file) = &mut self.file else {
                return Ok(Vec::new());
            };
            // Looked up before reading: what is renamed afterwards is read to its end by the next call.
            let next = next(&self.directory, file)?;
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
            let records: Vec<Record> = records.collect();
            if !records.is_empty() || read == 0 {
                return Ok(records);
            }
        }
    }
}

fn open(directory: &Path, newer: usize) -> io::Result<Option<File>> {
    match File::open(path(directory, newer)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file after this one, unless this is the newest. One that is no longer kept is before the oldest.
fn next(directory: &Path, file: &File) -> io::Result<Option<File>> {
    let this = file.metadata()?.ino();
    let mut after = None;
    for newer in 0..KEPT {
        let Some(other) = open(directory, newer)? else {
            continue;
        };
        if other.metadata()?.ino() == this {
            return Ok(after);
        }
        after = Some(other);
    }
    Ok(after)
}
