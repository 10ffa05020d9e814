//! The guest's state.

use serde::{Deserialize, Serialize};

/// The guest's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Init's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The time since the kernel started, in milliseconds.
    pub uptime_ms: u64,
    /// The time between the kernel's start and init's, in milliseconds.
    pub init_started_ms: u64,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Memory available in bytes.
    pub memory_available_bytes: u64,
    /// Bytes used on the root file system.
    pub disk_used_bytes: u64,
    /// Bytes free on the root file system for an ordinary user.
    pub disk_free_bytes: u64,
    /// The commands that run now.
    pub commands: u64,
}
