//! Layers: where their bytes are, how they are compressed, and reading them as the tar streams they are.
//!
//! The host decompresses and counts; what the tar stream holds is for the guest to interpret.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ImageError;
use super::error::io_error;
use crate::progress::{Progress, Step};

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

    fn decoder(self, input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Plain => Box::new(input),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => Box::new(zstd::Decoder::new(input)?),
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(input)),
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
    path: PathBuf,
    offset: u64,
    bytes: u64,
    compression: Compression,
    digest: String,
    /// Whether `.wh.` entries mean deletions, as in the layers of OCI images; a plain root has none.
    pub whiteouts: bool,
    /// Why reading stopped before the end, if it did.
    broken: Arc<OnceLock<(io::ErrorKind, String)>>,
}

impl LayerSource {
    /// The layer that is all of the file at `path`. Blocking.
    pub fn file(path: &Path, whiteouts: bool, progress: &Progress) -> Result<Self, ImageError> {
        let bytes = path.metadata().map_err(io_error("read", path))?.len();
        Self::part(path, 0, bytes, whiteouts, progress)
    }

    /// The layer that is `bytes` of the file at `path` from `offset` on. Reads them once, for their digest, and
    /// refuses what does not begin as a tar archive does. Blocking.
    pub fn part(
        path: &Path,
        offset: u64,
        bytes: u64,
        whiteouts: bool,
        progress: &Progress,
    ) -> Result<Self, ImageError> {
        let bad = |problem: &str| ImageError::BadArchive {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if bytes == 0 {
            return Err(bad("it is empty"));
        }
        let mut layer = Self {
            path: path.to_owned(),
            offset,
            bytes,
            compression: Compression::Plain,
            digest: String::new(),
            whiteouts,
            broken: Arc::default(),
        };
        let mut start = Vec::new();
        layer
            .raw()?
            .take(16)
            .read_to_end(&mut start)
            .map_err(io_error("read", path))?;
        layer.compression = Compression::sniff(&start);
        if start.starts_with(b"BZh") {
            return Err(bad(
                "it is compressed with bzip2; use gzip, xz, zstd or no compression",
            ));
        }
        if start.starts_with(b"PK\x03\x04") {
            return Err(bad(
                "it is a zip archive; a root file system comes as a tar archive",
            ));
        }
        layer.check_start()?;
        layer.digest = layer.hash(progress)?;
        Ok(layer)
    }

    /// Refuses what does not begin as a tar archive does.
    fn check_start(&self) -> Result<(), ImageError> {
        let bad = |problem: &str| ImageError::BadArchive {
            path: self.path.clone(),
            problem: problem.to_owned(),
        };
        let mut archive = tar::Archive::new(self.open(&Progress::none(), "")?);
        let first = archive
            .entries()
            .map_err(io_error("read", &self.path))?
            .next();
        let problem = match (first, self.broken.get()) {
            (Some(Ok(_)), _) => return Ok(()),
            (_, Some(_)) => return self.check(),
            (Some(Err(_)), _) => "it is no tar archive",
            (None, _) => "it is an archive without a single file in it",
        };
        Err(bad(problem))
    }

    fn hash(&self, progress: &Progress) -> Result<String, ImageError> {
        let message = format!("reading {}", self.file_name());
        let mut input = self.counted(self.raw()?, progress, &message);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match input
                .read(&mut buffer)
                .map_err(io_error("read", &self.path))?
            {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        if input.done != self.bytes {
            let problem = format!("it ends after {} of {} bytes", input.done, self.bytes);
            return Err(ImageError::BadArchive {
                path: self.path.clone(),
                problem,
            });
        }
        Ok(format!("sha256:{}", hex(&hash.finalize())))
    }

    fn raw(&self) -> Result<io::Take<File>, ImageError> {
        let mut file = File::open(&self.path).map_err(io_error("read", &self.path))?;
        file.seek(SeekFrom::Start(self.offset))
            .map_err(io_error("read", &self.path))?;
        Ok(file.take(self.bytes))
    }

    fn counted<R: Read>(&self, input: R, progress: &Progress, message: &str) -> Counted<R> {
        Counted {
            input,
            done: 0,
            total: self.bytes,
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
        let raw = BufReader::with_capacity(1 << 18, self.counted(self.raw()?, progress, message));
        let decoder = self
            .compression
            .decoder(raw)
            .map_err(io_error("decompress", &self.path))?;
        Ok(Box::new(Watched {
            decoder,
            broken: self.broken.clone(),
        }))
    }

    /// Whether everything that was read so far could be: a stream that broke leaves its reason here, whatever
    /// whoever read it made of that.
    pub fn check(&self) -> Result<(), ImageError> {
        match self.broken.get() {
            None => Ok(()),
            Some((kind, reason)) => Err(ImageError::Decompress {
                path: self.path.clone(),
                compression: self.compression,
                source: io::Error::new(*kind, reason.clone()),
            }),
        }
    }

    /// The name of the file it is in, for a person.
    pub fn file_name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or(self.path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// `sha256:` and the digest of the bytes as they are, compressed.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many bytes it has, compressed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
            });
        }
        Ok(n)
    }
}

/// Remembers why a stream broke.
struct Watched {
    decoder: Box<dyn Read + Send>,
    broken: Arc<OnceLock<(io::ErrorKind, String)>>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.decoder.read(buffer);
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            let _ = self.broken.set((error.kind(), error.to_string()));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
        let layer = LayerSource::file(file.path(), false, &Progress::none());
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
                layer.digest(),
                format!("sha256:{}", hex(&Sha256::digest(&packed)))
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
        let missing = LayerSource::file(Path::new("/nonexistent/x.tar"), false, &Progress::none());
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/x.tar")
        );
    }
}
