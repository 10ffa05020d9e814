//! What fills disks from layers. The caller of this module provides it, since it needs a microVM.

use std::path::Path;

use crate::image::layer::LayerSource;
use crate::image::platform::Processor;
use crate::image::user::Accounts;
use crate::progress::Progress;

/// Fills a disk from layers.
pub trait Unpacker {
    /// Fills the empty ext4 at `disk` (raw, writable) with `layers` in order. Each is a tar stream, from
    /// [`LayerSource::open`]. When this returns, everything has been written to the file. Dropping the future stops the
    /// work.
    fn unpack(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> impl Future<Output = Result<Unpacked, UnpackError>> + Send;

    /// The processor on which images will run.
    fn processor(&self) -> impl Future<Output = Processor> + Send {
        std::future::ready(Processor::host())
    }
}

/// What was put on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// The number of entries in all layers.
    pub(crate) entries: u64,
    /// The bytes of the contents of files.
    pub(crate) bytes: u64,
    /// The users and groups on the disk.
    pub(crate) accounts: Accounts,
}

/// The microVM that fills the disk failed.
#[derive(Debug, thiserror::Error)]
#[error("unpack the image in a microVM")]
pub struct UnpackError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl UnpackError {
    /// Wraps the error of an [`Unpacker`].
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
