//! The protocol of `snowglobe-runner`.
//!
//! The runner is one process for each VM. On standard input it reads one [`VmSpec`] as a line of JSON, then
//! [`VmRequest`]s, a line each; on standard output it writes [`Event`]s, a line each. When its standard input ends (the
//! parent has ended), it kills the VM, removes the files in [`VmSpec::remove`] and exits.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::let_underscore_must_use,
        reason = "a test fails by panicking"
    )
)]

pub mod git_config;
pub mod protection;
pub mod rules;
pub mod socket;
pub mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::protection::{Effect, Made, Protection, Refusal};

/// The runner's argument for the number of descriptors that it inherits, from 3 on. Without it there are none.
pub const DESCRIPTORS: &str = "--descriptors=";

/// Everything needed to start one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// A name for messages and the process list, `[A-Za-z0-9._-]`.
    pub name: String,
    /// Which engine runs it, and how.
    pub engine: EngineSpec,
    /// Whether all fences are required.
    #[serde(default)]
    pub isolation: Isolation,
    /// Virtual processors, from 1.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The guest kernel: an uncompressed ELF file.
    pub kernel: PathBuf,
    /// The initramfs, a cpio archive (or several, joined).
    pub initramfs: PathBuf,
    /// Kernel arguments that follow the engine's own.
    pub kernel_args: Vec<String>,
    /// The disks, in order: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// Directories shared with the guest.
    pub shares: Vec<Share>,
    /// The unix socket on which the runner listens for the guest link: one connection at a time.
    pub link_socket: PathBuf,
    /// The name of its virtio-serial port (engines with virtio-serial).
    pub link_name: String,
    /// Its vsock port (engines with vsock).
    pub link_port: u32,
    /// A second port beside the guest link; absent: there is none.
    #[serde(default)]
    pub streams: Option<Port>,
    /// The file that receives the guest's console.
    pub console_log: PathBuf,
    /// The time limit for the guest's boot, in seconds. The engine may take as long to be ready, and at least a minute.
    #[serde(default)]
    pub boot_timeout_s: u64,
    /// The maximum size of a disk's file, at which the VM is ended; absent: the size of the disk. With krun the files are
    /// checked up to ten times a second, and may exceed the bound by what the guest writes in between.
    #[serde(default)]
    pub max_layer_bytes: Option<u64>,
    /// Files and directories (with their contents) to remove when the VM has ended.
    pub remove: Vec<PathBuf>,
    /// More of these, to remove only if the parent has ended: standard input ended without an [`Action::Stop`].
    #[serde(default)]
    pub remove_if_orphaned: Vec<PathBuf>,
}

/// Which engine runs the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EngineSpec {
    /// A `qemu-system-*` process.
    Qemu {
        /// The program.
        binary: PathBuf,
        /// What executes the guest's instructions; qemu never chooses it.
        accel: Accel,
    },
    /// libkrun, in a process of the runner's own. It needs KVM.
    Krun,
}

impl std::fmt::Display for EngineSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Qemu { accel, .. } => write!(f, "qemu ({accel})"),
            Self::Krun => f.write_str("krun"),
        }
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// Linux's hardware virtualization.
    Kvm,
    /// macOS's hardware virtualization.
    Hvf,
    /// Translation: slower, but works everywhere.
    Tcg,
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Tcg => "tcg",
        })
    }
}

/// Whether a VM starts where a fence around its processes does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// It does not start.
    Require,
    /// It starts, and [`Event::Started`] names the missing fences.
    #[default]
    Best,
}

/// The test of a fence around a VM's processes on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The name of the fence.
    pub fence: String,
    /// Why it does not hold; `None` where it does.
    pub failure: Option<String>,
}

/// The argument with which the runner tests each fence on this host: it prints a [`Trial`] for each, a line of JSON.
pub const TRY_FENCES: &str = "--try-fences";

/// The argument with which the runner tests whether changes in its working directory are reported to guests at once. If
/// not, it prints why and fails.
pub const TRY_WATCH: &str = "--try-watch";

/// A port between the guest and a unix socket of the host: one connection at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The unix socket on which the runner listens.
    pub socket: PathBuf,
    /// The name of its virtio-serial port (engines with virtio-serial).
    pub name: String,
    /// Its vsock port (engines with vsock).
    pub port: u32,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// All its backing files, which the engine must be allowed to read.
    #[serde(default)]
    pub backing: Vec<PathBuf>,
    /// Whether the guest's flushes reach the host's disk, so that its data survives the host's crash. A disk that ends with
    /// its VM needs none. libkrun flushes every disk.
    #[serde(default)]
    pub flushes: bool,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// The plain bytes of the disk.
    Raw,
    /// QEMU's copy-on-write format; backing files are followed.
    Qcow2,
}

