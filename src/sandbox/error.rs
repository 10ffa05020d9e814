//! Why the sandbox could not do something.

use std::path::PathBuf;

use snowglobe_init::streams::OpenError;
use snowglobe_runner::rules::RulesError;

use super::commits_error::CommitsError;
use super::state::IsStopped;
use crate::copy::CopyError;
use crate::disk::StoreError;
use crate::guest::GuestError;
use crate::login::LoginError;
use crate::machine::MachineError;
use crate::names::NameError;
use crate::network::live::LiveError;
use crate::network::ports::PortError;
use crate::network::settings::ChangeError;
use crate::review::journal::ApplyError;
use crate::review::select::SelectError;
use crate::rundir::RunDirError;
use crate::timeline::TimelineError;
use crate::vmm::VmmError;

/// Why the sandbox could not do something. Each says what to do next, or what the sandbox does by itself.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A job was asked for, but no machine runs.
    #[error(
        "find the job {id:?}: no machine runs, and jobs end with theirs; start it anew with exec"
    )]
    NoJobs {
        /// The job.
        id: String,
    },
    /// The machine could not be booted.
    #[error(transparent)]
    Machine(MachineError),
    /// The VM ended during a call.
    #[error(
        "reach the sandbox: its VM ended ({0})\nThe next call boots a fresh one: /workspace is as it was, \
         everything else is as the image or the snapshot it starts from has it"
    )]
    Died(String),
    /// Another machine replaced this one during a call.
    #[error("finish: the sandbox was {0} meanwhile, which ended what ran in it")]
    Replaced(&'static str),
    /// The connection to the guest broke during a call.
    #[error(
        "finish: the connection to the guest broke, which ended what ran in the foreground; the next call makes a new one"
    )]
    LinkBroke,
    /// The host has no room for what the VM writes.
    #[error(
        "finish: {0}, so the sandbox stands still. It goes on by itself, with its jobs, seconds after the host has room \
         again; this call is over, and a command that it waited for ends then"
    )]
    Stalled(String),
    /// The sandbox was stopped.
    #[error("use the sandbox: it is being closed")]
    Stopped,
    /// The guest refused, or did not answer.
    #[error(transparent)]
    Guest(GuestError),
    /// The VM could not be started or asked.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// Snapshots and layers.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy of the workspace.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Changes could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A selection of changes names what is not there.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The commits of a copied workspace.
    #[error(transparent)]
    Commits(#[from] CommitsError),
    /// The workspace is no copy.
    #[error(
        "review changes: /workspace is no copy, so there is nothing to apply; start the sandbox with \
         workspace_mode = \"copy\" for that"
    )]
    NoCopy,
    /// The settings that protect the workspace.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The guest's listing of its workspace is broken.
    #[error("understand which files the sandbox has: its answer is broken")]
    GuestTree,
    /// The timeline.
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    /// The network.
    #[error(transparent)]
    Network(#[from] LiveError),
    /// A change of the network.
    #[error(transparent)]
    NetworkChange(#[from] ChangeError),
    /// A port of the guest could not be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The guest does not say on which ports its programs listen.
    #[error("learn on which ports the sandbox's programs listen: {0}")]
    Ports(OpenError),
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Images.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// The sandbox's directory among the running ones.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The keys for the user's own ssh.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// A snapshot's record names a disk that is not in the store of images.
    #[error("use the image disk {0}: it is not in the store of images")]
    ForeignDisk(PathBuf),
}

impl From<IsStopped> for SandboxError {
    fn from(_: IsStopped) -> Self {
        Self::Stopped
    }
}

impl From<GuestError> for SandboxError {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

impl From<MachineError> for SandboxError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Guest(error) => Self::Guest(error),
            MachineError::Vmm(error) => Self::Vmm(error),
            MachineError::Ended(end) => Self::Died(end.to_string()),
            error => Self::Machine(error),
        }
    }
}
