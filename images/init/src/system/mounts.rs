//! Mounts: the system's own file systems, and the root disk.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move};

use super::error::{SystemError, failed};

pub(super) fn mount_at(
    kind: &str,
    target: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), SystemError> {
    let mounted = fs::create_dir_all(target).and_then(|()| {
        let data = CString::new(data)?;
        Ok(mount(kind, target, kind, flags, data.as_c_str())?)
    });
    mounted.map_err(failed(format!("mount {kind} at {target}")))
}

/// Mounts the file systems that every process expects.
pub fn mount_system() -> Result<(), SystemError> {
    let secure = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755")?;
    mount_at("proc", "/proc", secure, "")?;
    mount_at("sysfs", "/sys", secure, "")?;
    mount_at(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    mount_at(
        "tmpfs",
        "/dev/shm",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=1777",
    )?;
    // Each command joins a cgroup of its own. `favordynmods` makes that cheap, and each fork slightly slower.
    mount_at("cgroup2", "/sys/fs/cgroup", secure, "favordynmods")?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, Path::new("/dev").join(link)).ok();
    }
    mount_at("mqueue", "/dev/mqueue", secure, "").ok();
    // Only root may use them at first. On other systems udev opens them to all users.
    for device in ["fuse", "kvm", "net/tun", "vsock"] {
        let all = fs::Permissions::from_mode(0o666);
        fs::set_permissions(Path::new("/dev").join(device), all).ok();
    }
    // Users may not open the kernel's own node, but the one of devpts.
    fs::remove_file("/dev/ptmx").ok();
    std::os::unix::fs::symlink("pts/ptmx", "/dev/ptmx").ok();
    Ok(())
}

/// Mounts a disk at `target`; waits for the device to appear. Freed blocks are discarded, so that the host gets their room
/// back.
pub fn mount_disk(device: &str, target: &str) -> Result<(), SystemError> {
    let operation = || failed(format!("mount the disk {device} at {target}"));
    fs::create_dir_all(target).map_err(operation())?;
    let mut waited = Duration::ZERO;
    loop {
        match mount(device, target, "ext4", MountFlags::NOATIME, c"discard") {
            Ok(()) => return Ok(()),
            // The kernel finds the disk meanwhile, and without udev nothing reports it.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO)
                if waited < Duration::from_secs(10) =>
            {
                let step = Duration::from_millis(2);
                std::thread::sleep(step);
                waited += step;
            }
            Err(e) => return Err(operation()(e.into())),
        }
    }
}

/// Mounts a directory of a disk at `target`, and nothing else of that disk.
pub(super) fn mount_within(device: &str, dir: &str, target: &str) -> Result<(), SystemError> {
    const BETWEEN: &str = "/run/snowglobe.disk";
    mount_disk(device, BETWEEN)?;
    let within = Path::new(BETWEEN).join(dir);
    rustix::mount::mount_bind(&within, target)
        .map_err(|e| failed(format!("mount {dir} of {device} at {target}"))(e.into()))?;
    // The file system stays mounted there.
    rustix::mount::unmount(BETWEEN, UnmountFlags::DETACH)
        .map_err(|e| failed(format!("unmount {BETWEEN}"))(e.into()))?;
    fs::remove_dir(BETWEEN).ok();
    Ok(())
}

/// Makes the mounted disk the root, and moves the system's mounts to it.
pub fn switch_root(new: &str) -> Result<(), SystemError> {
    for dir in ["dev", "proc", "sys"] {
        let target = Path::new(new).join(dir);
        let moved = fs::create_dir_all(&target)
            .and_then(|()| Ok(mount_move(Path::new("/").join(dir), &target)?));
        moved.map_err(failed(format!("move /{dir} to the root disk")))?;
    }
    let switch = || -> io::Result<()> {
        std::env::set_current_dir(new)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")
    };
    switch().map_err(failed("switch to the root disk"))
}

/// Limits the use of a disk's file system, mounted at `target`, to this many bytes.
pub fn limit_disk(device: &str, target: &str, limit: u64) -> Result<(), SystemError> {
    let name = device.trim_start_matches("/dev/");
    let set = || -> io::Result<()> {
        let fs_info = rustix::fs::statvfs(target)?;
        let reserved =
            (fs_info.f_blocks * fs_info.f_frsize).saturating_sub(limit) / fs_info.f_frsize;
        fs::write(
            format!("/sys/fs/ext4/{name}/reserved_clusters"),
            reserved.to_string(),
        )
    };
    set().map_err(failed(format!("limit the file system of {device}")))
}
