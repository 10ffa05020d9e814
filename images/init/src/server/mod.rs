//! The guest's SSH server: logins, and the host's requests.

mod control;
pub mod guest;
mod relay;
mod sftp;
pub mod ssh;
