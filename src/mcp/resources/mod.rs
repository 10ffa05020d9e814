//! Resources: files of the workspace, the console, snapshots, jobs and their output, whole outputs of commands.
//!
//! Listing and completing boot nothing. Reading a file of the workspace does, as the tool `read` does, since only the
//! guest reads files. What is read is bounded, and comes with the address of the rest. Where the server has a pool of
//! sandboxes, a client without a session names one in the address.

pub(crate) mod address;
pub(crate) mod complete;
mod jobs;
mod list;
mod read;
mod stamp;
pub(crate) mod subscriptions;

pub(crate) use self::list::{list, templates};
pub(crate) use self::read::read;
