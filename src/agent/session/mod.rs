//! The file that keeps a conversation.
//!
//! A session is a file `agent/PROJECT/SESSION.jsonl` below the data directory. Its first line says which format it has and
//! which project it belongs to. Each further line is an entry: a message, a summary, a step back. Nothing in the file is
//! ever changed: a step back is an entry, too, so that entries form a tree, and the newest entry is the end of the present
//! branch. Each line ends with its checksum, so that a damaged line is noticed whatever the damage is.
//!
//! - [`place`]: where sessions are; [`entry`]: what an entry is, and its line;
//! - [`read`]: a file's entries, up to the first damaged one;
//! - [`file`]: one open session, which one process has at a time;
//! - [`sound`]: the messages for a model, in which every call has a result;
//! - [`list`]: the sessions of a project; [`projects`]: what is kept of each project;
//! - [`markdown`]: a session for a reader.

mod entry;
mod error;
mod file;
mod list;
mod markdown;
mod place;
mod projects;
mod read;
mod sound;
#[cfg(test)]
mod tests;

pub(crate) use entry::{Body, EntryId};
pub(crate) use error::SessionError;
pub(crate) use file::Session;
pub(crate) use list::Summary;
pub(crate) use place::project_dir;
pub(crate) use projects::{Kept, kept, remove};
