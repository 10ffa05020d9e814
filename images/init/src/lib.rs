//! What the host and the guest's PID 1 must agree on, and PID 1 itself.
//!
//! Both need:
//!
//! - [`boot`]: the configuration that a guest is booted with, read from its initramfs;
//! - [`wire`]: the requests that the host sends over the guest link, and their outcomes;
//! - [`headers`]: the headers of tar archives;
//! - [`signals`]: the names of signals, and the exit statuses that stand for them;
//! - [`text`]: text for readers of messages.
//!
//! PID 1 consists of:
//!
//! - [`system`]: bringing the system up: mounts, clock, root disk, users;
//! - [`link`]: the stream to the host;
//! - [`server`]: the SSH server on that stream;
//! - [`command`]: commands, from their start to their end, and jobs;
//! - [`files`]: reading, writing, editing and searching files;
//! - [`layers`]: unpacking the layers of an image.
//!
//! The server is a library so that tests can run it over an in-memory stream, without a VM.
#![forbid(unsafe_code)]

pub mod boot;
pub mod command;
pub mod files;
pub mod headers;
pub mod layers;
pub mod link;
pub mod server;
pub mod signals;
pub mod system;
pub mod text;
pub mod wire;
