//! Which engine runs a VM, and what each can do.

use snowglobe_runner::EngineSpec;

use super::capabilities::Capabilities;
use super::error::VmmError;
use super::host::Host;
use super::{krun, qemu};
use crate::config::{AccelChoice, EngineChoice, HostConfig};

/// What an engine can do.
pub fn capabilities(engine: &EngineSpec) -> Capabilities {
    match engine {
        EngineSpec::Krun => krun::CAPABILITIES,
        EngineSpec::Qemu { .. } => qemu::CAPABILITIES,
    }
}

/// The engine to run, decided before anything is started: `krun` if hardware virtualization works, else `qemu`.
pub fn choose(config: &HostConfig, host: &Host) -> Result<EngineSpec, VmmError> {
    let qemu = || qemu::engine(config.qemu.as_deref(), config.accel, host);
    match config.engine {
        EngineChoice::Krun => krun::engine(host),
        EngineChoice::Qemu => qemu(),
        // An explicit `accel` implies qemu.
        EngineChoice::Auto if config.accel != AccelChoice::Auto => qemu(),
        EngineChoice::Auto => krun::engine(host).or_else(|_| qemu()),
    }
}
