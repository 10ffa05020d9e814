//! The terminal agent.

mod copied;
mod models;
pub mod pty;
pub mod scripted;
mod servers;
mod task;
mod terminal;
