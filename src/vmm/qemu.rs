//! The engine `qemu`: which program, and what it runs on.

use std::path::{Path, PathBuf};

use snowglobe_runner::{Accel, EngineSpec};

use super::capabilities::Capabilities;
use super::error::VmmError;
use super::host::Host;
use crate::config::AccelChoice;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    live_layers: true,
    stale_files_s: 1,
    others_files: true,
};

/// The program's name for this machine's architecture.
const PROGRAM: &str = if cfg!(target_arch = "aarch64") {
    "qemu-system-aarch64"
} else {
    "qemu-system-x86_64"
};

/// What the runner is told; an error says what is missing and how to get it.
pub(super) fn engine(
    program: Option<&Path>,
    accel: AccelChoice,
    host: &Host,
) -> Result<EngineSpec, VmmError> {
    let binary = match program {
        Some(path) if path.components().count() > 1 => {
            path.is_file().then(|| path.to_owned()).ok_or_else(|| {
                VmmError::NoEngine(format!(
                    "the configured qemu program {} does not exist",
                    path.display()
                ))
            })?
        }
        other => {
            let name = other.unwrap_or(Path::new(PROGRAM));
            in_path(name).ok_or_else(|| {
                VmmError::NoEngine(format!(
                    "{} is not in PATH; on Debian: apt-get install qemu-system-x86",
                    name.display()
                ))
            })?
        }
    };
    let accel = match accel {
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
    Ok(EngineSpec::Qemu { binary, accel })
}

/// The program of that name in PATH.
fn in_path(name: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
