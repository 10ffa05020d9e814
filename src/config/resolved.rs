//! The resolved configuration, in three parts for those who need no more than one.

use std::path::PathBuf;
use std::time::Duration;

use snowglobe_runner::protection::Protection;

use super::choices::{AccelChoice, Confirm, EngineChoice, IsolationChoice};
use super::consent::Ignored;
use super::dirs::Dirs;
use super::setting::Setting;
use crate::image::Registries;
use crate::names::{SandboxName, SnapshotName};
use crate::network;
use crate::workspace::Workspace;

/// What holds for every sandbox on this host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostConfig {
    /// Snowglobe's own directories.
    pub dirs: Dirs,
    /// The engine asked for.
    pub engine: EngineChoice,
    /// The accelerator asked for.
    pub accel: AccelChoice,
    /// What to do if a fence is not available.
    pub isolation: IsolationChoice,
    /// The qemu program asked for.
    pub qemu: Option<PathBuf>,
    /// How long a boot may take.
    pub boot_timeout: Duration,
    /// How registries are reached.
    pub registries: Registries,
    /// What images may take on this disk, in bytes.
    pub image_store_bytes: u64,
}

/// One sandbox as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSpec {
    /// Its name.
    pub name: SandboxName,
    /// Its image: a name or a reference.
    pub image: String,
    /// The snapshot to start from instead of the clean image.
    pub snapshot: Option<SnapshotName>,
    /// What its snapshots may take on the host's disk, in bytes.
    pub snapshot_bytes: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How much of its disk may be used, in bytes.
    pub disk_bytes: u64,
    /// Open files per command.
    pub nofile: u64,
    /// The host directory that it belongs to, absolute and without links.
    pub project_dir: PathBuf,
    /// Whether the user named that directory; else it is the working directory.
    pub project_named: bool,
    /// What `/workspace` is.
    pub workspace: Workspace,
    /// Whether a new copy of the directory also has what git ignores.
    pub copy_ignored: bool,
    /// What of it the sandbox may see and change.
    pub protection: Protection,
    /// How long a command may run if its caller sets no limit.
    pub exec_timeout: Duration,
    /// How long it is kept while nothing uses it; none: for ever.
    pub idle_stop: Option<Duration>,
    /// Whether the guest's git gets the user's name and e-mail address.
    pub git_identity: bool,
    /// What of the network it reaches at its start.
    pub network: network::settings::Settings,
    /// Environment of every command.
    pub env: Vec<(String, String)>,
}

/// How the server treats calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPolicy {
    /// Whether a person is asked before what cannot be undone.
    pub confirm: Confirm,
    /// Whether a person is asked before a model applies changes to the host's directory.
    pub confirm_apply: Confirm,
    /// When a call becomes a background job if its client takes no progress messages.
    pub background_after: Duration,
}

/// Everything resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What holds for every sandbox.
    pub host: HostConfig,
    /// The sandbox asked for.
    pub sandbox: SandboxSpec,
    /// How calls are treated.
    pub calls: CallPolicy,
    /// The project's file, if it does not count.
    pub ignored: Option<Ignored>,
    /// Every key's value, and where it comes from.
    pub settings: Vec<Setting>,
    /// Where the working directory is below the sandbox's directory; empty: it is that directory, or not below it.
    pub subdirectory: PathBuf,
}
