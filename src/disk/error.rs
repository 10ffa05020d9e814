//! Why layers and snapshots cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::names::SnapshotName;
use crate::text::{did_you_mean, size};

/// Why layers and snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name is taken.
    #[error(
        "save the snapshot `{0}`: there is one of that name already; take another name, delete it first, or replace it (--force, `replace`)"
    )]
    Exists(SnapshotName),
    /// There is no such snapshot.
    #[error("find the snapshot `{name}`: {}{}", meant(.name, .known), there_are(.known))]
    NotFound {
        /// The name.
        name: SnapshotName,
        /// The existing snapshots.
        known: Vec<SnapshotName>,
    },
    /// Snapshots would take more than they may.
    #[error(
        "save the snapshot `{name}`: it would take {}, and snapshots of this sandbox take {} of the {} that they may \
         (snapshot_gib in the configuration); delete some first{}",
        size(*.adds), size(*.taken), size(*.limit), largest(.known)
    )]
    Full {
        /// The name.
        name: SnapshotName,
        /// What it would add, in bytes.
        adds: u64,
        /// What the others take, in bytes.
        taken: u64,
        /// What all may take together, in bytes.
        limit: u64,
        /// The existing snapshots with their sizes, in bytes.
        known: Vec<(SnapshotName, u64)>,
    },
    /// The host's disk has too little room.
    #[error(
        "{doing}: it takes {}, and {} has {} left; make room there, or delete snapshots first",
        size(*.needs), .dir.display(), size(*.free)
    )]
    NoRoom {
        /// What was to be done.
        doing: String,
        /// The bytes that it needs.
        needs: u64,
        /// The bytes that are free.
        free: u64,
        /// The directory.
        dir: PathBuf,
    },
    /// A record or one of its layers is damaged.
    #[error("use the snapshot `{name}`: {problem}")]
    Damaged {
        /// The name.
        name: SnapshotName,
        /// What is wrong.
        problem: String,
    },
    /// A layer's header does not say what Snowglobe wrote.
    #[error("use the disk layer {path}: it {problem}; no machine was started from it")]
    Layer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another sandbox uses the copy of the workspace.
    #[error(
        "use the copy of the workspace in {dir}: another sandbox of this name uses it; stop that first"
    )]
    CopyInUse {
        /// The copy's directory.
        dir: PathBuf,
    },
    /// A list of needed layers cannot be understood.
    #[error("find out which layers are needed: {path} {problem}; move it away if nothing needs it")]
    Unclear {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An I/O error.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn meant(name: &SnapshotName, known: &[SnapshotName]) -> String {
    did_you_mean(name.as_str(), known.iter().map(SnapshotName::as_str))
}

fn there_are(known: &[SnapshotName]) -> String {
    if known.is_empty() {
        "there are none yet".into()
    } else {
        let known: Vec<&str> = known.iter().map(SnapshotName::as_str).collect();
        format!("there are {}", known.join(", "))
    }
}

fn largest(known: &[(SnapshotName, u64)]) -> String {
    let mut known: Vec<_> = known.iter().collect();
    known.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let shown: Vec<String> = known
        .into_iter()
        .take(5)
        .map(|(name, bytes)| format!("{name} ({})", size(*bytes)))
        .collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(": {}", shown.join(", ")),
    }
}

/// Makes a [`StoreError::Io`] of an I/O error.
pub(super) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        operation,
        path,
        source,
    }
}
