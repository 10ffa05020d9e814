//! The configuration a guest is booted with: a JSON file in the initramfs, one per VM.

use serde::{Deserialize, Serialize};

/// The path of the [`BootConfig`] in the initramfs.
pub const BOOT_CONFIG_PATH: &str = "/snowglobe/boot.json";

/// The path of init in the initramfs. The kernel starts it because of `rdinit=`.
pub const INIT_PATH: &str = "/snowglobe/init";

/// The prefix of the console lines that report the stages of the boot: `snowglobe-init: stage NAME`.
pub const STAGE_PREFIX: &str = "snowglobe-init: stage ";

/// Everything that init needs to set up a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// The guest's host name.
    pub hostname: String,
    /// The file system that becomes the root.
    pub root: Root,
    /// The device that carries the guest link.
    pub link: Link,
    /// The workspace; absent: this guest has none.
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
    /// The limit on the use of the root file system, in bytes; absent: none.
    pub disk_bytes: Option<u64>,
    /// The environment of every command. Requests add to it.
    pub env: Vec<(String, String)>,
    /// The user that `sandbox` stands for, if the image names one.
    pub image_user: Option<ImageUser>,
    /// The default working directory of commands; absent: the workspace.
    pub workdir: Option<String>,
    /// The author of commits in the guest, unless the guest's own settings name another.
    pub git_identity: Option<GitIdentity>,
}

/// The author of commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitIdentity {
    /// `user.name`.
    pub name: Option<String>,
    /// `user.email`.
    pub email: Option<String>,
}

/// The uid and gid of the user `sandbox`.
pub const SANDBOX_ID: u32 = 1000;

/// The user that an image's commands expect to run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUser {
    /// The uid; never root's.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The name in `/etc/passwd`; absent: the file does not list it.
    pub name: Option<String>,
}

/// The file system that becomes the guest's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// An ext4 disk. Init switches to it before the server starts.
    Disk {
        /// The block device, such as `/dev/vda`.
        device: String,
    },
    /// The initramfs, with a disk mounted at [`BUILD_ROOT`]: this guest unpacks an image's layers.
    Build {
        /// The block device, such as `/dev/vda`.
        device: String,
    },
}

/// The mount point of the disk that a building guest fills.
pub const BUILD_ROOT: &str = "/newroot";

/// The second disk: on it the host hands layers to a building guest; another guest has its workspace there, if that has a
/// disk of its own.
pub const SECOND_DISK: &str = "/dev/vdb";

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

/// The directory of a workspace's disk that becomes the workspace.
pub const WORKSPACE_TREE: &str = "tree";

/// The directory that agents work in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// The device over which init reaches the shared directory; absent: the workspace is on a disk.
    pub share: Option<Link>,
    /// The disk that has the workspace in its directory [`WORKSPACE_TREE`]; absent: it is on the root disk, or shared.
    pub disk: Option<String>,
    /// Its path, `/workspace`.
    pub path: String,
    /// The repository of the shared directory; absent: it is in it, or there is none.
    pub repository: Option<Repository>,
}

/// The directory of a repository, which lies outside of its worktree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// The device that carries the repository's messages to the host.
    pub share: Link,
    /// Its path, which is that of the host: the worktree's `.git` file says it.
    pub path: String,
    /// Symbolic links to make where nothing is, a path and its target each: other paths that git follows from the worktree
    /// to the repository and back.
    pub links: Vec<(String, String)>,
}
