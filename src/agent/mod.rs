//! `snowglobe agent`: a terminal agent.
//!
//! It is a client of MCP servers and nothing else: whatever it shows, another client could show. It reaches the sandbox
//! only through the tools of Snowglobe's server.
//!
//! - [`message`]: what a conversation consists of;
//! - [`event`]: what the loop reports to a front end, and what a front end asks of the loop;
//! - [`providers`]: models and the services that run them;
//! - [`servers`]: MCP servers, the first of which is Snowglobe's own;
//! - [`session`]: the file that keeps a conversation;
//! - [`conversation`]: the loop: it asks the model, makes the calls, and keeps the session;
//! - [`demo`]: a task with a scripted model;
//! - [`headless`] and [`tui`]: the two front ends.

pub(crate) mod conversation;
pub(crate) mod demo;
pub(crate) mod event;
pub(crate) mod headless;
mod message;
pub(crate) mod providers;
pub(crate) mod servers;
pub(crate) mod session;
pub(crate) mod tui;
