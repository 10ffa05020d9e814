//! Layers: where their bytes are, how they are compressed, and reading them as the tar streams they are.
//!
//! The host decompresses and counts; what the tar stream holds is for the guest to interpret.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::ImageError;
use crate::image::content::{Content, LayerBlob};
use crate::image::error::io_error;
use crate::image::file_slice::Part;
use crate::image::store::blobs::{Blobs, Digest};
use crate::image::tar_index::Table;
use crate::progress::{Progress, Step};

/// The memory that a decompressor may take, in bytes: more than `xz -9` needs (65 MiB), or `zstd --long`.
const MAX_DECODER: u64 = 160 << 20;

/// The largest window of Zstandard's, as a power of two: 128 MiB, as of `zstd --long`.
const MAX_WINDOW_LOG: u32 = 27;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
}

impl Compression {
    /// Tells by a file's first bytes. Whatever is none of the others is taken for plain; pure.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, with which a Zstandard stream may begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    /// What the media types of layers call it.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }

    fn decoder(self, input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Plain => Box::new(input),
            // Its window is 32 KiB, and the library takes at most 64 KiB of each field of a header.
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(input)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => {
                use liblzma::stream::{CONCATENATED, Stream};
                let stream = Stream::new_stream_decoder(MAX_DECODER, CONCATENATED)?;
                Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
            }
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "not compressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        })
    }
}

/// One layer: a file, or a part of one, that holds a tar archive.
#[derive(Debug, Clone)]
pub struct LayerSource {
    part: Part,
    compression: Compression,
    /// The digest that the decompressed archive must have.
    diff_id: Option<Digest>,
    /// How much an image's layers may still unpack to, together.
    budget: Arc<AtomicU64>,
    /// Whether `.wh.` entries mean deletions, as in the layers of OCI images; a plain root has none.
    pub whiteouts: bool,
    /// Why reading stopped before the end, if it did.
    broken: Arc<OnceLock<Broken>>,
}

/// Why a layer's stream stopped before its end.
#[derive(Debug, Clone)]
enum Broken {
    Stream(io::ErrorKind, String),
    OtherContent(Digest),
    TooMuch,
    /// Its decompression takes more than [`MAX_DECODER`].
    Memory,
}

/// Whether a decompressor refused a stream for the memory that it takes.
fn wants_memory(error: &io::Error) -> bool {
    use liblzma::stream::Error as Xz;
    let cause = error.get_ref();
    match cause.and_then(|cause| cause.downcast_ref()) {
        Some(Xz::MemLimit | Xz::Mem) => true,
        Some(_) => false,
        // Zstandard's library has a text for each of its errors, and nothing else.
        None => error.to_string().contains("requires too much memory"),
    }
}

/// The most an image may unpack to: less than its disk holds.
pub const MAX_UNPACKED: u64 = 48 << 30;

impl LayerSource {
    /// The layer that is a part of a file.
    pub(crate) fn new(part: Part, whiteouts: bool) -> Result<Self, ImageError> {
        let mut layer = Self {
            part,
            compression: Compression::Plain,
            diff_id: None,
            budget: Arc::new(AtomicU64::new(MAX_UNPACKED)),
            whiteouts,
            broken: Arc::default(),
        };
        let mut start = Vec::new();
        let read = layer.part.reader()?.take(16).read_to_end(&mut start);
        read.map_err(io_error("read", layer.part.path()))?;
        layer.compression = Compression::sniff(&start);
        Ok(layer)
    }

    /// A whole file, as a layer.
    #[cfg(test)]
    pub(crate) fn of_file(path: &std::path::Path) -> Self {
        Part::whole(path)
            .and_then(|part| Self::new(part, true))
            .unwrap()
    }

    /// The layers of an image among the blobs, which are to be what its configuration says, and not too large.
    pub fn of(content: &Content, blobs: &Blobs) -> Result<Vec<Self>, ImageError> {
        let budget = Arc::new(AtomicU64::new(MAX_UNPACKED));
        let layer = |layer: &LayerBlob| {
            let part = Part::own(&blobs.path(&layer.digest), layer.bytes);
            let mut source = Self::new(part, !content.plain_root)?;
            source.diff_id = Some(layer.diff_id.clone());
            source.budget = budget.clone();
            Ok(source)
        };
        content.layers.iter().map(layer).collect()
    }

