//! The MCP server: one file per tool; parameters become a call on the [`Sandbox`], whose answer becomes
//! a result.
//!
//! What holds for every tool:
//!
//! - a result is complete as text and as `structuredContent`: some clients show the model only one of them; what is
//!   said beyond the data is in both ([`call::Notes`]);
//! - a command that ran and failed is a result; arguments that make no sense and a sandbox that could not do
//!   what was asked are errors of the tool, with text that says what to do: a model must be able to read it,
//!   and most clients keep protocol errors to themselves;
//! - schemas are flat ([`schema`]); arguments are taken as they were meant, and one that resembles another is refused
//!   ([`args`], [`names`]);
//! - output is shown as a terminal would show it ([`terminal`]), and bounded ([`output`]);
//! - while a call runs, whoever asked for progress hears at least every 10 s of it ([`pace`]);
//! - a call that is taken back, or whose client left, ends its command; what changes the machine itself
//!   (a snapshot, a reboot, a boot) is never dropped half-way ([`call`]).
//!
//! A connection has three states: opening (no lifecycle chosen yet), open, closed. Both eras of the protocol
//! are spoken on every transport: `initialize` up to 2025-11-25, `server/discover` and self-contained requests
//! from 2026-07-28. Which sandbox a call acts on is the [`desk`]'s to say.
//! Deliberately absent: sampling, roots, logging to the client (the protocol gives them up).

mod call;
mod confirm;
mod icons;
mod metrics;
mod output;
mod prompts;
mod report_schedule;
mod resources;
mod sandboxes;
mod server;
mod sessions;
mod tools;
mod transport;

#[cfg(test)]
mod tests;

pub use sandboxes::Limits;
pub use transport::bind::At;
pub use transport::http::{Http, HttpError, Listening, listen};
pub use transport::stdio::{McpError, serve, serve_stdio, serve_stream};
