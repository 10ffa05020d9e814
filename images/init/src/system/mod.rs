//! The system: what PID 1 sets up before the server runs, and how it ends the machine.

mod clock;
mod error;
mod mounts;
pub mod netlink;
mod repository;
mod settings;
pub(crate) mod user_thread;
pub(crate) mod users;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use crate::boot::{BUILD_ROOT, BootConfig, SANDBOX_ID, WORKSPACE_TREE, Workspace};
use crate::reason::chain;
use crate::share;
use crate::wire::{ErrorKind, WireError};

pub use clock::{note_start, stage};
pub(crate) use clock::{renew, started};
pub use error::SystemError;
use error::failed;
use mounts::mount_at;
pub use mounts::{limit_disk, mount_disk, mount_system, switch_root};

/// The number of the loopback interface.
const LOOPBACK: u32 = 1;

/// The name of the workspace's file system, as `mount` shows it.
const WORKSPACE: &str = "workspace";

/// Git's settings for all users. The file is not on the disk, so each boot writes its own.
const GIT_SETTINGS: &str = "/run/snowglobe.gitconfig";

/// Sets the clock, the host name, the limits and the loopback interface, which need no disk.
pub fn set_up(config: &BootConfig) -> Result<(), SystemError> {
    // The host wrote the configuration just before it started the machine.
    let now = Duration::from_nanos(config.clock_ns).saturating_add(clock::since_boot());
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    renew(now, &config.entropy).map_err(failed("set the clock"))?;
    rustix::system::sethostname(config.hostname.as_bytes())
        .map_err(|e| failed("set the host name")(e.into()))?;
    netlink::switch_on(LOOPBACK).map_err(failed("bring up the loopback interface"))?;
    for (name, value) in [
        ("fs/nr_open", config.nofile.max(1_048_576).to_string()),
        // Programs may listen on any port and make sandboxes of their own.
        ("net/ipv4/ip_unprivileged_port_start", "0".into()),
        ("net/ipv4/ping_group_range", "0 2147483647".into()),
        ("kernel/core_pattern", "/dev/null".into()),
        ("vm/max_map_count", "262144".into()),
        ("fs/inotify/max_user_watches", "524288".into()),
        ("fs/inotify/max_user_instances", "1024".into()),
        // What is written is on the disk a few seconds later: a workspace's own disk survives a machine that is killed.
        ("vm/dirty_expire_centisecs", "500".into()),
        ("vm/dirty_writeback_centisecs", "200".into()),
    ] {
        // Best effort: some kernels lack a setting, and the boot does not depend on any.
        fs::write(Path::new("/proc/sys").join(name), value).ok();
    }
    Ok(())
}

/// Adds what every root needs for commands: `/run`, `/tmp`, users, names, settings, the workspace.
pub fn prepare_root(config: &BootConfig) -> Result<(), SystemError> {
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
    // Best effort: an image in which these can't be written still runs commands.
    let root = Path::new("/");
    users::ensure_shadow(root).ok();
    settings::names(root, &config.hostname).ok();
    let workspace = config.workspace.as_ref();
    let repository = workspace.and_then(|workspace| workspace.repository.as_ref());
    let git = settings::Git {
        identity: config.git_identity.as_ref(),
        other_worktrees: repository.is_some(),
    };
    settings::git(root, Path::new(GIT_SETTINGS), &git).ok();
    if let Some(dir) = &config.workdir {
        fs::create_dir_all(dir).ok();
    }
    if let Some(workspace) = workspace {
        mount_workspace(workspace, config)?;
        workspace
            .repository
            .as_ref()
            .map_or(Ok(()), repository::mount)?;
    }
    Ok(())
}

fn mount_workspace(workspace: &Workspace, config: &BootConfig) -> Result<(), SystemError> {
    let path = &workspace.path;
    let user = config.image_user.as_ref();
    fs::create_dir_all(path).map_err(failed(format!("make {path}")))?;
    if let Some(device) = &workspace.disk {
        mounts::mount_within(device, WORKSPACE_TREE, path)?;
        let limit = config.disk_bytes;
        return limit.map_or(Ok(()), |limit| limit_disk(device, path, limit));
    }
    match &workspace.share {
        // Its threads run for as long as the machine.
        Some(link) => share::mount_share(link, WORKSPACE, Path::new(path))
            .map(drop)
            .map_err(failed(format!("mount the workspace at {path}"))),
        None => {
            let default = (SANDBOX_ID, SANDBOX_ID);
            let (uid, gid) = user.map_or(default, |user| (user.uid, user.gid));
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(failed(format!("give {path} to sandbox")))
        }
    }
}

/// Adds to an unpacked root what every guest needs, flushes it and unmounts it.
pub(crate) fn finish_root(root: &Path) -> Result<(), WireError> {
    let error = |message: String| WireError::new(ErrorKind::Other, message);
    crate::layers::finish(root).map_err(|e| error(chain(&e)))?;
    users::ensure_sandbox(root, None).map_err(|e| error(format!("make the user sandbox: {e}")))?;
    rustix::fs::sync();
    unmount(BUILD_ROOT, UnmountFlags::empty())
        .map_err(|e| error(format!("unmount the new root: {e}")))?;
    Ok(())
}

/// Flushes all written data to the disk and ends the machine.
pub fn power_off() {
    rustix::fs::sync();
    // Best effort: the data is on the disk.
    mount_remount("/", MountFlags::RDONLY, c"").ok();
    // With `reboot=t` on the kernel's command line, a restart ends the VM of every engine. It fails outside a VM only.
    rustix::system::reboot(rustix::system::RebootCommand::Restart).ok();
}
