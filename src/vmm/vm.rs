//! A VM: a `snowglobe-runner` process, running or ended.
//!
//! An ended VM never runs again, and [`Vm::end`] says how it ended. Dropping a [`Vm`] ends it: the runner sees its
//! standard input close, kills the engine and removes the VM's files.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use snowglobe_runner::{Action, Answer, DESCRIPTORS, Event, VmRequest, VmSpec};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::error::{VmEnd, VmmError, unknown_end};

type Replies = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>>;

/// How long the runner may take to answer from its own knowledge.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the runner may take to end a VM and remove its files; after that it is killed, and the VM with it.
const STOPPING: Duration = Duration::from_secs(10);

/// The time limit for showing the runner's last messages.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the runner inherits of this process's variables: how programs, libraries and temporary files are found. The
/// others may hold keys, and the runner has no use for them.
const VARIABLES: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "RUST_BACKTRACE"];

/// How long a VM may be stalled before calls report it.
const STALL: Duration = Duration::from_secs(1);

/// A VM, running or ended.
#[derive(Debug)]
pub struct Vm {
    stdin: tokio::sync::Mutex<Option<tokio::process::ChildStdin>>,
    replies: Replies,
    next_id: AtomicU64,
    end: watch::Receiver<Option<VmEnd>>,
    gone: watch::Receiver<bool>,
    stalled: watch::Receiver<Option<String>>,
    /// Why this process ended the VM, if it did.
    because: OnceLock<String>,
    kill: CancellationToken,
    /// The runner's process id.
    pub runner_pid: u32,
    /// The engine's process id.
    pub engine_pid: u32,
    /// The fences that are missing around its processes, and why.
    pub missing_fences: Vec<String>,
}

impl Vm {
    /// Starts the VM; returns once its engine runs, while the guest still boots. The runner inherits the descriptors in
    /// `opened`; the shares of `spec` name them by their index.
    pub async fn start(
        runner: &Path,
        spec: &VmSpec,
        opened: Vec<OwnedFd>,
    ) -> Result<Self, VmmError> {
        let spawn = |source| VmmError::Spawn {
            path: runner.to_owned(),
            source,
        };
        let (messages, to_messages) = std::io::pipe().map_err(spawn)?;
        let mut command = tokio::process::Command::new(runner);
        let inherited = VARIABLES
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command
            .env_clear()
            .envs(inherited)
            .arg(format!("{DESCRIPTORS}{}", opened.len()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(to_messages);
        let mappings = opened
            .into_iter()
            .zip(3..)
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        command
            .fd_mappings(mappings.collect())
            .map_err(|error| spawn(std::io::Error::other(error)))?;
        let mut child = command.spawn().map_err(spawn)?;
        // Closes this process's copies of the descriptors.
        drop(command);
        let passed_on = pass_on(messages);
        let runner_pid = child.id().unwrap_or_default();
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(spawn(std::io::Error::other("its pipes are missing")));
        };
        // If the runner fails at once, its standard output says why; ignore the broken pipe.
        stdin.write_all(&line(spec).map_err(spawn)?).await.ok();

        let replies = Replies::default();
        let (end_sender, end) = watch::channel(None);
        let (gone_sender, gone) = watch::channel(false);
        let (stall_sender, stalled) = watch::channel(None);
        let (start_sender, started) = oneshot::channel();
        tokio::spawn(listen(
            stdout,
            replies.clone(),
            start_sender,
            stall_sender,
            end_sender,
        ));
        let kill = CancellationToken::new();
        let killed = kill.clone();
        tokio::spawn(async move {
            if killed.run_until_cancelled(child.wait()).await.is_none() {
                child.kill().await.ok();
            }
            tokio::time::timeout(LAST_WORDS, passed_on).await.ok();
            gone_sender.send(true).ok();
        });
        let started = match started.await {
            Ok(Event::Started {
                pid,
                missing_fences,
            }) => Ok((pid, missing_fences)),
            Ok(Event::Failed {
                stage,
                message,
                console,
            }) => Err(VmmError::Failed {
                stage,
                message,
                console,
            }),
            Ok(_) | Err(_) => Err(VmmError::Failed {
                stage: "runner".into(),
                message: "the runner ended before it had started the VM".into(),
                console: Vec::new(),
            }),
        };
        let (engine_pid, missing_fences) = match started {
            Ok(started) => started,
            Err(error) => {
                // Before the error is returned, the runner's messages are shown and its files are removed.
                drop(stdin);
                let mut gone = gone;
                tokio::time::timeout(STOPPING, gone.wait_for(|gone| *gone))
                    .await
                    .ok();
                return Err(error);
            }
        };
        Ok(Self {
            stdin: tokio::sync::Mutex::new(Some(stdin)),
            replies,
            next_id: AtomicU64::new(1),
            end,
            gone,
            stalled,
            because: OnceLock::new(),
            kill,
            runner_pid,
            engine_pid,
            missing_fences,
        })
    }

    /// Sends the runner a request. Quick ones have a deadline.
    pub async fn request(&self, action: Action) -> Result<Answer, VmmError> {
        let answer = match &action {
            // The runner bounds the engine's part of a freeze; the host's disk may take any time.
            Action::FreezeDisk { .. } | Action::MergeDisk { .. } => return self.send(action).await,
            Action::Console { .. }
            | Action::Protect { .. }
            | Action::TakeChanges
            | Action::Pause
            | Action::Resume
            | Action::Stop => self.send(action),
        };
        tokio::time::timeout(ANSWER, answer)
            .await
            .unwrap_or(Err(VmmError::NoAnswer(ANSWER)))
    }

    async fn send(&self, action: Action) -> Result<Answer, VmmError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = line(&VmRequest { id, action });
        let request = request.map_err(|error| VmmError::Refused(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        lock(&self.replies).insert(id, sender);
        if self.end().is_none()
            && let Some(stdin) = self.stdin.lock().await.as_mut()
        {
            // If the write fails, the runner has ended; that drops the reply's sender, and the receiver below reports it.
            stdin.write_all(&request).await.ok();
        } else {
            lock(&self.replies).remove(&id);
        }
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(message)) => Err(VmmError::Refused(message)),
            Err(_) => Err(VmmError::Ended(self.end().unwrap_or_else(unknown_end))),
        }
    }

