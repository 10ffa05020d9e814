//! How messages come from clients and go to them.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod connection;
pub(crate) mod http;
pub(crate) mod intake;
pub(crate) mod lines;
pub(crate) mod malformed;
pub(crate) mod origin;
pub(crate) mod peers;
pub(crate) mod post;
pub(crate) mod scan;
pub(crate) mod sse;
pub(crate) mod stdio;

/// The longest message taken, in bytes: room for a `write` of a file of some 40 MiB in base64.
/// A longer one is not kept, and answered with an error.
pub(crate) const LONGEST_MESSAGE: usize = 64 << 20;
