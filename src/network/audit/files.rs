//! The files of the audit log, and their rotation.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Record;
use crate::shown;

/// How long a file may become, in bytes.
pub const MOST: u64 = 8 << 20;

/// How many files are kept, with the newest.
pub const KEPT: usize = 4;

/// The file that has so many newer ones.
pub(super) fn path(directory: &Path, newer: usize) -> PathBuf {
    directory.join(match newer {
        0 => "network.jsonl".to_owned(),
        newer => format!("network.{newer}.jsonl"),
    })
}

/// The files, as their writer has them.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    newest: File,
    length: u64,
    most: u64,
}

impl Files {
    pub(super) fn open(directory: &Path, most: u64) -> io::Result<Self> {
        let newest = append(&path(directory, 0))?;
        let length = newest.metadata()?.len();
        let mut files = Self {
            directory: directory.to_owned(),
            newest,
            length,
            most,
        };
        // An earlier writer may have been ended in the middle of a line.
        if length > 0 && !ends_with_break(&path(directory, 0))? {
            files.append(b"\n")?;
        }
        Ok(files)
    }

    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = shown::json_line(record)?;
        line.push('\n');
        if self.length > 0 && self.length + line.len() as u64 > self.most {
            self.rotate()?;
        }
        self.append(line.as_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.newest.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for newer in (0..KEPT - 1).rev() {
            match std::fs::rename(
                path(&self.directory, newer),
                path(&self.directory, newer + 1),
            ) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        self.newest = append(&path(&self.directory, 0))?;
        self.length = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn ends_with_break(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
