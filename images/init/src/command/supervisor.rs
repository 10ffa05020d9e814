//! Starting the processes of commands and holding them together.
//!
//! PID 1 does that with cgroups ([`Cgroups`](super::cgroup::Cgroups)). Tests run in a process that is not PID 1 and owns
//! no cgroup; they bring a supervisor of their own.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Receives its status when it has ended.
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// Starts processes, and has a group for the processes of each command.
pub trait Supervisor: Debug + Send + Sync {
    /// Starts a process.
    fn spawn(&self, program: &mut Command) -> io::Result<Spawned>;

    /// A group for a new command; `number` is the command's own.
    fn group(&self, number: u64) -> io::Result<Box<dyn Group>>;

    /// How many commands have a group.
    fn count(&self) -> u64;

    /// Whether any command has a process.
    fn populated(&self) -> bool;

    /// Sends a signal to the processes that ended commands left running.
    fn signal_leftovers(&self, signal: Signal);

    /// Freezes all commands or unfreezes them; returns when the kernel has done so.
    fn freeze(&self, freeze: bool) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>>;
}

/// The processes of one command. `first` is the process that was started for it.
pub trait Group: Debug + Send + Sync {
    /// The cgroup that the first process joins, if the group is one.
    fn cgroup(&self) -> Option<&Path>;

    /// Sends every process a signal, and wakes stopped ones so that they receive it.
    fn signal(&self, first: Pid, signal: Signal);

    /// Kills every process.
    fn kill(&self, first: Pid);

    /// Whether any process is left.
    fn populated(&self, first: Pid) -> bool;

    /// Whether the kernel killed a process for lack of memory.
    fn out_of_memory(&self) -> bool;
}
