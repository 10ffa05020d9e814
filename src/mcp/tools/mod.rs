//! One file per tool.

pub(crate) mod arguments;
pub(crate) mod edit;
pub(crate) mod exec;
pub(crate) mod job;
pub(crate) mod read;
pub(crate) mod reboot;
pub(crate) mod schema;
pub(crate) mod search;
pub(crate) mod snapshot;
pub(crate) mod write;
