//! Tests of the whole program: one test binary, with a module for each subject.
//!
//! Other test binaries need more than one machine has: real clients and agents, the protocol's own conformance
//! suite, and an emulated host with KVM, which runs modules of this binary again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

mod agent;
mod asking;
mod chaos;
mod cli;
mod common;
mod copied;
mod data;
mod day;
mod deep;
mod guarded;
mod hostile;
mod house;
mod http;
mod images;
mod kept;
mod looking;
mod mcp;
mod network;
mod papers;
mod ports;
mod power;
mod protocol;
mod rules;
mod sandboxes;
mod ssh;
mod streams;
mod stuck;
mod timeline;
mod vm;
mod workspace;
mod worktrees;
