//! The store: blobs, root disks, and the records of images.

pub mod blobs;
pub mod empty_disk;
pub mod eviction;
pub(crate) mod free_space;
pub mod image_store;
pub(crate) mod lease;
pub mod record;