    /// The archive of a root that is all of a file. Refuses what does not begin as one does. Blocking.
    pub(crate) fn root(whole: Part) -> Result<Self, ImageError> {
        let path = whole.path().to_owned();
        let bad = |problem: &str| ImageError::BadArchive {
            path: path.clone(),
            problem: problem.to_owned(),
        };
        if whole.bytes() == 0 {
            return Err(bad("it is empty"));
        }
        let layer = Self::new(whole, false)?;
        let mut start = [0; 4];
        let known = layer.part.reader()?.read_exact(&mut start).is_ok();
        if known && start.starts_with(b"BZh") {
            return Err(bad(
                "it is compressed with bzip2; use gzip, xz, zstd or no compression",
            ));
        }
        if known && &start == b"PK\x03\x04" {
            return Err(bad(
                "it is a zip archive; a root file system comes as a tar archive",
            ));
        }
        layer.check_start()?;
        Ok(layer)
    }

    /// Refuses what does not begin as a tar archive does.
    fn check_start(&self) -> Result<(), ImageError> {
        let bad = |problem: &str| ImageError::BadArchive {
            path: self.part.path().to_owned(),
            problem: problem.to_owned(),
        };
        let first = Table::new(self.open(&Progress::none(), "")?).first();
        match (first, self.broken.get()) {
            (Ok(Some(_)), _) => Ok(()),
            (_, Some(_)) => self.check(),
            (Err(error), _) => Err(bad(&format!("it is no tar archive ({error})"))),
            (Ok(None), _) => Err(bad("it is an archive without a single file in it")),
        }
    }

    /// The digest of its bytes as they are, compressed. Reads them all. Blocking.
    pub fn digest(&self, progress: &Progress) -> Result<Digest, ImageError> {
        let message = format!("reading {}", self.file_name());
        let mut input = self.counted(self.part.reader()?, progress, &message);
        let hash = hash_all(&mut input).map_err(io_error("read", self.part.path()))?;
        if input.done != self.bytes() {
            let problem = format!("it ends after {} of {} bytes", input.done, self.bytes());
            return Err(ImageError::BadArchive {
                path: self.part.path().to_owned(),
                problem,
            });
        }
        Ok(hash)
    }

    /// The digest of the tar archive in it. Reads all of it. Blocking.
    pub fn diff_id(&self, progress: &Progress) -> Result<Digest, ImageError> {
        let message = format!("reading {}", self.file_name());
        let hashed = hash_all(&mut self.open(progress, &message)?);
        // Why it broke says more than that it did.
        self.check()?;
        hashed.map_err(io_error("read", self.part.path()))
    }

    fn counted<R: Read>(&self, input: R, progress: &Progress, message: &str) -> Counted<R> {
        Counted {
            input,
            done: 0,
            total: self.part.bytes(),
            message: message.to_owned(),
            progress: progress.clone(),
            said: None,
        }
    }

    /// The tar stream, decompressed; tells `progress` how many of the compressed bytes have been used, as
    /// `message`. Reading blocks.
    pub fn open(
        &self,
        progress: &Progress,
        message: &str,
    ) -> Result<Box<dyn Read + Send>, ImageError> {
        let raw = BufReader::with_capacity(
            1 << 18,
            self.counted(self.part.reader()?, progress, message),
        );
        let decoder = self
            .compression
            .decoder(raw)
            .map_err(io_error("decompress", self.part.path()))?;
        Ok(Box::new(Watched {
            decoder,
            hash: self.diff_id.as_ref().map(|_| Sha256::new()),
            layer: self.clone(),
        }))
    }

