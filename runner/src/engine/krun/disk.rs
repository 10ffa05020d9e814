//! The disk of a krun machine: the room for it on the host, and copies of it.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitIdOptions};

/// The time between checks where there is much room.
pub(super) const SELDOM: Duration = Duration::from_secs(2);

/// The time between checks where there is little room.
pub(super) const OFTEN: Duration = Duration::from_millis(100);

/// The room on a file system, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) all: u64,
}

/// The time between checks of the newest layer, which may grow by `left` bytes; `None` where it may not grow. In that time
/// a guest can exceed its bound. Pure.
pub(super) fn check_interval(left: u64) -> Option<Duration> {
    match left {
        0 => None,
        left if left > 4 << 30 => Some(SELDOM),
        _ => Some(OFTEN),
    }
}

impl Room {
    /// Whether the guest's next writes may not fit.
    pub(super) fn is_short(self) -> bool {
        self.free < (self.all / 20).min(256 << 20)
    }

    /// Whether a guest needs long to fill it.
    pub(super) fn is_plenty(self) -> bool {
        self.free > 16 << 30
    }
}

/// Does some work while a process is stopped.
pub(super) fn while_stopped<T>(
    process: Pid,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    rustix::process::kill_process(process, Signal::STOP)?;
    let done = wait_for_stop(process).and_then(|()| work());
    rustix::process::kill_process(process, Signal::CONT)?;
    done
}

/// Waits until the process is stopped.
fn wait_for_stop(process: Pid) -> io::Result<()> {
    // `NOWAIT` leaves an exit status to the call that reaps the process.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(rustix::process::WaitId::Pid(process), options)? {
        Some(status) if status.stopped() => Ok(()),
        _ => Err(io::Error::other("the VM ended")),
    }
}

/// Copies a file to a new one; the two share blocks where the file system supports that.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = fs::File::open(from)?;
    let mut target = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    // Copies in the kernel where possible.
    let copied = io::copy(&mut (&mut source).take(length), &mut target)?;
    if copied != length {
        return Err(io::Error::other("it became shorter meanwhile"));
    }
    Ok(())
}
