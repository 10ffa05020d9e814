//! Snowglobe gives a coding agent a computer of its own: a microVM behind an MCP server.
//!
//! The map of the code, each part above the parts that it uses:
//!
//! - [`cli`]: one file per subcommand;
//! - `client`: joining a sandbox that another process runs;
//! - [`mcp`]: the MCP server: its tools, resources and transports;
//! - [`doctor`]: what works on this host;
//! - [`sandbox`]: the owner of one VM's state: lifecycle, snapshots, commands, files;
//! - [`machine`]: one booted VM with its guest, and the machine that fills new disks;
//! - [`vmm`]: starting a VM through `snowglobe-runner`, and which engine this host can run;
//! - [`disk`]: layers and snapshots;
//! - [`rundir`]: the directory of a running sandbox, through which other processes join it;
//! - [`config`]: the user's settings, resolved once;
//! - [`guest`]: the host's end of the guest link;
//! - [`image`]: root disks: references, registries, the store;
//! - [`workspace`]: what `/workspace` is, and which host directories may be shared;
//! - [`names`], `text`, [`shown`], [`progress`]: names, words, what is printed, what is said meanwhile.
#![forbid(unsafe_code)]
// What is printed goes through `shown`.
#![warn(clippy::print_stderr)]

pub mod cli;
mod client;
pub mod config;
pub mod disk;
pub mod doctor;
mod files;
pub mod guest;
pub mod image;
pub mod machine;
pub mod mcp;
pub mod names;
mod presence;
mod private;
pub mod progress;
pub mod rundir;
pub mod sandbox;
pub mod shown;
pub(crate) mod text;
pub mod vmm;
pub mod workspace;

/// An error with its sources on one line, none of them twice. A fragment that reads well after "failed to".
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}
