//! Contents of files by their hash, for those that are in no base.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{CopyError, io_error};
use crate::holes::Holes;
use crate::{files, presence};

/// A content of at most this many bytes is held in memory.
const SMALL: u64 = 4 << 20;

/// A directory of contents.
#[derive(Debug, Clone)]
pub struct Contents {
    dir: PathBuf,
}

impl Contents {
    /// The contents in an existing directory.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps exactly `size` bytes of `from`; gives their hash. They are on the disk after [`Self::sync`]. Blocks.
    pub fn add(&self, from: &mut dyn Read, size: u64) -> Result<String, CopyError> {
        let doing = "keep a content in";
        if size <= SMALL {
            return self.add_small(from, size);
        }
        let file = files::one_more_temporary(&self.dir).map_err(io_error(doing, &self.dir))?;
        let mut written = || -> io::Result<_> {
            let mut hashing = Hashing {
                to: BufWriter::with_capacity(1 << 16, Holes::new(file.as_file())),
                hash: Sha256::new(),
            };
            if io::copy(&mut from.take(size), &mut hashing)? != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hashing.flush()?;
            Ok(hex::encode(hashing.hash.finalize()))
        };
        let name = written().map_err(io_error(doing, &self.dir))?;
        let path = self.dir.join(&name);
        if !presence::is_file(&path).map_err(io_error("look for", &path))? {
            let kept = file.persist(&path);
            kept.map_err(|error| io_error(doing, &self.dir)(error.error))?;
        }
        Ok(name)
    }

    /// The same in memory: most contents are there already.
    fn add_small(&self, from: &mut dyn Read, size: u64) -> Result<String, CopyError> {
        let doing = "keep a content in";
        let mut bytes = Vec::new();
        let read = from.take(size).read_to_end(&mut bytes);
        if read.map_err(io_error(doing, &self.dir))? as u64 != size {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(io_error(doing, &self.dir)(source));
        }
        let name = hex::encode(Sha256::digest(&bytes));
        let path = self.dir.join(&name);
        if !presence::is_file(&path).map_err(io_error("look for", &path))? {
            let write = || -> io::Result<()> {
                let mut file = files::one_more_temporary(&self.dir)?;
                file.write_all(&bytes)?;
                file.persist(&path)?;
                Ok(())
            };
            write().map_err(io_error(doing, &self.dir))?;
        }
        Ok(name)
    }

    /// The hash of what is left of `from`, which is not kept. Blocks.
    pub fn hash(from: &mut dyn Read) -> Result<String, CopyError> {
        let mut hashing = Hashing {
            to: io::sink(),
            hash: Sha256::new(),
        };
        io::copy(from, &mut hashing).map_err(CopyError::Compare)?;
        Ok(hex::encode(hashing.hash.finalize()))
    }

    /// Puts all contents on the disk. Blocks.
    pub fn sync(&self) -> Result<(), CopyError> {
        let synced = File::open(&self.dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(io_error("put on the disk", &self.dir))
    }

    /// Opens a content.
    pub fn open(&self, hash: &str) -> Result<File, CopyError> {
        let path = self.dir.join(hash);
        File::open(&path).map_err(io_error("open the content", &path))
    }

    /// Reads a whole content.
    pub fn read(&self, hash: &str) -> Result<Vec<u8>, CopyError> {
        let path = self.dir.join(hash);
        fs::read(&path).map_err(io_error("read the content", &path))
    }

    /// The path of a content.
    pub fn path(&self, hash: &str) -> PathBuf {
        self.dir.join(hash)
    }

    /// Removes contents that are not needed. Blocks.
    pub fn keep_only(&self, needed: &BTreeSet<String>) -> Result<(), CopyError> {
        let left = files::abandoned_temporary(&self.dir).and_then(files::remove_abandoned);
        left.map_err(io_error("clear away", &self.dir))?;
        let all = presence::entries(&self.dir).map_err(io_error("list", &self.dir))?;
        for path in all {
            let name = path.file_name().and_then(|name| name.to_str());
            // Those that are being written have another name.
            let is_content = name.is_some_and(|name| name.len() == 64);
            if is_content && !name.is_some_and(|name| needed.contains(name)) {
                remove(&path);
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "could not be cleared away");
    }
}

/// Writes, and hashes what it wrote.
struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
