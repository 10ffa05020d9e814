//! The store: blobs, root disks, and the records of images ([`image_store`] has the map of its directories).

pub(crate) mod blob_error;
pub(crate) mod blobs;
pub(crate) mod build_dir;
pub(crate) mod content_files;
pub(crate) mod dependents;
pub(crate) mod disk_id;
pub(crate) mod empty_disk;
pub(crate) mod eviction;
pub(crate) mod free_space;
pub(crate) mod image_store;
pub(crate) mod lease;
pub(crate) mod partial_blob;
pub(crate) mod record;
mod record_file;
pub(crate) mod store_error;
pub(crate) mod sweep;
