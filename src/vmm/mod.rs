//! Starting a VM, and which engine this host can run.
//!
//! A [`Vm`] is a `snowglobe-runner` process. It is either running or ended; an ended one never runs again,
//! and whoever asks later learns how it ended ([`Vm::end`]). Dropping a [`Vm`] ends it: the runner sees its
//! standard input close, kills the engine and removes the VM's files.
//! What is deliberately absent: any knowledge of images, snapshots or the guest.

pub mod artefacts;
pub mod host;
pub mod initramfs;
mod krun;
mod qemu;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use snowglobe_runner::{Action, Answer, Command, DESCRIPTORS, Engine, Event, VmSpec};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Why a VM could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The runner could not be started.
    #[error("start the runner {path}")]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The runner could not start the VM.
    #[error("start the VM at stage `{stage}`: {message}{}", tail(.console))]
    Failed {
        /// Where it got stuck.
        stage: String,
        /// Why.
        message: String,
        /// The last lines of the console.
        console: Vec<String>,
    },
    /// The VM has ended.
    #[error("reach the VM: it ended ({})", .0.reason)]
    Ended(VmEnd),
    /// The runner refused a command.
    #[error("{0}")]
    Refused(String),
    /// The runner does not answer.
    #[error("get an answer of the VM's runner within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// No engine can run here.
    #[error("find an engine that can run here: {0}")]
    NoEngine(String),
    /// A part of Snowglobe itself is missing.
    #[error(transparent)]
    Artefact(#[from] artefacts::ArtefactError),
}

fn tail(console: &[String]) -> String {
    if console.is_empty() {
        return String::new();
    }
    let last = &console[console.len().saturating_sub(12)..];
    format!("\nlast lines of the console:\n  {}", last.join("\n  "))
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// Whether by itself and in order.
    pub clean: bool,
    /// How, in words.
    pub reason: String,
    /// The last lines of the console.
    pub console: Vec<String>,
}

impl std::fmt::Display for VmEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.reason, tail(&self.console))
    }
}

/// One engine on this host.
pub trait Vmm {
    /// Its name, as in the configuration.
    fn name(&self) -> &'static str;
    /// What the runner is told; an error says what is missing and how to get it.
    fn engine(&self, host: &host::Host) -> Result<Engine, VmmError>;
    /// What it can't do that another engine can.
    fn lacks(&self) -> &'static [Lack];
}

/// What an engine can't do, or not as well, though another can. Nothing here makes a call fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// A snapshot takes as long as copying all that the VM has written.
    LayersWhileRunning,
    /// A file that the host puts in another's place in the workspace may be overlooked for five seconds, not one.
    FreshWorkspace,
    /// To a server run by root, other users' files in the workspace are as closed as to any user.
    OthersFiles,
    /// It works only where the host lets users make namespaces.
    HostsWithoutNamespaces,
    /// It is a program of its own that must be installed.
    NothingToInstall,
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LayersWhileRunning => "a snapshot copies what the VM has written",
            Self::FreshWorkspace => "a file replaced on the host is seen within 5 s",
            Self::OthersFiles => "other users' files in the workspace are closed to root's server",
            Self::HostsWithoutNamespaces => "needs user namespaces",
            Self::NothingToInstall => "needs the package qemu-system-x86",
        })
    }
}

/// What the engine of that kind can't do.
pub fn lacks(engine: &Engine) -> &'static [Lack] {
    match engine {
        Engine::Krun => krun::Krun.lacks(),
        Engine::Qemu { .. } => qemu::Qemu::default().lacks(),
    }
}

/// The engine to run, decided before anything is started: `krun` where hardware virtualization works, else `qemu`.
pub fn choose(config: &crate::config::HostConfig, host: &host::Host) -> Result<Engine, VmmError> {
    use crate::config::{AccelChoice, EngineChoice};
    let qemu = qemu::Qemu {
        binary: config.qemu.clone(),
        accel: config.accel,
    };
    match config.engine {
        EngineChoice::Krun => krun::Krun.engine(host),
        EngineChoice::Qemu => qemu.engine(host),
        // Who says what qemu is to run on means qemu.
        EngineChoice::Auto if config.accel != AccelChoice::Auto => qemu.engine(host),
        EngineChoice::Auto => krun::Krun.engine(host).or_else(|_| qemu.engine(host)),
    }
}

type Replies = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>>;

/// How long the runner may take to say something that it knows.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it may take to end a VM and remove its files before it is killed, which ends the VM, too.
const STOPPING: Duration = Duration::from_secs(10);

/// How long a VM may stand still for want of room before those who wait for it are told.
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
    /// Why it was ended, where that is known here only.
    because: OnceLock<String>,
    kill: CancellationToken,
    /// The runner's process id.
    pub runner_pid: u32,
    /// The engine's process id.
    pub engine_pid: u32,
    /// Which fences around its processes do not hold, and why.
    pub lacks: Vec<String>,
}

