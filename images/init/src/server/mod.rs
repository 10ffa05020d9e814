//! The guest's SSH server: the host's requests, and logins of the user's own SSH clients.
//!
//! - [`state`]: what all connections share;
//! - [`ssh`]: one connection with its channels;
//! - [`control`]: the host's requests, and [`transfer`]: their input and output;
//! - [`settle`]: putting what they wrote on the disk of the workspace;
//! - [`sftp`]: SFTP sessions, and [`relay`]: forwarded streams.

mod control;
mod relay;
mod settle;
mod sftp;
mod ssh;
mod state;
mod status;
mod transfer;

pub use ssh::serve;
pub use state::{Server, Setup, SetupError};
