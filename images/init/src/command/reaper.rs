//! Waiting for processes: PID 1 must bury everybody's orphans without taking its own children's statuses away.
//!
//! As PID 1 one task waits for *any* child and hands each status to whoever asked for it. A process is started and
//! its waiter entered under one lock, which the reaper takes too before it delivers: so no status is missed.
//! Elsewhere (tests on a host) each child is waited for by a thread of its own.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{WaitOptions, WaitStatus};
use tokio::sync::oneshot;

type Waiters = Arc<Mutex<HashMap<u32, oneshot::Sender<ExitStatus>>>>;

/// Starts processes and tells how they end.
#[derive(Debug, Clone)]
pub enum Reaper {
    /// As PID 1.
    Init(Waiters),
    /// In a process that has other children, too.
    Host,
}

impl Reaper {
    /// The reaper of PID 1; its task runs as long as the runtime.
    pub fn init() -> io::Result<Self> {
        let waiters = Waiters::default();
        let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let of_task = waiters.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                reap(&of_task);
            }
        });
        Ok(Self::Init(waiters))
    }

    /// Starts a process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Spawned> {
        let (sender, exit) = oneshot::channel();
        match self {
            Self::Init(waiters) => {
                let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
                let pid = command.spawn()?.id();
                waiters.insert(pid, sender);
                Ok(Spawned { pid, exit })
            }
            Self::Host => {
                let mut child = command.spawn()?;
                let pid = child.id();
                std::thread::spawn(move || {
                    if let Ok(status) = child.wait() {
                        let _ = sender.send(status);
                    }
                });
                Ok(Spawned { pid, exit })
            }
        }
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// Gets its status when it has ended.
    pub exit: oneshot::Receiver<ExitStatus>,
}

fn reap(waiters: &Waiters) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let waiter = waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(pid.as_raw_nonzero().get() as u32));
        // Nobody asked for an orphan's.
        if let Some(waiter) = waiter {
            let _ = waiter.send(to_std(status));
        }
    }
}

fn to_std(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}
