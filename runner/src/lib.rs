//! What `snowglobe-runner` is told and what it answers.
//!
//! The runner is one process per VM. On standard input it takes one [`VmSpec`] as a line of JSON, then
//! [`Command`]s, a line each; on standard output it writes [`Event`]s, a line each. When its standard
//! input ends (the parent is gone, however it went) it kills the VM, removes what the spec lists in
//! [`VmSpec::remove`] and exits.

pub mod socket;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The argument, up to a number, that tells the runner how many descriptors it is handed on, from 3 on. Without it there
/// are none.
pub const DESCRIPTORS: &str = "--descriptors=";

/// Everything needed to start one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// A name for messages and the process list, `[A-Za-z0-9._-]`.
    pub name: String,
    /// Which engine runs it, and how.
    pub engine: Engine,
    /// What to do where a fence can't be had.
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
    /// More kernel arguments, after the engine's own.
    pub kernel_args: Vec<String>,
    /// The disks, in order: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// Directories shared by virtio-fs.
    pub shares: Vec<Share>,
    /// The unix socket on which the runner listens for the guest link: one connection at a time.
    pub link_socket: PathBuf,
    /// The name of the virtio-serial port behind it (engines with virtio-serial).
    pub link_name: String,
    /// The vsock port behind it (engines with vsock).
    pub link_port: u32,
    /// The file that receives the guest's console.
    pub console_log: PathBuf,
    /// How large a disk's file may grow before the VM is ended; absent: as large as its disk. With krun the first disk's
    /// file is looked at ten times a second, and may outgrow it by what the guest writes meanwhile.
    #[serde(default)]
    pub max_layer_bytes: Option<u64>,
    /// Files and directories to remove, with all they hold, when the VM has ended.
    pub remove: Vec<PathBuf>,
    /// What else to remove when the parent vanished: standard input ended with no [`Action::Stop`] before.
    #[serde(default)]
    pub remove_if_orphaned: Vec<PathBuf>,
}

/// Which engine runs the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Engine {
    /// A `qemu-system-*` process.
    Qemu {
        /// The program.
        binary: PathBuf,
        /// What executes the guest's instructions; decided beforehand, never left to qemu.
        accel: Accel,
    },
    /// libkrun, in a process of the runner's own. It needs KVM.
    Krun,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// Linux's hardware virtualization.
    Kvm,
    /// macOS's hardware virtualization.
    Hvf,
    /// Translation: works everywhere, slower.
    Tcg,
}

/// What to do where a fence around the VM's processes can't be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The VM is not started.
    Require,
    /// It runs behind those that hold, and [`Event::Started`] names the others.
    #[default]
    Best,
}

/// A fence around a VM's processes, as it was tried on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What it is called.
    pub fence: String,
    /// Why it does not hold; nothing where it does.
    pub lack: Option<String>,
}

/// The argument by which the runner tries each fence on this host: it prints a [`Trial`] each, a line of JSON.
pub const TRY_FENCES: &str = "--try-fences";

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
    /// The files beneath it, where its format has such: all of them, for whoever has to be let to read them.
    #[serde(default)]
    pub backing: Vec<PathBuf>,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format; backing files are followed.
    Qcow2,
}

/// One shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The virtio-fs tag the guest mounts.
    pub tag: String,
    /// The host directory.
    pub path: PathBuf,
    /// Which of the descriptors handed on to the runner ([`DESCRIPTORS`]) it is; absent: its path is looked up.
    #[serde(default)]
    pub opened: Option<usize>,
    /// The uid and gid in the guest that everything in it seems to belong to. On the host, what the guest makes
    /// belongs to whoever runs the runner.
    pub guest_id: u32,
}

/// What a running runner can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Repeated in the [`Event::Reply`].
    pub id: u64,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Freeze the first disk as it is; what the guest holds back must have been flushed. `layer` is a file to make for
    /// that, a qcow2 layer, and [`Answer::Frozen`] says which one it is in the end: an engine that can puts it on
    /// the newest one and freezes that (then in [`VmSpec::remove`] it takes the place of the frozen one); another
    /// copies the newest one to it. The frozen one belongs to whoever asked.
    FreezeDisk {
        /// The file to make.
        layer: PathBuf,
    },
    /// The last lines of the console.
    Console {
        /// How many lines at most.
        lines: usize,
    },
    /// Have the engine's process stand still, whatever it or its guest does.
    Pause,
    /// Have it go on.
    Resume,
    /// Kill the VM and leave.
    Stop,
}

/// What the runner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The VM's process runs.
    Started {
        /// Its process id.
        pid: u32,
        /// Which fences around the VM's processes do not hold, and why.
        #[serde(default)]
        lacks: Vec<String>,
    },
    /// The VM could not be started; the runner leaves.
    Failed {
        /// Where it got stuck, such as `workspace share` or `qemu`.
        stage: String,
        /// Why.
        message: String,
        /// The last lines of the console and of the engine's own messages.
        console: Vec<String>,
    },
    /// The VM stands still, because the host can't take what it writes. It goes on by itself.
    Stalled {
        /// What the host lacks.
        reason: String,
    },
    /// A VM that was stalled goes on.
    Resumed,
    /// The VM ended; the runner leaves.
    Exited {
        /// Whether it ended by itself in an orderly way (power off).
        clean: bool,
        /// How it ended, in words.
        reason: String,
        /// The last lines of the console and of the engine's own messages.
        console: Vec<String>,
    },
    /// The answer to a command.
    Reply {
        /// The command's id.
        id: u64,
        /// What came of it.
        result: Result<Answer, String>,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The first disk is frozen.
    Frozen {
        /// The layer that is written no more.
        layer: PathBuf,
    },
    /// Lines of the console.
    Console {
        /// The lines, oldest first.
        lines: Vec<String>,
    },
}