/// One shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The name of the virtio-serial port that carries its messages (engines with virtio-serial).
    pub tag: String,
    /// The vsock port on which the guest connects to it (engines with vsock).
    pub port: u32,
    /// The host directory.
    pub path: PathBuf,
    /// Its index in the descriptors that the runner inherits ([`DESCRIPTORS`]); absent: its path is opened.
    #[serde(default)]
    pub opened: Option<usize>,
    /// The uid and gid of all its files in the guest. On the host, files that the guest makes belong to the runner's
    /// user.
    pub guest_id: u32,
    /// What of it the guest may see and change.
    #[serde(default)]
    pub protection: Protection,
    /// Directories in it, relative paths, in which a repository outside has its hooks.
    #[serde(default)]
    pub hooks: Vec<String>,
    /// Absent: it holds files of any kind. Otherwise it is the directory of a repository, such as a `.git`.
    #[serde(default)]
    pub repository: Option<Repository>,
}

/// A repository whose directory is shared, and in one of whose worktrees the guest works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// The name of the worktree's own directory in `worktrees`; absent: it is the main worktree, which has none.
    pub worktree: Option<String>,
}

/// A request to a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmRequest {
    /// Repeated in the [`Event::Reply`].
    pub id: u64,
    /// What to do.
    pub action: Action,
}

/// An action of a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Freeze a disk; the guest must have flushed its writes. `layer` is a qcow2 file to make for that. An engine
    /// either adds it on top of the newest layer and freezes the latter (`layer` then replaces it in
    /// [`VmSpec::remove`]), or copies the newest layer to it. [`Answer::Frozen`] names the frozen layer, which the
    /// parent then owns.
    FreezeDisk {
        /// The disk's index in [`VmSpec::disks`].
        #[serde(default)]
        disk: usize,
        /// The file to make.
        layer: PathBuf,
    },
    /// Copy the layers between a disk's newest one and `onto` into the newest one, while the guest runs. `onto` is
    /// then the file below it. An engine that freezes a disk by copying it refuses this: its chain does not grow.
    MergeDisk {
        /// The disk's index in [`VmSpec::disks`].
        #[serde(default)]
        disk: usize,
        /// A layer below the newest one, or the disk below all layers.
        onto: PathBuf,
    },
    /// Read the last lines of the console.
    Console {
        /// The maximum number of lines.
        lines: usize,
    },
    /// Treat the changes of a guest to shared directories by these rules from now on.
    Protect {
        /// The effect of each rule, as in [`Protection::rules`].
        rules: BTreeMap<String, Effect>,
    },
    /// Say which changes to shared directories were made, and which were refused, since the last such request.
    TakeChanges,
    /// Stop the engine's process, without its cooperation.
    Pause,
    /// Let it continue.
    Resume,
    /// Kill the VM and exit.
    Stop,
}

/// A message of the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The VM's process runs.
    Started {
        /// Its process id.
        pid: u32,
        /// The fences around the VM's processes that do not hold, and why.
        #[serde(default)]
        missing_fences: Vec<String>,
    },
    /// The VM did not start; the runner exits.
    Failed {
        /// The step that failed, such as `workspace share` or `qemu`.
        stage: String,
        /// Why it failed.
        message: String,
        /// The last lines of the console and of the engine's own messages.
        console: Vec<String>,
    },
    /// The VM is stalled: the host can't take what it writes. It continues by itself when there is room.
    Stalled {
        /// The reason on the host.
        reason: String,
    },
    /// A stalled VM runs again.
    Resumed,
    /// The VM ended; the runner exits.
    Exited {
        /// Whether the guest powered off.
        clean: bool,
        /// How it ended, in words.
        reason: String,
        /// The last lines of the console and of the engine's own messages.
        console: Vec<String>,
    },
    /// The answer to a request.
    Reply {
        /// The request's id.
        id: u64,
        /// Its result, or why it failed.
        result: Result<Answer, String>,
    },
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The disk is frozen.
    Frozen {
        /// The layer that the guest does not write to any more.
        layer: PathBuf,
    },
    /// Changes to shared directories.
    Changes {
        /// The paths of the first that were made, at most [`protection::TOLD`] for each share.
        made: Vec<Made>,
        /// How many changes at other paths there were.
        more: u64,
        /// The first that were refused, at most [`protection::TOLD`] for each share; equal ones are one.
        refused: Vec<Refusal>,
        /// How many others were refused.
        lost: u64,
    },
    /// Lines of the console.
    Console {
        /// The lines, oldest first.
        lines: Vec<String>,
    },
}
