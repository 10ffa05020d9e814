//! Snowglobe gives a coding agent a computer of its own: a microVM behind an MCP server.
//!
//! The map of the code, each part above the parts that it uses:
//!
//! - [`cli`]: one file per subcommand;
//! - `client`: joining the sandbox that a process keeps, and starting that process;
//! - `keeper`: that process;
//! - `control`: what the two say to each other;
//! - [`mcp`]: the MCP server: its tools, resources and transports;
//! - [`doctor`]: what works on this host;
//! - `fleet`: all sandboxes of one process, by handle;
//! - [`sandbox`]: the owner of one VM's state: lifecycle, snapshots, commands, files;
//! - [`machine`]: one booted VM with its guest, and the machine that fills new disks;
//! - [`vmm`]: starting a VM through `snowglobe-runner`, and which engine this host can run;
//! - [`disk`]: layers and snapshots;
//! - `inventory`: the data on the disk, and which of it is unused;
//! - [`rundir`]: the directory of a running sandbox, through which other processes join it;
//! - [`login`]: the SSH keys that stay;
//! - [`config`]: the user's settings, resolved once;
//! - [`guest`]: the host's end of the guest link;
//! - [`image`]: root disks: references, registries, the store;
//! - `logs`: the files that remain of a sandbox's processes;
//! - [`copy`]: the workspace as a copy on a disk;
//! - [`review`]: what changed in a copy, and taking it over;
//! - [`workspace`]: what `/workspace` is, and which host directories may be shared;
//! - `timeline`: what happened in a sandbox;
//! - `key`: where keys and secrets come from;
//! - [`network`]: what the guest may reach: rules, settings;
//! - [`jsonl`]: logs of JSON lines;
//! - `web`: clients for HTTPS;
//! - [`names`], `text`, [`shown`], [`progress`], [`recent`]: names, words, what is printed, what is said meanwhile, what just
//!   happened.
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
// What is printed goes through `shown`.
#![warn(clippy::print_stderr)]

/// Prints a line on standard output. If that can't be written, the process ends: quietly if its reader has gone.
#[macro_export]
macro_rules! show {
    () => { $crate::cli::show(format_args!("")) };
    ($($what:tt)*) => { $crate::cli::show(format_args!($($what)*)) };
}

/// Prints a line on standard error.
#[macro_export]
macro_rules! tell {
    ($($what:tt)*) => { $crate::shown::print(format_args!($($what)*)) };
}

mod agent;
mod blocking;
pub mod cli;
mod client;
pub mod config;
mod control;
pub mod copy;
pub mod disk;
pub mod doctor;
mod files;
mod fleet;
pub mod guest;
mod holes;
pub mod image;
mod inventory;
pub mod jsonl;
mod keeper;
mod key;
pub mod login;
mod logs;
pub mod machine;
pub mod mcp;
pub mod names;
pub mod network;
mod presence;
mod private;
pub mod progress;
pub mod recent;
pub mod review;
pub mod rundir;
pub mod sandbox;
pub mod shown;
pub mod text;
mod time;
mod timeline;
pub mod vmm;
mod web;
pub mod workspace;

/// What helps where a file system of the host's is full.
const ROOM: &str = "make room there: remove images (`snowglobe image prune --all`) or snapshots, or keep them elsewhere \
                    (SNOWGLOBE_DATA_DIR, SNOWGLOBE_RUNTIME_DIR)";

/// Whether an error means that a file system of the host's is full.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

/// An error with its sources on one line, none of them twice. A fragment that reads well after "failed to". Where a disk
/// is full, however deep that is found, what helps comes last.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut full = is_full(error);
    let mut next = error.source();
    while let Some(source) = next {
        full |= is_full(source);
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    match full && !text.contains("make room") {
        true => format!("{text}; {ROOM}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] Box<dyn std::error::Error>);

    #[test]
    fn a_full_disk_comes_with_what_helps_however_deep_it_is() {
        let full = || std::io::Error::from_raw_os_error(28);
        let path = Outer("write /data/x", full().into());
        let text = "write /data/x: No space left on device (os error 28)";
        assert_eq!(describe(&path), format!("{text}; {ROOM}"));
        let deep = Outer("import it", Outer("write /data/x", full().into()).into());
        assert_eq!(describe(&deep), format!("import it: {text}; {ROOM}"));
        // An error of this kind whose message has the path already.
        let told = std::io::Error::new(full().kind(), "write /data/x: no space");
        assert!(describe(&Outer("import it", told.into())).ends_with(ROOM));
        let says = Outer("import: make room with prune", full().into());
        assert!(!describe(&says).contains(ROOM));
        let other = Outer("read /data/x", std::io::Error::from_raw_os_error(5).into());
        assert_eq!(
            describe(&other),
            "read /data/x: Input/output error (os error 5)"
        );
    }
}
