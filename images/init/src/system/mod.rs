//! The machine itself: what PID 1 does to it before and after there is a server.

pub(crate) mod actor;
mod settings;
pub(crate) mod users;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, mount_remount, unmount};
use rustix::net::{AddressFamily, SendFlags, SocketType};
use rustix::time::{ClockId, Timespec};

use crate::boot::{BUILD_ROOT, STAGE_PREFIX};
use crate::wire::{ErrorKind, WireError};

/// Git's settings for all users; not on the disk, so each boot brings its own.
const GIT_SETTINGS: &str = "/run/snowglobe.gitconfig";

/// Why the machine could not be brought up.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct MachineError {
    operation: String,
    source: io::Error,
}

fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> MachineError {
    let operation = operation.into();
    move |source| MachineError { operation, source }
}

/// An error with its sources, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

static STARTED: OnceLock<u64> = OnceLock::new();

/// Notes when init began, in milliseconds after the kernel.
pub fn note_start() {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let _ = STARTED.set(now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000);
}

/// When init began, in milliseconds after the kernel; 0 where there is no machine of ours.
pub fn started_ms() -> u64 {
    STARTED.get().copied().unwrap_or_default()
}

/// Says on the console how far the boot has come, and since when, in seconds.
pub fn stage(name: &str) {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let (seconds, millis) = (now.tv_sec, now.tv_nsec / 1_000_000);
    let line = format!("[{seconds:5}.{millis:03}] {STAGE_PREFIX}{name}\n");
    let _ = fs::write("/dev/console", line);
}

fn mount_at(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), MachineError> {
    let mounted = fs::create_dir_all(target).and_then(|()| {
        let data = std::ffi::CString::new(data).unwrap_or_default();
        Ok(mount(kind, target, kind, flags, data.as_c_str())?)
    });
    mounted.map_err(failed(format!("mount {kind} at {target}")))
}

/// Mounts what every process expects.
pub fn mount_system() -> Result<(), MachineError> {
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
    // Each command joins a cgroup of its own: that is made cheap, at a small price for each fork.
    mount_at("cgroup2", "/sys/fs/cgroup", secure, "favordynmods")?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
    let _ = mount_at("mqueue", "/dev/mqueue", secure, "");
    // The kernel leaves them to root, and udev, which no image here runs, to everybody.
    for device in ["fuse", "kvm", "net/tun", "vsock"] {
        let _ = fs::set_permissions(
            Path::new("/dev").join(device),
            fs::Permissions::from_mode(0o666),
        );
    }
    // The kernel's own node is closed to users; the one of devpts is theirs.
    let _ = fs::remove_file("/dev/ptmx");
    let _ = std::os::unix::fs::symlink("pts/ptmx", "/dev/ptmx");
    Ok(())
}

