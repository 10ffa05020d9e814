//! How layers and archives are compressed. Decompressors have bounded memory.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The memory that a decompressor may take, in bytes: more than `xz -9` (65 MiB) or `zstd --long` needs.
pub(crate) const MAX_MEMORY: u64 = 160 << 20;

/// The largest window of Zstandard as a power of two: 128 MiB, as `zstd --long` uses.
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
    /// Detects the compression by the first bytes of a file. Unknown bytes count as plain.
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A Zstandard stream may begin with a skippable frame.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    /// The suffix of the media types of layers.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }

    /// A reader that decompresses `input`.
    pub(crate) fn decoder(
        self,
        input: impl Read + Send + 'static,
    ) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Plain => Box::new(input),
            // The window is 32 KiB, and the library reads at most 64 KiB of each header field.
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(input)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => {
                use liblzma::stream::{CONCATENATED, Stream};
                let stream = Stream::new_stream_decoder(MAX_MEMORY, CONCATENATED)?;
                Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
            }
        })
    }
}

/// Whether a decompressor refused a stream because it would take too much memory.
pub(crate) fn needs_too_much_memory(error: &io::Error) -> bool {
    use liblzma::stream::Error as Xz;
    let cause = error.get_ref();
    match cause.and_then(|cause| cause.downcast_ref()) {
        Some(Xz::MemLimit | Xz::Mem) => true,
        Some(_) => false,
        // The Zstandard library has only a text for each of its errors.
        None => error.to_string().contains("requires too much memory"),
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
