//! Where images come from.

pub mod archive;
pub(crate) mod build;
pub(crate) mod layout_dir;
pub mod recipe;
pub mod registry;