    /// Whether everything that was read so far could be: a stream that broke leaves its reason here, whatever
    /// whoever read it made of that.
    pub fn check(&self) -> Result<(), ImageError> {
        match self.broken.get() {
            None => Ok(()),
            Some(Broken::Stream(kind, reason)) => Err(ImageError::Decompress {
                path: self.part.path().to_owned(),
                compression: self.compression,
                source: io::Error::new(*kind, reason.clone()),
            }),
            Some(Broken::OtherContent(found)) => Err(ImageError::BadArchive {
                path: self.part.path().to_owned(),
                problem: format!(
                    "the image's configuration promises a layer with the digest {}, and this one has {found}",
                    self.diff_id.as_ref().map_or("", Digest::as_str)
                ),
            }),
            Some(Broken::TooMuch) => Err(ImageError::TooLarge),
            Some(Broken::Memory) => Err(ImageError::BadArchive {
                path: self.part.path().to_owned(),
                problem: format!(
                    "to decompress it ({}) takes more than {} MiB of memory; compress it with a smaller \
                     dictionary or window, as xz -9 or zstd -19 does",
                    self.compression,
                    MAX_DECODER >> 20
                ),
            }),
        }
    }

    /// The name of the file it is in, for a person.
    pub fn file_name(&self) -> String {
        let path = self.part.path();
        path.file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// Where its bytes are.
    pub(crate) fn part(&self) -> &Part {
        &self.part
    }

    /// How many bytes it has, compressed.
    pub fn bytes(&self) -> u64 {
        self.part.bytes()
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

fn hash_all(input: &mut impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(Digest::finish(hash)),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Says how much has been read, ten times a second at most.
struct Counted<R> {
    input: R,
    done: u64,
    total: u64,
    message: String,
    progress: Progress,
    said: Option<Instant>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if n == 0
            || self
                .said
                .is_none_or(|at| at.elapsed() > Duration::from_millis(100))
        {
            self.said = Some(Instant::now());
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

/// Remembers why a stream broke; breaks it where it is too long, or not what it should be.
struct Watched {
    decoder: Box<dyn Read + Send>,
    hash: Option<Sha256>,
    layer: LayerSource,
}

impl Watched {
    fn breaks(&self, why: Broken) -> io::Error {
        let _ = self.layer.broken.set(why);
        io::Error::other("the layer is not what it should be")
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.decoder.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let why = match wants_memory(&error) {
                    true => Broken::Memory,
                    false => Broken::Stream(error.kind(), error.to_string()),
                };
                let _ = self.layer.broken.set(why);
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
            return Err(self.breaks(Broken::TooMuch));
        }
        if n > 0 {
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..n]);
            }
        } else if !buffer.is_empty()
            && let Some(hash) = self.hash.take()
        {
            let found = Digest::finish(hash);
            if self.layer.diff_id.as_ref() != Some(&found) {
                return Err(self.breaks(Broken::OtherContent(found)));
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
        // Nothing that compresses to little: a cut in the middle must hit data.
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

    fn layer(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<LayerSource, ImageError>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let layer = Part::whole(file.path()).and_then(LayerSource::root);
        (file, layer)
    }

    #[test]
    fn every_compression_is_told_and_read() {
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
    fn a_cut_stream_is_remembered_as_broken() {
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
    fn what_is_no_tar_is_refused_and_said_why() {
        let zeros = vec![0; 10240];
        let cases: [(&[u8], &str); 7] = [
            (b"", "empty"),
            (b"hello, this is no archive", "no tar archive"),
            (&[0xa5; 4096], "no tar archive"),
            (&zeros, "without a single file"),
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
                .contains("without a single file")
        );
        let missing = Part::whole(Path::new("/nonexistent/x.tar"));
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/x.tar")
        );
    }

    #[test]
    fn what_unpacks_to_too_much_is_cut_off_for_all_layers_together() {
        let tar = sample_tar();
        let (_file, first) = layer(&tar);
        let mut first = first.unwrap();
        first.budget = Arc::new(AtomicU64::new(tar.len() as u64 + 1000));
        let mut second = first.clone();
        second.broken = Arc::default();
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
    fn what_takes_much_memory_to_decompress_is_refused() {
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
        // The header of a stream with a larger dictionary; what such a one would have to hold, no test has.
        let mut large = xz(64 << 20);
        let greatest = 40;
        // The first block's header: size, flags, the filter's id, the size of its properties, the dictionary's size.
        large[16] = greatest;
        let crc = crc32(&large[12..20]);
        large[20..24].copy_from_slice(&crc.to_le_bytes());
        for packed in [large, zstd(30)] {
            let (_file, layer) = layer(&packed);
            let error = layer.unwrap_err().to_string();
            assert!(error.contains("more than 160 MiB of memory"), "{error}");
        }
    }

    /// As xz has it.
    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