/// Clock, entropy, name, limits, loopback: what is set once and needs no disk.
pub fn set_up(config: &crate::boot::BootConfig) -> Result<(), MachineError> {
    // The configuration was written before the machine was started.
    let booting = rustix::time::clock_gettime(ClockId::Boottime);
    let booting = booting.tv_sec as u64 * 1_000_000_000 + booting.tv_nsec as u64;
    renew(config.clock_ns + booting, &config.entropy).map_err(failed("set the clock"))?;
    rustix::system::sethostname(config.hostname.as_bytes())
        .map_err(|e| failed("set the host name")(e.into()))?;
    loopback_up().map_err(failed("bring up the loopback interface"))?;
    for (name, value) in [
        ("fs/nr_open", config.nofile.max(1_048_576).to_string()),
        // Programs may serve any port and make sandboxes of their own: this machine is theirs.
        ("net/ipv4/ip_unprivileged_port_start", "0".into()),
        ("net/ipv4/ping_group_range", "0 2147483647".into()),
        ("kernel/core_pattern", "/dev/null".into()),
        ("vm/max_map_count", "262144".into()),
        ("fs/inotify/max_user_watches", "524288".into()),
        ("fs/inotify/max_user_instances", "1024".into()),
    ] {
        // Not every kernel knows every one; none is worth a failed boot.
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
    Ok(())
}

/// Sets the clock and mixes in entropy.
pub fn renew(clock_ns: u64, entropy: &str) -> io::Result<()> {
    let now = Timespec {
        tv_sec: (clock_ns / 1_000_000_000) as i64,
        tv_nsec: (clock_ns % 1_000_000_000) as _,
    };
    rustix::time::clock_settime(ClockId::Realtime, now)?;
    if let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(entropy) {
        fs::write("/dev/urandom", bytes)?;
    }
    Ok(())
}

/// Sets `lo` up: one netlink message, `RTM_NEWLINK` for interface 1.
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32u32.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&1i32.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Mounts the root disk at `target`, waiting for the device to appear. What is freed goes back to the host, so that a
/// disk takes no more room there than its files and their room's edges.
pub fn mount_disk(device: &str, target: &str) -> Result<(), MachineError> {
    let operation = || failed(format!("mount the root disk {device}"));
    fs::create_dir_all(target).map_err(operation())?;
    let mut waited = Duration::ZERO;
    loop {
        match mount(device, target, "ext4", MountFlags::NOATIME, c"discard") {
            Ok(()) => return Ok(()),
            // The disk is found beside the boot of the rest; nothing tells a process without udev when.
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

/// Makes the mounted disk the root, with the system's mounts moved along.
pub fn switch_root(new: &str) -> Result<(), MachineError> {
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

/// Keeps all but `limit` bytes of the root file system from being used.
pub fn limit_disk(device: &str, limit: u64) -> Result<(), MachineError> {
    let name = device.trim_start_matches("/dev/");
    let set = || -> io::Result<()> {
        let fs_info = rustix::fs::statvfs("/")?;
        let reserved =
            (fs_info.f_blocks * fs_info.f_frsize).saturating_sub(limit) / fs_info.f_frsize;
        fs::write(
            format!("/sys/fs/ext4/{name}/reserved_clusters"),
            reserved.to_string(),
        )
    };
    set().map_err(failed("limit the root file system"))
}

/// What every image needs around the commands: mount points, `/tmp`, names, the workspace.
pub fn furnish(config: &crate::boot::BootConfig) -> Result<(), MachineError> {
    mount_at(
        "tmpfs",
        "/run",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=755,size=25%",
    )?;
    for dir in ["/tmp", "/var/tmp", "/run/lock"] {
        let made = fs::create_dir_all(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o1777)));
        made.map_err(failed(format!("make {dir}")))?;
    }
    users::ensure_sandbox(Path::new("/"), config.image_user.as_ref())
        .map_err(failed("make the user sandbox"))?;
    // An image in which these can't be written still runs commands.
    let root = Path::new("/");
    let _ = users::ensure_shadow(root);
    let _ = settings::names(root, &config.hostname);
    let _ = settings::git(root, Path::new(GIT_SETTINGS), config.git_identity.as_ref());
    if let Some(dir) = &config.workdir {
        let _ = fs::create_dir_all(dir);
    }
    if let Some(workspace) = &config.workspace {
        mount_workspace(workspace, config.image_user.as_ref())?;
    }
    Ok(())
}

fn mount_workspace(
    workspace: &crate::boot::Workspace,
    user: Option<&crate::boot::ImageUser>,
) -> Result<(), MachineError> {
    let path = &workspace.path;
    fs::create_dir_all(path).map_err(failed(format!("make {path}")))?;
    match &workspace.tag {
        Some(tag) => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount(tag.as_str(), path.as_str(), "virtiofs", flags, c"")
                .map_err(|e| failed(format!("mount the workspace at {path}"))(e.into()))
        }
        None => {
            let ours = users::SANDBOX_ID;
            let (uid, gid) = user.map_or((ours, ours), |user| (user.uid, user.gid));
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(failed(format!("give {path} to sandbox")))
        }
    }
}

/// Makes an unpacked root complete, writes it all and lets go of it.
pub fn finish_root(root: &Path) -> Result<(), WireError> {
    let error = |message: String| WireError {
        kind: ErrorKind::Other,
        message,
    };
    crate::layers::finish(root).map_err(|e| error(chain(&e)))?;
    users::ensure_sandbox(root, None).map_err(|e| error(format!("make the user sandbox: {e}")))?;
    rustix::fs::sync();
    unmount(BUILD_ROOT, UnmountFlags::empty())
        .map_err(|e| error(format!("unmount the new root: {e}")))?;
    Ok(())
}

/// Writes everything to the disk and ends the machine.
pub fn power_off() {
    rustix::fs::sync();
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    // The kernel is told `reboot=t`: a restart is what ends every engine's VM in order.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}
