//! Layers: readable as the decompressed tar streams they hold.
//!
//! The host decompresses, counts and hashes; only the guest interprets what is in the tar stream.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::image::compression::{Compression, MAX_MEMORY, needs_too_much_memory};
use crate::image::content::{Content, LayerBlob};
use crate::image::digest::Digest;
use crate::image::file_error::{FileError, file_error};
use crate::image::file_slice::{FileSlice, FileSliceError};
use crate::image::store::blobs::Blobs;
use crate::image::tar_index::TarIndex;
use crate::progress::{Progress, Step};
use crate::text::size;

/// The most that the layers of an image may unpack to together, in bytes. It is less than the disk holds.
pub(crate) const MAX_UNPACKED: u64 = 48 << 30;

/// Why a layer can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no regular file.
    #[error(transparent)]
    Slice(#[from] FileSliceError),
    /// It is no archive that an image can be made of.
    #[error("import {path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It can't be decompressed to its end.
    #[error("decompress {path} ({compression}): it is damaged or cut short")]
    Decompress {
        /// The file.
        path: PathBuf,
        /// Its compression.
        compression: Compression,
        /// The decompressor's error.
        source: io::Error,
    },
    /// The layers unpack to more than a disk holds.
    #[error(
        "unpack the image: its layers hold more than {}, the most an image may unpack to",
        size(MAX_UNPACKED)
    )]
    TooLarge,
}

/// A layer: a slice of a file that holds a tar archive, compressed or not.
#[derive(Debug, Clone)]
pub struct LayerSource {
    slice: FileSlice,
    compression: Compression,
    /// The digest that the decompressed archive must have.
    diff_id: Option<Digest>,
    /// The bytes that the layers of an image may still unpack to, together.
    budget: Arc<AtomicU64>,
    /// Whether `.wh.` entries delete files, as in the layers of OCI images. In the archive of a root they are files.
    pub(crate) whiteouts: bool,
    /// Why reading stopped before the end, if it did.
    fault: Arc<OnceLock<Fault>>,
}

/// Why the stream of a layer stopped before its end.
#[derive(Debug, Clone)]
enum Fault {
    Stream(io::ErrorKind, String),
    /// The archive has this digest, not the promised one.
    Digest(Digest),
    TooLarge,
    /// Decompression needs more than [`MAX_MEMORY`].
    Memory,
}

impl LayerSource {
    /// The layer in a slice of a file.
    pub(crate) fn new(slice: FileSlice, whiteouts: bool) -> Result<Self, LayerError> {
        let mut start = Vec::new();
        let read = slice.reader()?.take(16).read_to_end(&mut start);
        read.map_err(file_error("read", slice.path()))?;
        Ok(Self {
            slice,
            compression: Compression::detect(&start),
            diff_id: None,
            budget: Arc::new(AtomicU64::new(MAX_UNPACKED)),
            whiteouts,
            fault: Arc::default(),
        })
    }

    /// A whole file as a layer.
    #[cfg(test)]
    pub(crate) fn of_file(path: &std::path::Path) -> Self {
        Self::new(FileSlice::whole(path).unwrap(), true).unwrap()
    }

    /// The layers of an image in the store. While they are read, each is checked against the digest in the image's
    /// configuration, and all together against [`MAX_UNPACKED`].
    pub(crate) fn of(content: &Content, blobs: &Blobs) -> Result<Vec<Self>, LayerError> {
        let budget = Arc::new(AtomicU64::new(MAX_UNPACKED));
        let layer = |layer: &LayerBlob| {
            let slice = FileSlice::of_store(&blobs.path(&layer.digest), layer.bytes);
            let mut source = Self::new(slice, !content.plain_root)?;
            source.diff_id = Some(layer.diff_id.clone());
            source.budget = budget.clone();
            Ok(source)
        };
        content.layers.iter().map(layer).collect()
    }

    /// The archive of a root file system that is a whole file. Refuses a file that does not begin as a tar archive.
    /// Blocking.
    pub(crate) fn root(whole: FileSlice) -> Result<Self, LayerError> {
        if whole.bytes() == 0 {
            return Err(invalid(&whole, "it is empty"));
        }
        let layer = Self::new(whole, false)?;
        let mut start = [0; 4];
        let known = layer.slice.reader()?.read_exact(&mut start).is_ok();
        if known && start.starts_with(b"BZh") {
            let problem = "it is compressed with bzip2; use gzip, xz, zstd or no compression";
            return Err(invalid(&layer.slice, problem));
        }
        if known && &start == b"PK\x03\x04" {
            let problem = "it is a zip archive; a root file system must be a tar archive";
            return Err(invalid(&layer.slice, problem));
        }
        layer.check_start()?;
        Ok(layer)
    }

    /// Refuses a file that does not begin as a tar archive.
    fn check_start(&self) -> Result<(), LayerError> {
        let first = TarIndex::new(self.open(&Progress::none(), "")?).first();
        match (first, self.fault.get()) {
            (Ok(Some(_)), _) => Ok(()),
            (_, Some(_)) => self.check(),
            (Err(error), _) => {
                let problem = format!("it is no tar archive ({error})");
                Err(invalid(&self.slice, problem))
            }
            (Ok(None), _) => Err(invalid(&self.slice, "it is an archive without files")),
        }
    }

