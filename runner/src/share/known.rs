//! What requests and the watch share: the files that the guest knows, and those that are open.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::descriptors::Descriptors;
use super::nodes::{NodeId, Nodes};

/// Both, behind one lock, which no system call is made under.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) nodes: Nodes,
    pub(super) descriptors: Descriptors,
    /// What the guest was told last of files with several names.
    pub(super) told: HashMap<NodeId, Told>,
}

/// The size of a file, and when it was modified, in seconds and nanoseconds.
pub(super) type Told = (u64, i64, u32);

/// The lock, also after a panic of another thread: this process ends then.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