    /// How the VM ended, if it has.
    pub fn end(&self) -> Option<VmEnd> {
        self.end.borrow().clone().map(|end| self.explained(end))
    }

    fn explained(&self, end: VmEnd) -> VmEnd {
        match self.because.get() {
            Some(reason) => VmEnd {
                reason: reason.clone(),
                ..end
            },
            None => end,
        }
    }

    /// Waits until the VM has ended.
    pub async fn ended(&self) -> VmEnd {
        let mut end = self.end.clone();
        let end = match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(unknown_end),
            Err(_) => unknown_end(),
        };
        self.explained(end)
    }

    /// Waits until the VM has been stalled for [`STALL`] because the host lacks resources; returns the reason.
    pub async fn stalled(&self) -> String {
        let mut stalled = self.stalled.clone();
        loop {
            let Ok(Some(reason)) = stalled.wait_for(Option::is_some).await.map(|r| r.clone())
            else {
                // It has ended.
                return std::future::pending().await;
            };
            let goes_on = stalled.wait_for(Option::is_none);
            if !matches!(tokio::time::timeout(STALL, goes_on).await, Ok(Ok(_))) {
                return reason;
            }
        }
    }

    /// Kills the VM and waits until its files are gone. Idempotent. Depends neither on the guest nor on the engine; the
    /// runner has [`STOPPING`] for it.
    pub async fn stop(&self) {
        let mut gone = self.gone.clone();
        let stop = VmRequest {
            id: 0,
            action: Action::Stop,
        };
        let stopped = async {
            if let Some(mut stdin) = self.stdin.lock().await.take() {
                // Closing the pipe alone would mean that the parent has ended, and the runner would remove more files.
                if let Ok(stop) = line(&stop) {
                    stdin.write_all(&stop).await.ok();
                }
            }
            gone.wait_for(|gone| *gone).await.ok();
        };
        if tokio::time::timeout(STOPPING, stopped).await.is_err() {
            tracing::warn!("the VM's runner did not end in time and is killed");
            self.kill.cancel();
            self.gone.clone().wait_for(|gone| *gone).await.ok();
        }
    }

    /// Like [`Vm::stop`], with the reason that callers are told.
    pub async fn stop_because(&self, reason: String) {
        self.because.set(reason).ok();
        self.stop().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn line<T: serde::Serialize>(message: &T) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Copies the runner's messages for the user to standard error, in the form of this program's own messages. A thread
/// does it, since writing to a terminal can block. The receiver resolves when the messages have ended.
fn pass_on(mut messages: std::io::PipeReader) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut shown = crate::shown::err();
        // If standard error is closed, keep reading: the runner would block on a full pipe.
        if std::io::copy(&mut messages, &mut shown).is_err() {
            std::io::copy(&mut messages, &mut std::io::sink()).ok();
        }
        drop(shown);
        ended.send(()).ok();
    });
    end
}

async fn listen(
    stdout: tokio::process::ChildStdout,
    replies: Replies,
    started: oneshot::Sender<Event>,
    stalled: watch::Sender<Option<String>>,
    end: watch::Sender<Option<VmEnd>>,
) {
    let mut started = Some(started);
    let mut lines = BufReader::new(stdout).lines();
    let mut last = None;
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("runner: {line}");
        match serde_json::from_str(&line) {
            Ok(Event::Reply { id, result }) => {
                if let Some(sender) = lock(&replies).remove(&id) {
                    sender.send(result).ok();
                }
            }
            Ok(Event::Stalled { reason }) => {
                tracing::warn!("the VM is stalled: {reason}");
                stalled.send_replace(Some(reason));
            }
            Ok(Event::Resumed) => {
                tracing::info!("the VM continues");
                stalled.send_replace(None);
            }
            Ok(Event::Exited {
                clean,
                reason,
                console,
            }) => {
                last = Some(VmEnd {
                    clean,
                    reason,
                    console,
                })
            }
            Ok(event) => {
                if let Some(sender) = started.take() {
                    sender.send(event).ok();
                }
            }
            Err(error) => {
                tracing::warn!(%line, %error, "the runner said something else than an event")
            }
        }
    }
    end.send(Some(last.unwrap_or_else(unknown_end))).ok();
    stalled.send_replace(None);
    lock(&replies).clear();
}