    /// The digest of the compressed bytes. Reads all of them. Blocking.
    pub(crate) fn digest(&self, progress: &Progress) -> Result<Digest, LayerError> {
        let message = format!("reading {}", self.file_name());
        let mut input = self.with_progress(self.slice.reader()?, progress, &message);
        let hash = hash_all(&mut input).map_err(file_error("read", self.slice.path()))?;
        if input.done != self.bytes() {
            let problem = format!("it ends after {} of {} bytes", input.done, self.bytes());
            return Err(invalid(&self.slice, problem));
        }
        Ok(hash)
    }

    /// The digest of the decompressed tar archive. Reads all of it. Blocking.
    pub(crate) fn diff_id(&self, progress: &Progress) -> Result<Digest, LayerError> {
        let message = format!("reading {}", self.file_name());
        let hashed = hash_all(&mut self.open(progress, &message)?);
        // The fault explains more than the reader's error.
        self.check()?;
        Ok(hashed.map_err(file_error("read", self.slice.path()))?)
    }

    fn with_progress<R: Read>(
        &self,
        input: R,
        progress: &Progress,
        message: &str,
    ) -> ProgressReader<R> {
        ProgressReader {
            input,
            done: 0,
            total: self.slice.bytes(),
            message: message.to_owned(),
            progress: progress.clone(),
            reported: None,
        }
    }

    /// The decompressed tar stream. `progress` is told under `message` how many compressed bytes were read. Reading
    /// blocks.
    pub fn open(
        &self,
        progress: &Progress,
        message: &str,
    ) -> Result<Box<dyn Read + Send>, LayerError> {
        let raw = BufReader::with_capacity(
            1 << 18,
            self.with_progress(self.slice.reader()?, progress, message),
        );
        let decoder = self
            .compression
            .decoder(raw)
            .map_err(file_error("decompress", self.slice.path()))?;
        Ok(Box::new(CheckedReader {
            decoder,
            hash: self.diff_id.as_ref().map(|_| Sha256::new()),
            layer: self.clone(),
        }))
    }

    /// The fault of a stream that stopped before its end. A consumer of the stream may only have seen that it ended.
    pub(crate) fn check(&self) -> Result<(), LayerError> {
        let Some(fault) = self.fault.get() else {
            return Ok(());
        };
        Err(match fault {
            Fault::Stream(kind, reason) => LayerError::Decompress {
                path: self.slice.path().to_owned(),
                compression: self.compression,
                source: io::Error::new(*kind, reason.clone()),
            },
            Fault::Digest(found) => {
                let promised = self.diff_id.as_ref().map_or("", Digest::as_str);
                let problem = format!(
                    "the image's configuration promises a layer with the digest {promised}, but this one has {found}"
                );
                invalid(&self.slice, problem)
            }
            Fault::TooLarge => LayerError::TooLarge,
            Fault::Memory => {
                let problem = format!(
                    "to decompress it ({}) takes more than {} MiB of memory; compress it with a smaller \
                     dictionary or window, as xz -9 or zstd -19 does",
                    self.compression,
                    MAX_MEMORY >> 20
                );
                invalid(&self.slice, problem)
            }
        })
    }

    /// The name of its file, for messages.
    pub(crate) fn file_name(&self) -> String {
        let path = self.slice.path();
        path.file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// Its bytes, compressed.
    pub(crate) fn slice(&self) -> &FileSlice {
        &self.slice
    }

    /// Its compressed length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.slice.bytes()
    }

    /// Its compression.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }
}

fn invalid(slice: &FileSlice, problem: impl Into<String>) -> LayerError {
    LayerError::Invalid {
        path: slice.path().to_owned(),
        problem: problem.into(),
    }
}

fn hash_all(input: &mut impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(Digest::from_hash(hash)),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Reports how much was read, at most ten times a second.
struct ProgressReader<R> {
    input: R,
    done: u64,
    total: u64,
    message: String,
    progress: Progress,
    reported: Option<Instant>,
}

impl<R: Read> Read for ProgressReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if n == 0
            || self
                .reported
                .is_none_or(|at| at.elapsed() > Duration::from_millis(100))
        {
            self.reported = Some(Instant::now());
            self.progress.step(Step {
                message: self.message.clone(),
                done: Some(self.done),
                total: Some(self.total),
                part: None,
            });
        }
        Ok(n)
    }
}

/// Reads the decompressed stream of a layer, and stops with a [`Fault`] if it is too long or has another digest.
struct CheckedReader {
    decoder: Box<dyn Read + Send>,
    hash: Option<Sha256>,
    layer: LayerSource,
}

impl CheckedReader {
    /// Notes a fault. The first one counts.
    fn fails(&self, fault: Fault) -> io::Error {
        self.layer.fault.get_or_init(|| fault);
        io::Error::other("the layer is not what it should be")
    }
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.decoder.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let fault = match needs_too_much_memory(&error) {
                    true => Fault::Memory,
                    false => Fault::Stream(error.kind(), error.to_string()),
                };
                self.layer.fault.get_or_init(|| fault);
                return Err(error);
            }
        };
        let take = |left: u64| left.checked_sub(n as u64);
        if self
            .layer
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            return Err(self.fails(Fault::TooLarge));
        }
        if n > 0 {
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..n]);
            }
        } else if !buffer.is_empty()
            && let Some(hash) = self.hash.take()
        {
            let found = Digest::from_hash(hash);
            if self.layer.diff_id.as_ref() != Some(&found) {
                return Err(self.fails(Fault::Digest(found)));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
