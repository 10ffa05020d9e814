//! What the host and the guest's PID 1 agree on, and PID 1 itself.
//!
//! Both need:
//!
//! - [`boot`]: the configuration that a guest is booted with, read from its initramfs;
//! - [`wire`]: the requests that the host sends over the guest link, and their outcomes;
//! - [`headers`]: the headers of tar archives;
//! - `streams`: many streams over one connection, beside the guest link;
//! - [`signals`]: the names of signals, and the exit statuses that stand for them;
//! - [`text`]: text for readers of messages.
//!
//! The rest is PID 1. The host is built without the feature `server`, and so without these modules and what they depend
//! on:
//!
//! - `system`: setting up the system: mounts, clock, root disk, users;
//! - `link`: the stream to the host;
//! - `server`: the SSH server on that stream;
//! - `command`: commands, from their start to their end, and jobs;
//! - `files`: reading, writing, editing and searching files;
//! - `tree`: the workspace as a copy of a directory of the host;
//! - `layers`: unpacking the layers of an image;
//! - `network`: the guest's half of the network.
//!
//! The server is a library so that tests can run it over an in-memory stream, without a VM.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::let_underscore_must_use,
        reason = "a test fails by panicking"
    )
)]
#![forbid(unsafe_code)]

pub mod boot;
#[cfg(feature = "server")]
pub mod command;
#[cfg(feature = "server")]
mod files;
pub mod headers;
#[cfg(feature = "server")]
pub mod layers;
#[cfg(feature = "server")]
pub mod link;
#[cfg(feature = "server")]
pub mod network;
#[cfg(feature = "server")]
mod reason;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod share;
pub mod signals;
#[cfg(feature = "streams")]
pub mod streams;
#[cfg(feature = "server")]
pub mod system;
pub mod text;
#[cfg(feature = "server")]
mod tree;
pub mod wire;
