//! Keeping the whole of a long output in a guest file, for whoever wants to read past what was shown.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::wire::OUTPUT_DIRECTORY;

/// How many files are kept.
const FILES: usize = 32;

/// How much of one output is kept.
const LONGEST: u64 = 64 << 20;

/// One stream's copy: in memory until it is long, then in a file.
#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    after: usize,
    held: Vec<u8>,
    file: Option<File>,
    written: u64,
    broken: bool,
}

impl Spill {
    pub(crate) fn new(number: u64, stream: &str, after: u64) -> Self {
        Self::at(
            Path::new(OUTPUT_DIRECTORY).join(format!("{number:06}.{stream}")),
            after,
        )
    }

    /// As [`Spill::new`], in a file of the caller's choice.
    pub(crate) fn at(path: PathBuf, after: u64) -> Self {
        Self {
            path,
            after: after as usize,
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
            if self.held.len() > self.after {
                self.broken = self.keep().is_err();
            }
        } else {
            self.write(data);
        }
    }

    /// From now on all of it is in the file.
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
        let room = LONGEST.saturating_sub(self.written) as usize;
        let data = &data[..data.len().min(room)];
        if let Some(file) = &mut self.file {
            // A full disk ends the copy, never the command.
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
    for path in old.iter().rev().skip(FILES - 1) {
        let _ = fs::remove_file(path);
    }
    // Never through a link that a command may have put there.
    let _ = fs::remove_file(path);
    File::options().write(true).create_new(true).open(path)
}
