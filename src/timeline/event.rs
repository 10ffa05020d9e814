//! What happens in a sandbox and with it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snowglobe_init::wire::Outcome;

use crate::review::report::Step;
use crate::workspace::{Effects, Mode};

/// How many paths a line names.
const NAMED: usize = 100;

/// The longest text of a line, in characters.
const LONGEST: usize = 4000;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When.
    pub(crate) time: Timestamp,
    /// Who did it: a client by its name, or the command line. None: the sandbox itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// In which client's session, where each client has a sandbox of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// What.
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A machine has booted.
    Booted {
        /// Its engine, such as `qemu (tcg)`.
        engine: String,
        /// Its image.
        image: String,
        /// How it has the workspace.
        workspace: Mode,
    },
    /// A machine has ended.
    Ended {
        /// How: `stopped`, `rebooted`, `restored to a snapshot`, or how it died.
        how: String,
    },
    /// A command begins.
    Command {
        /// Names the command in later lines.
        id: u64,
        /// The shell line, or the words.
        command: String,
        /// Its working directory, if it is not the usual one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        /// Whether root runs it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        root: bool,
    },
    /// A command has ended.
    CommandEnded {
        /// Of its first line.
        id: u64,
        /// How.
        outcome: Outcome,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// A command goes on as a job.
    CommandDetached {
        /// Of its first line.
        id: u64,
        /// The job.
        job: String,
    },
    /// A command whose end is not known: it did not begin, or its machine or its caller went.
    CommandLost {
        /// Of its first line.
        id: u64,
        /// Why.
        why: String,
    },
    /// A job was told to end.
    JobKilled {
        /// The job.
        job: String,
    },
    /// A job has ended.
    JobEnded {
        /// The job.
        job: String,
        /// How.
        outcome: Outcome,
        /// How long it ran, in seconds.
        seconds: f64,
    },
    /// A file in the guest was written by a tool.
    Wrote {
        /// The file.
        path: String,
        /// Its new length, or the length of what was appended, in bytes.
        bytes: u64,
    },
    /// Text in a file of the guest was replaced by a tool.
    Edited {
        /// The file.
        path: String,
        /// How many occurrences were replaced.
        replacements: u64,
    },
    /// The guest changed files of the workspace. In a shared workspace: all changes since the last such line. In a copy: the
    /// changes that are not applied, recorded when a review lists them.
    Changed {
        /// Where.
        #[serde(flatten)]
        paths: Paths,
        /// How many changes at other paths there were.
        more: u64,
    },
    /// The rules of the shared workspace refused changes.
    Refused {
        /// The rule.
        rule: String,
        /// The file.
        path: String,
        /// How often.
        count: u64,
    },
    /// A snapshot was saved, restored or deleted.
    Snapshot {
        /// Its name.
        name: String,
        /// What was done with it.
        change: SnapshotChange,
    },
    /// Changes of a copied workspace were applied, undone, discarded, or brought in.
    Workspace {
        /// What was done with them.
        change: WorkspaceChange,
        /// Where.
        #[serde(flatten)]
        paths: Paths,
        /// How many conflicts there were.
        conflicts: usize,
    },
    /// A person was asked.
    Asked {
        /// What.
        question: String,
        /// What the person said.
        answer: Answer,
        /// For how long or how far, where there is a choice.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        choice: Option<String>,
    },
    /// What the network allows was changed.
    Network {
        /// Rules that were added to what is allowed.
        allow: Vec<String>,
        /// Rules that were added to what is denied.
        deny: Vec<String>,
    },
    /// What the rules of the workspace do was changed.
    Protection {
        /// The new effects, by the ids of the rules.
        effects: Effects,
    },
    /// A port of the guest was opened on this machine, or closed.
    Port {
        /// The port.
        port: u16,
        /// Where it is open now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Lines were lost: the log could not keep up.
    Lost {
        /// How many.
        count: u64,
    },
}

/// What was done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SnapshotChange {
    Saved,
    Restored,
    Deleted,
}

/// What was done with the changes of a copied workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkspaceChange {
    Applied,
    Undone,
    Discarded,
    Synced,
}

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Accepted,
    Declined,
    /// Nothing.
    None,
}

/// Paths that something was done at: the first of them by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paths {
    /// The first ones, each with what was done there.
    pub(crate) paths: Vec<Step>,
    /// How many there are.
    pub(crate) count: usize,
}

impl Paths {
    /// The paths of steps.
    pub(crate) fn of(steps: &[Step]) -> Self {
        Self {
            paths: steps.iter().take(NAMED).cloned().collect(),
            count: steps.len(),
        }
    }
}

/// A text as long as a line takes it.
pub(crate) fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
