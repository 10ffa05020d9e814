//! Commands: starting one, passing its streams on, ending it, and jobs.
//!
//! - [`context`]: what every command needs of the system;
//! - [`supervisor`]: starting and ending processes, by [`cgroup`]s and a [`reaper`];
//! - [`process`]: one command's process with its [`streams`], and [`enter`], the program that becomes the command;
//! - [`exec`]: a command on a channel, and [`jobs`]: commands in the background;
//! - [`input`], [`pump`], [`spill`]: input and output on their way;
//! - [`shell_line`], [`line_ends`]: what a shell line needs before it can run.

pub mod cgroup;
pub(crate) mod context;
pub mod enter;
pub(crate) mod exec;
mod input;
pub(crate) mod jobs;
mod line_ends;
mod process;
mod pump;
pub mod reaper;
mod shell_line;
mod spill;
mod streams;
pub mod supervisor;
mod timer;
