//! Partial blobs: written piece by piece, by one process at a time, and continued after an interruption.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::files::sync_dir;
use crate::image::digest::Digest;
use crate::image::file_error::{FileError, file_error};
use crate::image::store::blob_error::BlobError;
use crate::private;

/// A partial blob. Its lock is held until it is dropped.
#[derive(Debug)]
pub(crate) struct PartialBlob {
    whole: PathBuf,
    path: PathBuf,
    file: File,
    digest: Digest,
    size: u64,
    done: u64,
    hash: Sha256,
}

impl PartialBlob {
    /// Continues the partial blob in a locked file, whose content is hashed first.
    pub(crate) fn resume(
        mut file: File,
        path: PathBuf,
        whole: PathBuf,
        digest: Digest,
        size: u64,
    ) -> Result<Self, FileError> {
        let mut hash = Sha256::new();
        let mut done = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(file_error("read", &path))? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    done += n as u64;
                }
            }
        }
        let mut partial = Self {
            whole,
            path,
            file,
            digest,
            size,
            done,
            hash,
        };
        if done > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// The bytes that are there.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Appends bytes. More than the size of the blob is refused.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if self.done + bytes.len() as u64 > self.size {
            self.restart()?;
            return Err(self.wrong(format!(
                "it is longer than the {} bytes it should have",
                self.size
            )));
        }
        self.file
            .write_all(bytes)
            .map_err(file_error("write", &self.path))?;
        self.hash.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Discards all bytes.
    pub(crate) fn restart(&mut self) -> Result<(), FileError> {
        let restart = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()
        };
        restart(&mut self.file).map_err(file_error("write", &self.path))?;
        self.done = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Makes it a whole blob if size and digest are right, else discards its bytes.
    pub(crate) fn finish(mut self) -> Result<(), BlobError> {
        if self.done < self.size {
            let problem = format!("it ended after {} of {} bytes", self.done, self.size);
            return Err(self.wrong(problem));
        }
        let found = Digest::from_hash(std::mem::take(&mut self.hash));
        if found != self.digest {
            self.restart()?;
            return Err(self.wrong(format!("its content has the digest {found}")));
        }
        let publish = || {
            self.file
                .set_permissions(PermissionsExt::from_mode(private::COMPLETE))?;
            self.file.sync_all()?;
            fs::rename(&self.path, &self.whole)?;
            sync_dir(self.whole.parent().unwrap_or(Path::new(".")))
        };
        Ok(publish().map_err(file_error("write", &self.whole))?)
    }

    fn wrong(&self, problem: String) -> BlobError {
        BlobError::Wrong {
            digest: self.digest.clone(),
            problem,
        }
    }
}
