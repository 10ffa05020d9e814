//! The engine `krun`: libkrun, which is linked into the runner.

use snowglobe_runner::Engine;

use super::host::Host;
use super::{Lack, Vmm, VmmError};

/// libkrun as it comes with the runner: there is nothing to choose.
pub(super) struct Krun;

impl Vmm for Krun {
    fn name(&self) -> &'static str {
        "krun"
    }

    fn lacks(&self) -> &'static [Lack] {
        &[
            Lack::LayersWhileRunning,
            Lack::FreshWorkspace,
            Lack::OthersFiles,
            Lack::HostsWithoutNamespaces,
        ]
    }

    fn engine(&self, host: &Host) -> Result<Engine, VmmError> {
        match host.kvm.problem() {
            None => Ok(Engine::Krun),
            Some(problem) => Err(VmmError::NoEngine(format!(
                "engine = \"krun\" was asked for, but {problem}"
            ))),
        }
    }
}
