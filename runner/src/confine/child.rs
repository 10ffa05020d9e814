//! A child process, and how it ended in words.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// A child process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    /// A process that this one has just made.
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, status: None }
    }

    /// Its process id on the host.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its process id on the host.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that becomes readable when it ends.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_open(self.pid, PidfdFlags::empty())?)
    }

    /// Kills it unless it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.status {
            // Another process may have its id by now.
            Some(_) => Ok(()),
            None => Ok(rustix::process::kill_process(self.pid, Signal::KILL)?),
        }
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(WaitOptions::NOHANG)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.reap(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    /// Kills it and reaps it. Errors are ignored: the kernel kills it with this process at the latest.
    pub(crate) fn end(&mut self) {
        self.kill().ok();
        self.wait().ok();
    }

    fn reap(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            match rustix::process::waitpid(Some(self.pid), options) {
                Ok(ended) => {
                    self.status = ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.status)
    }
}

/// How a process ended, in words that follow its name.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => {
            let hint = if signal == libc::SIGKILL {
                "; the host may have run out of memory"
            } else {
                ""
            };
            format!("was killed by {}{hint}", signal_name(signal))
        }
        (None, None) => "ended".into(),
    }
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}
