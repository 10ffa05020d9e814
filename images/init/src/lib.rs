//! What the host and the guest's PID 1 must agree on, and the guest's server itself.
//!
//! - [`boot`]: the configuration a guest is booted with, read from its initramfs;
//! - [`wire`]: the requests the host sends over the guest link, and their outcomes;
//! - [`headers`]: what both read of a tar archive's headers;
//! - [`signals`]: what signals are called, and the exit statuses they become;
//! - [`machine`]: bringing the machine up: mounts, clock, root disk;
//! - [`link`]: the stream to the host, and [`ssh`]: the server on it;
//! - [`guest`]: what the server serves: users, workspace, commands, files.
//!
//! The server is a library so that the host's tests can run it over an in-memory stream, with no VM.
#![forbid(unsafe_code)]

pub mod actor;
pub mod boot;
pub mod cgroup;
mod control;
mod edit;
mod encoding;
pub mod enter;
pub mod excerpt;
mod exec;
mod files;
pub mod guest;
pub mod headers;
mod inbox;
mod input;
mod jobs;
pub mod layers;
mod line_ends;
pub mod link;
pub mod machine;
pub mod nonblocking;
mod process;
mod pump;
pub mod reaper;
mod relay;
mod search;
mod settings;
pub mod sftp;
mod shell_line;
pub mod signals;
mod spill;
pub mod ssh;
mod streams;
pub mod users;
pub mod wire;
