//! The configuration a guest is booted with: a JSON file in the initramfs, one per VM.

use serde::{Deserialize, Serialize};

/// Where the guest finds its [`BootConfig`] (in the initramfs, before the root disk is mounted).
pub const BOOT_CONFIG_PATH: &str = "/snowglobe/boot.json";

/// Where init is in the initramfs; the kernel starts it with `rdinit=`.
pub const INIT_PATH: &str = "/snowglobe/init";

/// The prefix of the console lines by which init says how far the boot has come:
/// `snowglobe-init: stage NAME`.
pub const STAGE_PREFIX: &str = "snowglobe-init: stage ";

/// Everything init needs to know to bring a guest up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// The guest's host name.
    pub hostname: String,
    /// Which file system becomes the root.
    pub root: Root,
    /// The device that carries the guest link.
    pub link: Link,
    /// The shared directory, where one is mounted.
    pub workspace: Option<Workspace>,
    /// The guest's SSH host key: an OpenSSH private key, PEM.
    pub host_key: String,
    /// Public keys (OpenSSH, one line each) that may do everything, [`crate::wire`] requests included.
    pub control_keys: Vec<String>,
    /// Public keys (OpenSSH, one line each) that may log in as `root` or `sandbox`, as with any SSH server.
    pub login_keys: Vec<String>,
    /// The host's clock when the guest was started, in nanoseconds since the Unix epoch.
    pub clock_ns: u64,
    /// Fresh random bytes for the guest's entropy pool, base64.
    pub entropy: String,
    /// The limit on open files of every command (`ulimit -n`).
    pub nofile: u64,
    /// How much of the root file system may be used, in bytes; absent: all of it.
    pub disk_bytes: Option<u64>,
    /// Environment of every command, before what the request sets.
    pub env: Vec<(String, String)>,
    /// Whom `sandbox` stands for, where the image names a user of its own.
    pub image_user: Option<ImageUser>,
    /// Where commands start that name no directory; absent: in the workspace.
    pub workdir: Option<String>,
    /// Whose commits are made in the guest, where nothing there says otherwise.
    pub git_identity: Option<GitIdentity>,
}

/// What git writes into commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitIdentity {
    /// `user.name`.
    pub name: Option<String>,
    /// `user.email`.
    pub email: Option<String>,
}

/// The user that an image's commands expect to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUser {
    /// The uid; never root's.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The name in `/etc/passwd`; absent: it has none there.
    pub name: Option<String>,
}

/// Which file system becomes the guest's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// An ext4 disk, switched to before the server starts.
    Disk {
        /// The block device, such as `/dev/vda`.
        device: String,
    },
    /// The initramfs stays the root and the disk is mounted at [`BUILD_ROOT`]:
    /// this guest unpacks an image's layers.
    Build {
        /// The block device, such as `/dev/vda`.
        device: String,
    },
}

/// Where a building guest mounts the disk it fills.
pub const BUILD_ROOT: &str = "/newroot";

/// The disk from which a building guest takes layers, as their host puts them there.
pub const FEED_DEVICE: &str = "/dev/vdb";

/// The device that carries the guest link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Link {
    /// A virtio-serial port, found by its name.
    VirtioSerial {
        /// The port's name, as in `/sys/class/virtio-ports/*/name`.
        name: String,
    },
    /// A vsock port that init listens on.
    Vsock {
        /// The port's number.
        port: u32,
    },
}

/// A shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// The virtio-fs tag; absent: the directory is only made, on the root disk.
    pub tag: Option<String>,
    /// Where it is mounted, `/workspace`.
    pub path: String,
}
