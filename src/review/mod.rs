//! Reviewing the changes of a copied workspace.

pub mod apply;
pub mod changes;
pub mod diff;
pub mod entry;
pub mod flag;
pub mod flags;
pub mod git_diff;
pub mod names;
pub mod plan;
pub mod report;
pub mod root;
pub mod select;
