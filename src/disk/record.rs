//! The records of snapshots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use snowglobe_init::boot::ImageUser;

use crate::names::SnapshotName;

/// The version of the records written here.
pub(super) const VERSION: u32 = 1;

/// The image disk below all layers, with the image's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The image's name when the snapshot was saved.
    pub image: String,
    /// The image's root disk, raw and read-only.
    pub disk: PathBuf,
    /// The image's environment.
    pub env: Vec<(String, String)>,
    /// The image's own user, if it names one.
    #[serde(default)]
    pub user: Option<ImageUser>,
    /// The working directory that the image names.
    #[serde(default)]
    pub workdir: Option<String>,
}

/// The disk of a workspace that is a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedWorkspace {
    /// The directory of the base below its first layer.
    pub base: PathBuf,
    /// Its layers' file names, oldest first.
    pub layers: Vec<String>,
    /// The name of the file that says how the tree on the host differed from the base.
    pub tree: String,
    /// The same of the tree that it is being given. If the machine ends meanwhile, the next one is given it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placing: Option<String>,
}

impl Record {
    /// The names of all its layers.
    pub(super) fn all_layers(&self) -> impl Iterator<Item = &String> {
        let workspace = self.workspace.iter().flat_map(|copied| &copied.layers);
        self.layers.iter().chain(workspace)
    }
}

/// A snapshot as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) version: u32,
    /// Its name.
    pub name: SnapshotName,
    /// When it was saved.
    pub created: jiff::Timestamp,
    /// The disk below its first layer.
    pub base: Base,
    /// Its layers' file names, oldest first.
    pub layers: Vec<String>,
    /// The workspace, if it was a copy on a disk of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<CopiedWorkspace>,
    /// What its newest layer takes on the host's disk, in bytes.
    pub bytes: u64,
}
