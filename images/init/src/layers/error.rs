//! Why a layer could not be applied.

use std::io;

use rustix::io::Errno;

/// Why a layer could not be applied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum LayerError {
    #[error("read the layer after {at} bytes: {error}")]
    Read { at: u64, error: io::Error },
    #[error("read the layer: it is {what}; an uncompressed tar archive was expected")]
    NotTar { what: &'static str },
    #[error(
        "read the layer: the stream ended after {at} bytes, {place}; it must go on to the archive's end mark: \
         send the whole archive again"
    )]
    Truncated { at: u64, place: String },
    #[error("read the layer's header at byte {at}, {place}: {what}")]
    Damaged {
        at: u64,
        place: String,
        what: String,
    },
    #[error("unpack the layer: it has more than {limit} entries, the most a layer may have")]
    TooMany { limit: u64 },
    #[error("unpack {path:?}: {why}")]
    Refused { path: String, why: String },
    #[error("{step} {path:?}: {errno}")]
    System {
        step: String,
        path: String,
        errno: Errno,
    },
}

impl LayerError {
    pub(super) fn refused(path: &[u8], why: impl Into<String>) -> Self {
        Self::Refused {
            path: lossy(path),
            why: why.into(),
        }
    }
}

/// Turns an errno into a [`LayerError::System`].
pub(super) fn at(step: impl Into<String>, path: &[u8]) -> impl FnOnce(Errno) -> LayerError {
    move |errno| LayerError::System {
        step: step.into(),
        path: lossy(path),
        errno,
    }
}

/// A path as text, for messages.
pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
