//! The records of snapshots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use snowglobe_init::boot::ImageUser;

use crate::names::SnapshotName;

/// The version of the records written here.
pub(super) const VERSION: u32 = 1;

/// What a VM's disk stands on at the very bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The image's name when the snapshot was saved.
    pub image: String,
    /// The image's root disk, raw and read-only.
    pub disk: PathBuf,
    /// The image's environment.
    pub env: Vec<(String, String)>,
    /// The image's own user, where it names one.
    #[serde(default)]
    pub user: Option<ImageUser>,
    /// The directory that the image's commands expect to start in.
    #[serde(default)]
    pub workdir: Option<String>,
}

/// A snapshot as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) version: u32,
    /// Its name.
    pub name: SnapshotName,
    /// When it was saved.
    pub created: jiff::Timestamp,
    /// What its first layer stands on.
    pub base: Base,
    /// Its layers' file names, oldest first.
    pub layers: Vec<String>,
    /// Bytes on disk of its newest layer: what it added to those before.
    pub bytes: u64,
}
