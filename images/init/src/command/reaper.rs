//! Waiting for processes. PID 1 must reap every orphan without losing the statuses of the processes that it started.
//!
//! One task waits for *any* child and hands each status to the receiver for its process. Starting a process and adding
//! its receiver happen under one lock, which the task takes before it delivers, so no status is missed.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::supervisor::Spawned;

type Waiters = Arc<Mutex<HashMap<Pid, oneshot::Sender<ExitStatus>>>>;

/// Starts processes and learns how they end.
#[derive(Debug, Clone)]
pub struct Reaper(Waiters);

impl Reaper {
    /// Starts the task, which runs as long as the runtime. For PID 1 only: it takes the statuses of all children.
    pub fn start() -> io::Result<Self> {
        let waiters = Waiters::default();
        let mut ended = signal(SignalKind::child())?;
        let of_task = waiters.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reap(&of_task);
            }
        });
        Ok(Self(waiters))
    }

    /// Starts a process.
    pub(super) fn spawn(&self, program: &mut Command) -> io::Result<Spawned> {
        let (sender, exit) = oneshot::channel();
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = Pid::from_child(&program.spawn()?);
        waiters.insert(pid, sender);
        Ok(Spawned { pid, exit })
    }
}

fn reap(waiters: &Waiters) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let waiter = waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
        // An orphan has no receiver, and a command that was given up no longer has one.
        if let Some(waiter) = waiter {
            waiter.send(ExitStatus::from_raw(status.as_raw())).ok();
        }
    }
}
