//! The workspace as a copy: a tree of the host as a disk, and what is known of it.
//!
//! ```text
//! listed    an entry of a tree
//! listing   which files of a host directory a copy has
//! git_dir   the same for a worktree's repository, which lies elsewhere
//! image     that tree as an ext4 disk, written by this process
//! base      such a disk, with a list of what is in it; never changed again
//! compare   what the host changed since
//! began     what the copy of a sandbox began with: a base, and how the host's tree differs from it by now
//! contents  files by the hash of their content, for what is in no base
//! ```
//!
//! A change of the guest is a difference between its tree and what the copy began with; a change of the host is a
//! difference between the host's tree and that. Every file of a base has one time of its last change of status
//! ([`Base::stamp_ns`]), which no program can set: a file of the guest that still has it was not changed, and its
//! content need not be read.
//!
//! Deliberately absent: machines, and what becomes of a change.

mod base;
mod began;
mod compare;
mod contents;
mod error;
mod git_dir;
mod image;
mod listed;
mod listing;

pub use base::Base;
pub use began::{Began, BeganFiles, Content, Known};
pub use compare::{HostChange, host_changes, is_of_git};
pub use contents::Contents;
pub use error::CopyError;
pub use listed::{HostStamp, Kind, Listed, Origin, Source, epoch_ns};
pub use listing::{Listing, Which};

#[cfg(test)]
mod tests;
