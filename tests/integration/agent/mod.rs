//! The terminal agent.

mod models;
pub mod pty;
pub mod scripted;
mod servers;
mod task;
mod terminal;
