//! Keeping complete outputs in guest files. The host shows a long output shortened, and one with control characters as a
//! terminal would; the file has all of it, unchanged.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::wire::{OUTPUT_DIRECTORY, is_control};

/// How many files are kept.
const FILES: usize = 64;

/// How many bytes the files may have together.
const BYTES: u64 = 1 << 30;

/// How many bytes of one output are kept.
const LONGEST: u64 = 64 << 20;

/// The copy of one stream: first in memory, then in a file.
#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    after: usize,
    /// The last byte, if control characters are a reason for a file.
    before: Option<u8>,
    held: Vec<u8>,
    file: Option<File>,
    written: u64,
    /// Whether the copy was given up.
    broken: bool,
}

impl Spill {
    /// A copy in a file of its own, for long output and control characters.
    pub(crate) fn new(number: u64, stream: &str, after: u64) -> Self {
        Self {
            before: Some(0),
            ..Self::at(
                Path::new(OUTPUT_DIRECTORY).join(format!("{number:06}.{stream}")),
                after,
            )
        }
    }

    /// As [`Spill::new`], in this file, and for long output only.
    pub(crate) fn at(path: PathBuf, after: u64) -> Self {
        Self {
            path,
            after: usize::try_from(after).unwrap_or(usize::MAX),
            before: None,
            held: Vec::new(),
            file: None,
            written: 0,
            broken: false,
        }
    }

    pub(crate) fn add(&mut self, data: &[u8]) {
        if self.broken {
            return;
        }
        if self.file.is_none() {
            self.held.extend_from_slice(data);
            if self.held.len() > self.after || self.has_controls(data) {
                self.broken = self.keep().is_err();
            }
        } else {
            self.write(data);
        }
    }

    fn has_controls(&mut self, data: &[u8]) -> bool {
        let Some(before) = &mut self.before else {
            return false;
        };
        data.iter()
            .any(|byte| is_control(std::mem::replace(before, *byte), *byte))
    }

    /// Moves everything to the file, also in future.
    pub(crate) fn keep(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            self.file = Some(create(&self.path)?);
            let held = std::mem::take(&mut self.held);
            self.write(&held);
        }
        Ok(())
    }

    /// How many bytes are in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn write(&mut self, data: &[u8]) {
        let room = usize::try_from(LONGEST.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let data = &data[..data.len().min(room)];
        if let Some(file) = &mut self.file {
            // A full disk ends the copy, not the command.
            match file.write_all(data) {
                Ok(()) => self.written += data.len() as u64,
                Err(_) => self.broken = true,
            }
        }
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<String> {
        (self.file.is_some() && !self.broken).then(|| self.path.to_string_lossy().into_owned())
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut old: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    old.sort();
    let mut bytes = 0;
    for (newer, path) in old.iter().rev().enumerate() {
        bytes += fs::symlink_metadata(path).map_or(0, |about| about.len());
        if newer >= FILES - 1 || bytes > BYTES {
            fs::remove_file(path).ok();
        }
    }
    // A command may have put a link there.
    fs::remove_file(path).ok();
    File::options().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_and_control_characters_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |name: &str, pieces: &[&[u8]]| {
            let mut spill = Spill {
                before: Some(0),
                ..Spill::at(dir.path().join(name), 10)
            };
            for piece in pieces {
                spill.add(piece);
            }
            spill.file().map(|file| fs::read(file).unwrap())
        };
        assert_eq!(kept("1", &[b"text\tof\n"]), None);
        assert_eq!(kept("2", &["é\u{a0}©".as_bytes()]), None);
        assert_eq!(kept("3", &[b"12345", b"678901"]).unwrap(), b"12345678901");
        assert_eq!(kept("4", &[b"a\r", b"b"]).unwrap(), b"a\rb");
        assert_eq!(kept("5", &[b"a\xc2", b"\x9b1m"]).unwrap(), b"a\xc2\x9b1m");
        assert_eq!(kept("6", &[b"\0"]).unwrap(), b"\0");
        let mut log = Spill::at(dir.path().join("7"), 10);
        log.add(b"\x1b[m");
        assert_eq!(log.file(), None);
    }
}
