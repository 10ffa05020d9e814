//! The sources of images: registries, files and layouts of the host, recipes. Whatever the source, the blobs of the image
//! are put into the store first.

mod acquire;
pub(crate) mod archive;
pub(super) mod build;
mod import;
pub(crate) mod import_error;
pub(crate) mod layout_dir;
pub(crate) mod recipe;
pub(crate) mod registry;
pub(crate) mod saved_image;
