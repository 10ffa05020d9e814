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
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;

    pub(crate) fn sample_tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        // Data that does not compress well, so that a cut in the middle is in the data.
        let content: Vec<u8> = (0..200_000u32)
            .flat_map(|n| Sha256::digest(n.to_le_bytes())[..1].to_vec())
            .collect();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, "etc/data", content.as_slice())
            .unwrap();
        builder.into_inner().unwrap()
    }

    fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
        match compression {
            Compression::Plain => data.to_vec(),
            Compression::Gzip => {
                let mut out =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(data).unwrap();
                out.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
            Compression::Xz => {
                let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
                out.write_all(data).unwrap();
                out.finish().unwrap()
            }
        }
    }

    const ALL: [Compression; 4] = [
        Compression::Plain,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
    ];

    fn layer(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<LayerSource, LayerError>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let layer = LayerSource::root(FileSlice::whole(file.path()).unwrap());
        (file, layer)
    }

    #[test]
    fn every_compression_is_detected_and_read() {
        let tar = sample_tar();
        for compression in ALL {
            let packed = compress(compression, &tar);
            let (_file, layer) = layer(&packed);
            let layer = layer.unwrap();
            assert_eq!(layer.compression(), compression);
            assert_eq!(layer.bytes(), packed.len() as u64);
            assert_eq!(
                layer.digest(&Progress::none()).unwrap(),
                Digest::of(&packed)
            );
            let (progress, mut steps) = Progress::channel();
            let mut out = Vec::new();
            layer
                .open(&progress, "unpacking")
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert!(out == tar, "{compression}");
            layer.check().unwrap();
            let mut last = None;
            while let Ok(step) = steps.try_recv() {
                last = Some(step);
            }
            let last = last.unwrap();
            assert_eq!(
                (last.message.as_str(), last.total),
                ("unpacking", Some(packed.len() as u64))
            );
            assert_eq!(last.done, last.total, "{compression}");
        }
    }

    #[test]
    fn several_streams_one_after_another_are_one() {
        let tar = sample_tar();
        let (first, second) = tar.split_at(tar.len() / 2);
        for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
            let packed = [compress(compression, first), compress(compression, second)].concat();
            let mut out = Vec::new();
            let (_file, layer) = layer(&packed);
            layer
                .unwrap()
                .open(&Progress::none(), "")
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert!(out == tar, "{compression}");
        }
    }

    #[test]
    fn a_cut_stream_leaves_a_fault() {
        let tar = sample_tar();
        for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
            let packed = compress(compression, &tar);
            for cut in [packed.len() / 2, packed.len() - 1] {
                let (_file, layer) = layer(&packed[..cut]);
                let layer = layer.unwrap();
                let read = layer
                    .open(&Progress::none(), "")
                    .unwrap()
                    .read_to_end(&mut Vec::new());
                assert!(read.is_err(), "{compression} cut at {cut}");
                let error = layer.check().unwrap_err().to_string();
                assert!(
                    error.contains("cut short") && error.contains(&compression.to_string()),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn other_files_than_tar_are_refused_with_a_reason() {
        let zeros = vec![0; 10240];
        let cases: [(&[u8], &str); 7] = [
            (b"", "empty"),
            (b"hello, this is no archive", "no tar archive"),
            (&[0xa5; 4096], "no tar archive"),
            (&zeros, "without files"),
            (b"BZh91AY&SY", "bzip2"),
            (b"PK\x03\x04\x14\0\0\0", "zip"),
            (&[0x1f, 0x8b, 8, 0, 0, 0], "cut short"),
        ];
        for (bytes, said) in cases {
            let error = layer(bytes).1.unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let (_file, nothing_inside) = layer(&compress(Compression::Gzip, b""));
        assert!(
            nothing_inside
                .unwrap_err()
                .to_string()
                .contains("without files")
        );
        let missing = FileSlice::whole(Path::new("/nonexistent/x.tar"));
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/x.tar")
        );
    }

    #[test]
    fn the_bound_on_the_unpacked_size_is_for_all_layers_together() {
        let tar = sample_tar();
        let (_file, first) = layer(&tar);
        let mut first = first.unwrap();
        first.budget = Arc::new(AtomicU64::new(tar.len() as u64 + 1000));
        let mut second = first.clone();
        second.fault = Arc::default();
        let read = |layer: &LayerSource| {
            layer
                .open(&Progress::none(), "")
                .unwrap()
                .read_to_end(&mut Vec::new())
        };
        assert_eq!(read(&first).unwrap(), tar.len());
        assert!(read(&second).is_err());
        first.check().unwrap();
        let error = second.check().unwrap_err().to_string();
        assert!(error.contains("more than 48 GiB"), "{error}");
    }

    #[test]
    fn streams_that_need_much_memory_are_refused() {
        use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
        let tar = sample_tar();
        let xz = |dictionary: u32| {
            let mut options = LzmaOptions::new_preset(0).unwrap();
            options.dict_size(dictionary);
            let mut filters = Filters::new();
            filters.lzma2(&options);
            let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
            let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            out.write_all(&tar).unwrap();
            out.finish().unwrap()
        };
        let zstd = |log: u32| {
            let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
            out.window_log(log).unwrap();
            out.long_distance_matching(true).unwrap();
            out.write_all(&tar).unwrap();
            out.finish().unwrap()
        };
        for packed in [xz(64 << 20), zstd(27)] {
            let (_file, layer) = layer(&packed);
            let mut out = Vec::new();
            let mut input = layer.unwrap().open(&Progress::none(), "").unwrap();
            input.read_to_end(&mut out).unwrap();
            assert!(out == tar);
        }
        // Only the header claims a larger dictionary.
        let mut large = xz(64 << 20);
        let greatest = 40;
        // The header of the first block: size, flags, filter id, size of the properties, size of the dictionary.
        large[16] = greatest;
        let crc = crc32(&large[12..20]);
        large[20..24].copy_from_slice(&crc.to_le_bytes());
        for packed in [large, zstd(30)] {
            let (_file, layer) = layer(&packed);
            let error = layer.unwrap_err().to_string();
            assert!(error.contains("more than 160 MiB of memory"), "{error}");
        }
    }

    /// The checksum in headers of xz.
    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
