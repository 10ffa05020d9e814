//! What an entry of a session is, and its line.
//!
//! A line is `{"entry":{…},"body":{…},"sum":"…"}`. The sum covers the line's bytes before it. The first line has the only
//! member `session` instead, and every later format keeps that.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::message::{CallResult, Message, PlanItem};
use crate::presence;

/// The newest format that this release writes and reads.
pub(super) const FORMAT: u64 = 1;

/// The bytes of a line's end, from its sum on.
const SEAL: usize = r#","sum":"00000000"}"#.len() + 1;

/// An entry of a session: its number, counted from 1 in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct EntryId(pub(crate) u64);

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Body {
    /// A message of the conversation.
    Message(Message),
    /// A result that came before those of the other calls of its answer. The message with all results replaces it; after a
    /// crash it shows what was done.
    Partial(CallResult),
    /// The conversation up to here is replaced by this summary.
    Summary(String),
    /// The model from here on.
    Model(String),
    /// The model's list of what it has to do.
    Plan(Vec<PlanItem>),
    /// The sandbox was saved here under this name.
    Snapshot(String),
    /// The conversation goes on from that entry's parent: another branch.
    Rewind(EntryId),
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where it stands.
    #[serde(rename = "entry")]
    pub(super) place: Place,
    /// What it holds.
    pub(super) body: Body,
}

/// An entry of which only the place is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Placed {
    /// Where it stands.
    #[serde(rename = "entry")]
    pub(super) place: Place,
}

/// Where an entry stands in the tree, and what a list shows of the session up to here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Its number.
    pub(super) n: EntryId,
    /// The entry before it in its branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<EntryId>,
    /// How many messages its branch has up to here.
    pub(super) messages: usize,
    /// When it was written.
    pub(super) time: Timestamp,
    /// The beginning of what a person said first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) title: String,
}

/// A file's first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct First {
    /// What it says.
    pub(super) session: Header,
}

/// What a file's first line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The format of the file.
    pub(super) format: u64,
    /// The release that began it.
    pub(super) program: String,
    /// The project's directory.
    #[serde(default)]
    pub(super) project: Option<PathBuf>,
    /// Where the directory's file system is mounted.
    #[serde(default)]
    mount: Option<PathBuf>,
}

impl Header {
    /// The first line of a session that begins now.
    pub(super) fn new(project: Option<&Path>) -> Self {
        // JSON holds text only.
        let project = project.filter(|path| path.to_str().is_some());
        Self {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            project: project.map(Path::to_owned),
            mount: project.map(presence::mount_of),
        }
    }

    /// Whether the project's directory is there; none if its file system is not mounted, or nothing is known of it.
    pub(super) fn is_there(&self) -> Option<bool> {
        presence::is_there(self.project.as_ref()?, self.mount.as_ref()?)
    }
}

/// The line of an object: with its sum, and the line's end.
pub(super) fn sealed(object: &impl Serialize) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(object)?;
    line.pop();
    line.push_str(&seal(line.as_bytes()));
    Ok(line)
}

/// What is on a line; none if that is something else, or damaged.
pub(super) fn opened<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (content, end) = line.split_at_checked(line.len().checked_sub(SEAL)?)?;
    match end == seal(content).as_bytes() {
        true => serde_json::from_slice(line).ok(),
        false => None,
    }
}

fn seal(content: &[u8]) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(content);
    format!(",\"sum\":\"{:08x}\"}}\n", sum.sum())
}
