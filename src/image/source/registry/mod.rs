//! Registries: pulling the blobs of an image into the store, and pushing them.
//!
//! The mirrors of a registry are asked first, in their order, then the registry itself ([`endpoint`]). If one of them gives
//! a blob wrongly or not at all, the next is asked ([`download`]). A mirror is trusted with the meaning of a tag, but
//! what it gives for a digest is checked.

pub(crate) mod credentials;
mod download;
mod endpoint;
pub(crate) mod error;
mod login;
pub(crate) mod pull;
mod pull_progress;
mod push;
mod reader;
pub(crate) mod settings;
pub(crate) mod transfer_error;
mod writer;
