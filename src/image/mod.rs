//! Images: pulled, imported or built, and made into the root disks of microVMs.
//!
//! An image has a key in the store: a name that the user gave it, or the reference that it was pulled by ([`key`],
//! [`mod@reference`]). Whatever its source (a registry, a file, a recipe), its blobs are put into the store first, each once
//! and checked ([`source`], [`store`]). So every image can be saved and pushed again ([`export`]).
//!
//! A disk is one sparse raw ext4 file that is never written again once it is finished: the overlays and snapshots of VMs
//! are based on it and name it by its path. A disk is found by the chain of its layers ([`content`]), so images that differ
//! only in their configuration share a disk. If an image is pulled or imported again and its layers changed, it gets a new
//! disk, and the old one stays as long as anything needs it.
//!
//! To make a disk ([`unpack`]), an empty file system is written ([`store::empty_disk`]) and filled by an [`Unpacker`] in a
//! microVM. So the host interprets nothing in a layer but its compression ([`layer`]).
//!
//! Imports point downwards in this order: `export`, `source`, `unpack`, `error`, `unpacker`, `layer`, `store`, and the pure
//! modules below it.

mod compression;
mod content;
mod digest;
mod error;
mod export;
mod file_error;
mod file_slice;
mod key;
mod layer;
mod manifest;
mod name;
mod platform;
mod reference;
mod source;
mod store;
mod tar_index;
mod unpack;
mod unpacker;
mod user;

pub use digest::Digest;
pub use error::ImageError;
pub(crate) use export::SaveTarget;
pub(crate) use key::ImageKey;
pub use layer::LayerSource;
pub(crate) use layer::MAX_UNPACKED;
pub use name::ImageName;
pub use platform::Processor;
pub(crate) use reference::HUB;
pub use reference::ImageRef;
pub(crate) use source::build::Built;
pub(crate) use source::recipe::Recipe;
pub(crate) use source::registry::credentials::problem as login_problem;
pub use source::registry::settings::{Registries, RegistrySettings};
pub use store::blobs::Blobs;
pub use store::dependents::Dependent;
pub(crate) use store::disk_id::DiskId;
pub(crate) use store::eviction::Pruned;
pub use store::image_store::{ImageInfo, ImageStore};
pub(crate) use store::lease::DiskLease;
pub use unpacker::{UnpackError, Unpacked, Unpacker};
pub use user::Accounts;
pub(crate) use user::find_user;

#[cfg(test)]
mod tests;
