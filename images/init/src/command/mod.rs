//! Commands: starting one, passing its streams on, ending it, and jobs.

pub mod cgroup;
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