impl Vm {
    /// Starts the VM; returns once its engine runs (the guest is still booting then). What `opened` holds is handed
    /// on to the runner, where the spec's shares name it by its place in there.
    pub async fn start(
        runner: &Path,
        spec: &VmSpec,
        opened: Vec<OwnedFd>,
    ) -> Result<Self, VmmError> {
        let spawn = |source| VmmError::Spawn {
            path: runner.to_owned(),
            source,
        };
        let mut command = tokio::process::Command::new(runner);
        command
            .arg(format!("{DESCRIPTORS}{}", opened.len()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
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
        // The descriptors are the child's now.
        drop(command);
        let runner_pid = child.id().unwrap_or_default();
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(spawn(std::io::Error::other("its pipes are missing")));
        };
        // A runner that fails at once has said why on its standard output; the broken pipe adds nothing.
        let _ = stdin.write_all(&line(spec)).await;

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
                let _ = child.kill().await;
            }
            let _ = gone_sender.send(true);
        });
        let (engine_pid, lacks) = match started.await {
            Ok(Event::Started { pid, lacks }) => (pid, lacks),
            Ok(Event::Failed {
                stage,
                message,
                console,
            }) => {
                return Err(VmmError::Failed {
                    stage,
                    message,
                    console,
                });
            }
            Ok(_) | Err(_) => {
                return Err(VmmError::Failed {
                    stage: "runner".into(),
                    message: "the runner ended before it had started the VM".into(),
                    console: Vec::new(),
                });
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
            lacks,
        })
    }

    /// Has the runner do something. What only takes it a moment has a deadline.
    pub async fn command(&self, action: Action) -> Result<Answer, VmmError> {
        let answer = match &action {
            // The runner bounds what depends on the engine; the host's disk takes the time it takes.
            Action::FreezeDisk { .. } => return self.send(action).await,
            Action::Console { .. } | Action::Pause | Action::Resume | Action::Stop => {
                self.send(action)
            }
        };
        tokio::time::timeout(ANSWER, answer)
            .await
            .unwrap_or(Err(VmmError::NoAnswer(ANSWER)))
    }

    async fn send(&self, action: Action) -> Result<Answer, VmmError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.replies).insert(id, sender);
        if self.end().is_none()
            && let Some(stdin) = self.stdin.lock().await.as_mut()
        {
            // A write that fails means the runner is gone: the reply's sender is dropped, and that is the answer.
            let _ = stdin.write_all(&line(&Command { id, action })).await;
        } else {
            lock(&self.replies).remove(&id);
        }
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(message)) => Err(VmmError::Refused(message)),
            Err(_) => Err(VmmError::Ended(self.end().unwrap_or_else(unknown_end))),
        }
    }

    /// How it ended, if it has.
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

    /// Waits until it has ended.
    pub async fn ended(&self) -> VmEnd {
        let mut end = self.end.clone();
        let end = match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(unknown_end),
            Err(_) => unknown_end(),
        };
        self.explained(end)
    }

    /// Waits until it stands still for want of something of the host's, and has for a moment; gives what that is.
    pub async fn stalled(&self) -> String {
        let mut stalled = self.stalled.clone();
        loop {
            let Ok(Some(reason)) = stalled.wait_for(Option::is_some).await.map(|r| r.clone())
            else {
                // No more is heard of it: it has ended.
                return std::future::pending().await;
            };
            let goes_on = stalled.wait_for(Option::is_none);
            if !matches!(tokio::time::timeout(STALL, goes_on).await, Ok(Ok(_))) {
                return reason;
            }
        }
    }

    /// Kills it and waits until its files are gone. Idempotent. Depends neither on the guest nor on the engine, and on
    /// the runner only for as long as it may take.
    pub async fn stop(&self) {
        let mut gone = self.gone.clone();
        let stopped = async {
            if let Some(mut stdin) = self.stdin.lock().await.take() {
                // Said, not only shown by hanging up: a parent that vanishes leaves more behind than one that stops a VM.
                let _ = stdin
                    .write_all(&line(&Command {
                        id: 0,
                        action: Action::Stop,
                    }))
                    .await;
            }
            let _ = gone.wait_for(|gone| *gone).await;
        };
        if tokio::time::timeout(STOPPING, stopped).await.is_err() {
            tracing::warn!("the VM's runner did not end in time and is killed");
            self.kill.cancel();
            let _ = self.gone.clone().wait_for(|gone| *gone).await;
        }
    }

    /// As [`Vm::stop`]; everybody is told that it ended for this reason.
    pub async fn stop_because(&self, reason: String) {
        let _ = self.because.set(reason);
        self.stop().await;
    }
}

fn unknown_end() -> VmEnd {
    VmEnd {
        clean: false,
        reason: "its runner was killed".into(),
        console: Vec::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn line<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
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
        match serde_json::from_str(&line) {
            Ok(Event::Reply { id, result }) => {
                if let Some(sender) = lock(&replies).remove(&id) {
                    let _ = sender.send(result);
                }
            }
            Ok(Event::Stalled { reason }) => {
                tracing::warn!("the VM stands still: {reason}");
                stalled.send_replace(Some(reason));
            }
            Ok(Event::Resumed) => {
                tracing::info!("the VM goes on");
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
                    let _ = sender.send(event);
                }
            }
            Err(error) => {
                tracing::warn!(%line, %error, "the runner said something else than an event")
            }
        }
    }
    let _ = end.send(Some(last.unwrap_or_else(unknown_end)));
    stalled.send_replace(None);
    lock(&replies).clear();
}
