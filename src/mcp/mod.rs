//! The MCP server: a request of a client becomes a call on the [`Sandbox`](crate::sandbox::Sandbox), whose answer becomes
//! a result.
//!
//! The rooms, each of which imports only from those after it:
//!
//! - [`transport`]: how messages come in and go out;
//! - [`server`]: the server of one client; it finds the tool or resource of a request;
//! - [`tools`], [`resources`], [`prompts`]: what a client can use;
//! - [`selector`]: the sandbox that a call acts on;
//! - [`confirm`], [`permission`], [`call`], [`network`], [`protect`], [`notes`], [`refusal`]: the parts of every call;
//! - [`output`], [`outcome`], [`records`], [`facts`]: what results are made of.
//!
//! What holds for every tool:
//!
//! - a result is complete as text and as `structuredContent`: some clients show the model only one of them; notes are in
//!   both ([`notes`]);
//! - a command that ran and failed is a result. Invalid arguments, and a sandbox that could not do what was asked, are
//!   errors of the tool, with text that says what to do: the model must be able to read it, and most clients keep
//!   protocol errors to themselves ([`refusal`]);
//! - schemas are flat; arguments are lenient in spelling, and a name that resembles an argument is refused ([`tools`]);
//! - output is as a terminal shows it, and bounded ([`output`]);
//! - while a call runs, a client that asked for progress gets a report at least every 10 s ([`report_schedule`]);
//! - a call that is cancelled, or whose client has left, ends its command; a change to the machine (a snapshot, a reboot,
//!   a boot) is never dropped half-way ([`call`]);
//! - texts promise only what the configuration has ([`facts`]).
//!
//! A connection has three states: opening (no lifecycle chosen yet), open, closed. Both eras of the protocol are spoken on
//! every transport: `initialize` up to 2025-11-25, `server/discover` and self-contained requests from 2026-07-28.
//! Deliberately absent: sampling, roots, logging to the client (the protocol gives them up).

mod call;
mod confirm;
mod facts;
mod icons;
mod instructions;
mod metrics;
mod network;
mod notes;
pub(crate) mod outcome;
mod output;
mod permission;
mod prompts;
pub(crate) mod protect;
mod records;
mod refusal;
mod report_schedule;
mod resources;
mod selector;
mod server;
mod sessions;
mod tools;
mod transport;

#[cfg(test)]
mod tests;

pub use crate::fleet::Limits;
pub use transport::bind::ListenAddress;
pub use transport::http::{HttpError, HttpOptions, Listening, listen};
pub(crate) use transport::stdio::serve_kept;
pub use transport::stdio::{ServeError, serve, serve_stdio, serve_stream};
