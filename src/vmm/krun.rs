//! The engine `krun`: libkrun, which is linked into the runner.

use snowglobe_runner::EngineSpec;

use super::capabilities::Capabilities;
use super::error::VmmError;
use super::host::Host;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    live_layers: false,
    stale_files_s: 5,
    others_files: false,
};

/// What the runner is told; an error says what is missing.
pub(super) fn engine(host: &Host) -> Result<EngineSpec, VmmError> {
    match host.kvm.problem() {
        None => Ok(EngineSpec::Krun),
        Some(problem) => Err(VmmError::NoEngine(format!(
            "engine = \"krun\" was asked for, but {problem}"
        ))),
    }
}
