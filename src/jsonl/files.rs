//! The files of a log, and their rotation.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde::Serialize;

use super::Place;
use crate::{private, shown};

/// How long a file may become, in bytes.
pub(super) const MOST: u64 = 8 << 20;

/// How many files are kept, with the newest.
pub(super) const KEPT: usize = 4;

/// The files, as a writer has them. Other processes may write them, too.
#[derive(Debug)]
pub(super) struct Files {
    place: Place,
    newest: File,
    most: u64,
}

impl Files {
    pub(super) fn open(place: Place, most: u64) -> io::Result<Self> {
        let newest = open(&place.file(0))?;
        Ok(Self {
            place,
            newest,
            most,
        })
    }

    pub(super) fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = shown::json_line(record)?;
        line.push('\n');
        loop {
            self.newest.lock()?;
            let written = self.write_locked(line.as_bytes());
            self.newest.unlock()?;
            if written? {
                return Ok(());
            }
            // Only the file of this name is written to, so its lock guards the rotation, too.
            self.newest = open(&self.place.file(0))?;
        }
    }

    /// Writes a line, and gives true; unless the file is not the newest one, or is no more.
    fn write_locked(&mut self, line: &[u8]) -> io::Result<bool> {
        if !self.is_newest()? {
            return Ok(false);
        }
        let length = self.newest.metadata()?.len();
        if length > 0 && length + line.len() as u64 > self.most {
            self.rotate()?;
            return Ok(false);
        }
        // A writer may have been ended in the middle of a line.
        if length > 0 {
            let mut last = [0];
            self.newest.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                self.newest.write_all(b"\n")?;
            }
        }
        self.newest.write_all(line)?;
        Ok(true)
    }

    fn is_newest(&self) -> io::Result<bool> {
        let named = match self.place.file(0).metadata() {
            Ok(named) => named,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let ours = self.newest.metadata()?;
        Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
    }

    fn rotate(&self) -> io::Result<()> {
        for newer in (0..KEPT - 1).rev() {
            match std::fs::rename(self.place.file(newer), self.place.file(newer + 1)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    private::file()
        .append(true)
        .read(true)
        .create(true)
        .open(path)
}
