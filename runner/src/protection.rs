//! What a guest may change in a shared directory.
//!
//! Programs of the host run some files by themselves: git its hooks, an editor the tasks of a project, a shell the
//! settings of a directory. [`TABLE`] lists these files; a [`Protection`] says how each of its rules treats a change.

mod pattern;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::pattern::{PATTERNS, fold_case, glob, names_place};
pub use self::table::TABLE;

/// How the changes of a guest to a shared directory are treated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protection {
    /// The effect of each rule, by its id in [`TABLE`]; absent: the rule's default.
    pub rules: BTreeMap<String, Effect>,
    /// Globs of files that look absent to the guest. One without a slash matches a name at any depth, any other a path
    /// from the shared directory.
    pub hide: Vec<String>,
    /// Whether the guest may change nothing.
    pub read_only: bool,
}

/// What becomes of a change that a rule matches; a later one is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is made.
    Allow,
    /// A person decides.
    Ask,
    /// It fails.
    Deny,
}

/// A change that a rule refused. All texts are bounded and have no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The id of the rule in [`TABLE`], or [`HIDE`], [`READ_ONLY`], [`ROOM`], [`TOO_LONG`] or
    /// [`UNCHECKED`].
    pub rule: String,
    /// The file, its path from the shared directory, and what is wrong with it.
    pub what: String,
    /// Whether a person may allow it: the effect of the rule is [`Effect::Ask`].
    pub asks: bool,
    /// How often it was refused.
    pub count: u64,
}

/// A path that the guest changed in a shared directory. The text is bounded and has no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The path from the shared directory.
    pub path: String,
    /// Whether what was there is gone; else it was made or changed.
    pub removed: bool,
}

/// How many changes that differ, and how many refusals, are told at once.
pub const TOLD: usize = 100;

/// The rule of hidden files.
pub const HIDE: &str = "hide";
/// The rule of a share that is not written to.
pub const READ_ONLY: &str = "read-only";
/// The rule of paths that are too long to be judged.
pub const TOO_LONG: &str = "too-long";
/// The rule of writes for which the host has no room.
pub const ROOM: &str = "room";
/// The rule of changes that can't be judged.
pub const UNCHECKED: &str = "unchecked";

/// One rule: files that a program of the host runs, or is led by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The id of the rule.
    pub id: &'static str,
    /// Which files it protects.
    pub protects: Protects,
    /// The effect if no [`Protection`] names the rule.
    pub default: Effect,
    /// Why, in one sentence.
    pub why: &'static str,
}

impl Effect {
    /// The word for it in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// The files of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protects {
    /// Names below any directory, and everything below them. `/` joins the names of a path; a leading `*` stands for any
    /// beginning of a name.
    Names(&'static [&'static str]),
    /// Paths below a git directory, and everything below them.
    InGitDirectory(&'static [&'static str]),
    /// What the contents of git's own files say, or where these lead.
    GitContents,
}
