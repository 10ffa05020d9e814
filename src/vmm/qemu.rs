//! The engine `qemu`: which program, and what it runs on.

use std::path::{Path, PathBuf};

use snowglobe_runner::{Accel, Engine};

use super::host::Host;
use super::{Lack, Vmm, VmmError};
use crate::config::AccelChoice;

/// QEMU as the user asked for it.
#[derive(Default)]
pub(super) struct Qemu {
    pub(super) binary: Option<PathBuf>,
    pub(super) accel: AccelChoice,
}

/// The program's name for this machine's architecture.
const PROGRAM: &str = if cfg!(target_arch = "aarch64") {
    "qemu-system-aarch64"
} else {
    "qemu-system-x86_64"
};

impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn lacks(&self) -> &'static [Lack] {
        &[Lack::NothingToInstall]
    }

    fn engine(&self, host: &Host) -> Result<Engine, VmmError> {
        let binary = match &self.binary {
            Some(path) if path.components().count() > 1 => {
                path.is_file().then(|| path.clone()).ok_or_else(|| {
                    VmmError::NoEngine(format!(
                        "the configured qemu program {} does not exist",
                        path.display()
                    ))
                })?
            }
            other => {
                let name = other.as_deref().unwrap_or(Path::new(PROGRAM));
                in_path(name).ok_or_else(|| {
                    VmmError::NoEngine(format!(
                        "{} is not in PATH; on Debian: apt-get install qemu-system-x86",
                        name.display()
                    ))
                })?
            }
        };
        let accel = match self.accel {
            AccelChoice::Kvm => match host.kvm.problem() {
                None => Accel::Kvm,
                Some(problem) => {
                    return Err(VmmError::NoEngine(format!(
                        "accel = \"kvm\" was asked for, but {problem}"
                    )));
                }
            },
            AccelChoice::Hvf if cfg!(target_os = "macos") => Accel::Hvf,
            AccelChoice::Hvf => {
                return Err(VmmError::NoEngine(
                    "accel = \"hvf\" was asked for, but only macOS has it".into(),
                ));
            }
            AccelChoice::Tcg => Accel::Tcg,
            AccelChoice::Auto if cfg!(target_os = "macos") => Accel::Hvf,
            AccelChoice::Auto if host.kvm.problem().is_none() => Accel::Kvm,
            AccelChoice::Auto => Accel::Tcg,
        };
        Ok(Engine::Qemu { binary, accel })
    }
}

/// The program of that name in PATH.
pub(crate) fn in_path(name: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
