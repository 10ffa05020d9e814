//! Reviewing the changes of a copied workspace.

pub mod apply;
pub mod changes;
pub mod diff;
pub mod directories;
pub mod entry;
pub mod flag;
pub mod flags;
pub mod git_diff;
pub mod journal;
pub mod make;
pub mod names;
pub mod partial;
pub mod plan;
pub mod report;
pub mod root;
pub mod select;
pub mod take_back;
