//! The files that QEMU may open, and their bounds.

use std::io;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit};
use snowglobe_runner::{Accel, DiskFormat, VmSpec};

use crate::confine::fence::{Fence, Right};
use crate::confine::namespaces::Confinement;
use crate::confine::permission;

/// Bounds the size of every file that QEMU writes. The guest's memory is such a file.
pub(super) fn bound_files(qemu: Pid, spec: &VmSpec) -> io::Result<()> {
    let Some(bytes) = spec.max_layer_bytes else {
        return Ok(());
    };
    let maximum = Some(bytes.max(u64::from(spec.memory_mib) << 20));
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    rustix::process::prlimit(Some(qemu), Resource::Fsize, limit)?;
    Ok(())
}

/// QEMU's user: unprivileged, unless root needs a capability to open the files.
pub(super) fn confinement(spec: &VmSpec) -> Confinement {
    let read = [&spec.kernel, &spec.initramfs]
        .into_iter()
        .all(|path| permission::readable(path));
    if read
        && spec.disks.iter().all(|disk| {
            if disk.read_only {
                permission::readable(&disk.path)
            } else {
                permission::writable(&disk.path)
            }
        })
    {
        Confinement::Unprivileged
    } else {
        Confinement::RootOpensFiles
    }
}

/// The directories of programs, libraries and QEMU's firmware.
const PROGRAMS: &[&str] = &["/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store"];

/// Other files that QEMU reads when it starts.
const START_FILES: &[&str] = &["/etc/ld.so.cache", "/etc/qemu", "/dev/urandom"];

/// QEMU tests here whether the host supports file locks.
const LOCK_PROBE: &str = "/dev/null";

/// The files that QEMU may open: programs and libraries, and the files of the spec.
pub(super) fn fence(spec: &VmSpec, binary: &Path, accel: Accel) -> Fence {
    let mut fence = Fence::default()
        .allow(&spec.kernel, Right::Read)
        .allow(&spec.initramfs, Right::Read);
    for path in PROGRAMS {
        fence = fence.allow(path, Right::Run);
    }
    for path in START_FILES {
        fence = fence.allow(path, Right::Read);
    }
    fence = fence.allow(LOCK_PROBE, Right::Write);
    // A QEMU in another directory has its libraries and firmware beside it.
    let home = binary.canonicalize().ok();
    if let Some(prefix) = home.as_deref().and_then(|path| path.parent()?.parent())
        && prefix.parent().is_some()
    {
        fence = fence.allow(prefix, Right::Run);
    }
    if accel == Accel::Kvm {
        fence = fence.allow("/dev/kvm", Right::Device);
    }
    for disk in &spec.disks {
        let right = if disk.read_only {
            Right::Read
        } else {
            Right::Write
        };
        fence = fence.allow(&disk.path, right);
        for path in &disk.backing {
            fence = fence.allow(path, Right::Read);
        }
        // New layers are made beside the newest one.
        if let (false, DiskFormat::Qcow2, Some(directory)) =
            (disk.read_only, disk.format, disk.path.parent())
        {
            fence = fence.allow(directory, Right::Make);
        }
    }
    fence
}
