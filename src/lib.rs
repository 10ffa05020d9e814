//! Snowglobe gives a coding agent a computer of its own: a microVM behind an MCP server.
//!
//! The map of the code, in the direction its parts depend on each other:
//!
//! - [`cli`]: one file per subcommand;
//! - [`mcp`]: the MCP server, one file per tool: parameters, a call on the [`sandbox`], a result;
//! - [`sandbox`]: the owner of one VM's state: lifecycle, snapshots, workspace;
//! - [`vmm`]: starting a VM through `snowglobe-runner`, and which engine this host can run;
//! - [`guest`]: the host's end of the guest link: SSH, commands, files;
//! - [`image`]: root disks: importing, building, the store;
//! - [`doctor`]: what works on this host;
//! - [`config`]: what the user set, resolved once;
//! - [`project`]: the project's own file, and whether what it says counts;
//! - [`shown`]: what is printed, made fit for it;
//! - [`workspace`]: the shared directory, opened once.
#![forbid(unsafe_code)]
// What is printed goes through `shown`.
#![warn(clippy::print_stderr)]

pub mod cli;
pub mod config;
pub mod doctor;
mod files;
pub mod guest;
pub mod image;
pub mod mcp;
mod presence;
mod private;
pub mod progress;
pub mod project;
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
