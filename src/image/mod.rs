//! Images: found, pulled, imported, built; and the root disks of microVMs that they become.
//!
//! An image is known by a key: a name given here, or the reference it came by ([`mod@reference`]). Wherever it comes from
//! (a registry, a file, a recipe), its blobs are taken into the store first, each once and checked ([`store::blobs`],
//! [`source`]); so every image can be saved and pushed again, whatever it began as ([`content`]).
//!
//! A disk is one sparse raw ext4 file that is never written again once it is finished, because overlays and snapshots
//! of VMs stand on it and find it by its path. Disks have ids of their own, and are found by the chain of layers that
//! was unpacked onto them: images that differ in their configuration only share one. Keys only point to disks: pulling
//! or importing anew makes another disk where the layers differ, moves the key, and leaves the old disk to whoever
//! still stands on it. The store sees to that ([`store`]); what may go when space is short, [`store::eviction`].
//!
//! An empty file system is put down ([`store::empty_disk`]) and an [`Unpacker`] fills it, in a microVM, so that nothing a layer
//! holds is ever interpreted on the host beyond its compression ([`layer`]).

pub mod content;
mod error;
pub mod export;
mod file_slice;
pub mod layer;
mod name;
pub mod platform;
pub mod reference;
pub mod source;
pub mod store;
mod tar_index;
pub mod user;

use std::path::Path;

pub use error::ImageError;
pub use layer::{Compression, LayerSource};
pub use name::{DiskId, ImageKey, ImageName};
pub use platform::Processor;
pub use reference::ImageRef;
pub use source::recipe::Recipe;
pub use source::registry::{Registries, RegistrySettings};
pub use store::image_store::{ImageInfo, ImageStore, Reference, References};
pub use store::lease::ImageHandle;
pub use store::record::{DiskRecord, ImageRecord, Source};

use crate::progress::Progress;

/// Fills a disk from layers. The image module asks; the caller brings the VM in which it happens.
pub trait Unpacker {
    /// Fills the empty ext4 at `disk` (raw, writable) with `layers` in order, each an uncompressed tar stream
    /// from [`LayerSource::open`]. When this returns, all of it has been written to the file.
    /// Dropping the future stops the work.
    fn unpack(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> impl Future<Output = Result<Unpacked, ImageError>> + Send;

    /// The processor on which images will run.
    fn processor(&self) -> Processor {
        Processor::host()
    }
}

/// What was put on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Entries of all layers.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
    /// Its users and groups.
    pub accounts: user::Accounts,
}

#[cfg(test)]
mod tests;
