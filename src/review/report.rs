//! What a review shows and does, as other programs get it.

use serde::{Deserialize, Serialize};

/// The changes of a copied workspace that are not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Each change, by path.
    pub changes: Vec<ChangeReport>,
    /// How many files of the host are newer than what the sandbox has; `sync` brings them in.
    pub newer_on_host: usize,
    /// The branches with commits of the sandbox that are in the host's repository now.
    pub branches: Vec<BranchReport>,
    /// Remarks for the reader, such as commits that could not be fetched.
    pub notes: Vec<String>,
}

/// A branch of the sandbox in the host's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchReport {
    /// The reference, such as `refs/snowglobe/NAME/main`.
    pub reference: String,
    /// The commit.
    pub commit: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// The path; bytes that are no printable text are escaped as `%XX`.
    pub path: String,
    /// `added`, `modified`, `removed`, `renamed`, `mode` or `replaced` (a file by a directory, say).
    pub kind: String,
    /// The old path of a renamed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The size before, in bytes.
    pub old_bytes: Option<u64>,
    /// The size now, in bytes.
    pub new_bytes: Option<u64>,
    /// Added lines, of text.
    pub added_lines: Option<u64>,
    /// Removed lines, of text.
    pub removed_lines: Option<u64>,
    /// How many hunks its diff has.
    pub hunks: usize,
    /// Why it is not applied unless it is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagReport>,
    /// Whether the host's file changed, too.
    pub host_changed: bool,
}

/// Why a change is not applied unless it is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagReport {
    /// A word, such as `outside-link`, or the id of a rule.
    pub flag: String,
    /// For a person.
    pub why: String,
}

/// Which changes a person takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Paths of files and directories, with `:1,3` for single hunks; empty: all that is not flagged.
    pub paths: Vec<String>,
    /// Paths that are left.
    pub except: Vec<String>,
    /// Whether flagged changes are taken, too.
    pub flagged: bool,
    /// Whether what conflicts with the host's changes is left, instead of applying nothing.
    pub skip_conflicts: bool,
}

/// What was applied, undone, discarded or brought in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Each path, with what was done there: `written`, `merged`, `removed`, `restored`, `already there`.
    pub done: Vec<Step>,
    /// What was left, with the reason.
    pub left: Vec<Step>,
    /// What conflicts. If anything does, nothing was changed unless conflicts were to be skipped.
    pub conflicts: Vec<Step>,
}

/// A path, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The path, escaped.
    pub path: String,
    /// What was done, or why not.
    pub what: String,
}
