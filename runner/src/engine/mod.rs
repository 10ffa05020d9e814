//! What the runner needs of an engine.
//!
//! An engine is a child process that runs the VM. It is starting until it reports [`Notice::Ready`]: an engine that
//! ends before that has failed to start, one that ends later has exited.

pub(crate) mod krun;
pub(crate) mod probe;
pub(crate) mod qemu;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snowglobe_runner::{Disk, VmSpec};

use crate::confine::child::Child;
use crate::confine::spawn::Started;
use crate::error::StartError;

/// The arguments of the guest's kernel with every engine.
///
/// Without `acpi=off pci=off` it searches for tables and buses that do not exist. All interrupts go to the first processor
/// (`irqaffinity`), where init's threads wait for the workspace's replies.
const KERNEL_ARGS: &str = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 rdinit=/snowglobe/init acpi=off pci=off irqaffinity=0";

/// A running engine.
pub(crate) trait Engine {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Its process.
    fn process(&self) -> &Process;

    /// Its process, to wait for or to end.
    fn process_mut(&mut self) -> &mut Process;

    /// Becomes readable when [`Self::notices`] has something to read.
    fn control(&self) -> BorrowedFd<'_>;

    /// Reads the engine's notices; never blocks.
    fn notices(&mut self) -> io::Result<Vec<Notice>>;

    /// Begins to freeze a disk, by its index; `layer` is a file to make for that. Unless this fails, a [`Notice::Frozen`]
    /// follows.
    fn freeze_disk(&mut self, disk: usize, layer: &Path) -> Result<(), String>;

    /// Begins to merge the layers above `onto` into a disk's newest one. Unless this fails, a [`Notice::Merged`] follows.
    fn merge_disk(&mut self, disk: usize, onto: &Path) -> Result<(), String>;

    /// The time limit of a freeze; `None` where the engine copies the layer.
    fn freeze_limit(&self) -> Option<Duration>;

    /// Checks the room on the host's disk and the layer's size, where the engine does not report these. Also gives the
    /// time until the next check; `None` means that no check is needed.
    fn check_disk(&mut self) -> io::Result<(Option<Notice>, Option<Duration>)> {
        Ok((None, None))
    }

    /// Lets a stalled VM try to continue; gives whether there was enough room for that.
    fn try_resume(&mut self) -> io::Result<bool>;

    /// Whether the guest itself ended the machine.
    fn guest_ended_it(&self) -> bool;

    /// Why it did not start, according to its messages.
    fn explain(&self, messages: &[String]) -> StartError;
}

/// The process of an engine, with its streams. They are read without blocking.
#[derive(Debug)]
pub(crate) struct Process {
    /// The process itself.
    pub(crate) child: Child,
    /// The fences that do not hold around it, and why; it reports others in its messages.
    pub(crate) missing_fences: Vec<String>,
    console: UnixStream,
    messages: OwnedFd,
}

impl Process {
    /// A started engine, and the runner's end of its console.
    fn new(started: Started, console: UnixStream) -> Self {
        Self {
            child: started.child,
            missing_fences: started.missing_fences,
            console,
            messages: started.messages,
        }
    }

    /// The guest's console.
    pub(crate) fn console(&self) -> BorrowedFd<'_> {
        self.console.as_fd()
    }

    /// The engine's standard error.
    pub(crate) fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }
}

/// What an engine reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The guest runs.
    Ready,
    /// The engine can't build the machine.
    Refused(StartError),
    /// Freezing a disk has succeeded or failed.
    Frozen(Result<Frozen, String>),
    /// Merging layers of a disk has succeeded or failed.
    Merged(Result<(), String>),
    /// The VM is stalled: the host can't take what it writes.
    Stalled(String),
    /// A disk's layer has reached its maximum size.
    Full,
}

/// How a disk was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frozen {
    /// The former newest layer is frozen; the new one is on top of it.
    Below,
    /// The new layer is a frozen copy; the guest still writes to the newest one.
    Copy,
}

/// The guest kernel's command line, with arguments of the engine and of the spec. Pure.
fn kernel_command_line(spec: &VmSpec, of_engine: Option<&str>) -> String {
    let parts = [KERNEL_ARGS]
        .into_iter()
        .chain(of_engine)
        .chain(spec.kernel_args.iter().map(String::as_str));
    parts.collect::<Vec<_>>().join(" ")
}

/// The newest layer of each disk; none where the guest only reads the disk.
pub(crate) fn newest_layers(spec: &VmSpec) -> Vec<Option<PathBuf>> {
    let newest = |disk: &Disk| (!disk.read_only).then(|| disk.path.clone());
    spec.disks.iter().map(newest).collect()
}

/// A pair of connected sockets, the first of which is read without blocking.
fn socket_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}
