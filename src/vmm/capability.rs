//! What engines differ in, by name.

use snowglobe_runner::Engine;

/// Something that not every engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Puts a new layer on the disk of a running VM, so that a snapshot takes no longer the more was written.
    LiveDiskLayers,
    /// Saves what is in memory with a snapshot, so that commands go on after a restore.
    MemorySnapshots,
    /// Runs where there is no hardware virtualization.
    WithoutKvm,
    /// Runs where user namespaces are off.
    WithoutUserNamespaces,
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LiveDiskLayers => "live disk layers (a snapshot copies what was written)",
            Self::MemorySnapshots => "memory snapshots (a restore starts the system anew)",
            Self::WithoutKvm => "running without KVM",
            Self::WithoutUserNamespaces => "running without user namespaces",
        })
    }
}

/// What an engine can't do.
pub fn missing(engine: &Engine) -> &'static [Capability] {
    match engine {
        Engine::Krun => &[
            Capability::LiveDiskLayers,
            Capability::MemorySnapshots,
            Capability::WithoutKvm,
            Capability::WithoutUserNamespaces,
        ],
        Engine::Qemu { .. } => &[Capability::MemorySnapshots],
    }
}
