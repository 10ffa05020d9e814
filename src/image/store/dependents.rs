//! What needs a disk of the store without a running process: a snapshot, a kept overlay.

use std::path::PathBuf;
use std::sync::Arc;

/// Something that needs a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// The path of the disk, as in the backing chain of a qcow2 file.
    pub(crate) disk: PathBuf,
    /// A description for messages: `snapshot clean of sandbox default`.
    pub(crate) description: String,
}

/// Why the dependents are unknown.
pub(crate) type DependentsError = Box<dyn std::error::Error + Send + Sync>;

/// Lists the dependents of all disks. If it fails, nothing is removed.
///
/// It runs with the store's lock held. So it must not call the store, and a caller of the store must not hold a lock
/// that it takes.
pub(crate) type ListDependents =
    Arc<dyn Fn() -> Result<Vec<Dependent>, DependentsError> + Send + Sync>;
