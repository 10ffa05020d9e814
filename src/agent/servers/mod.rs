//! MCP servers, the first of which is Snowglobe's own.
//!
//! A server is connected in a task of its own, and again when its connection was lost and it is needed. What a server sends
//! is of unknown origin and length: each message, list, text and form has a bound. No server is told anything of this
//! machine, or may use the model.
//!
//! - [`all`]: all servers of a session: which name means which tool;
//! - [`server`]: one server: its connection and its tools; [`call`]: one call of a tool;
//! - [`connect`]: connections: to the sandbox's process, to a program ([`program`]), over HTTP;
//! - [`client`]: what a server may ask of this program; [`asking`]: its forms;
//! - [`outcome`]: what a model is shown of a result; [`names`]: the names of tools;
//! - [`settings`]: which other servers there are: the files `mcp.json`.

mod all;
mod asking;
mod call;
mod client;
mod connect;
mod names;
mod outcome;
mod program;
mod server;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use all::Servers;
pub(crate) use connect::Own;
pub(crate) use settings::described as described_servers;
