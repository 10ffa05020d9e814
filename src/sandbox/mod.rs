//! The owner of one VM's state.
//!
//! ```text
//!            first call that needs a guest
//!   Off ───────────────────────────────────▶ Running ──▶ Off      the VM ended by itself; the next call boots anew
//!    ▲ boot failed: an error, still Off        │  ▲
//!    └─────────────────────────────────────────┤  │ restore, reboot: the new VM is up before the old one goes;
//!                                              └──┘ if it doesn't come up, the old one goes on
//!   any ──▶ Stopped      stop(): for good
//! ```
//!
//! Invariants: there is one owner, [`Sandbox`]; nobody else keeps a copy of its state. Whoever changes the VM holds
//! the state's lock for as long as that takes; commands only borrow the machine, so they run side by side, and end
//! when the machine goes. Whoever holds the lock gives it up when the sandbox is stopped, and waits for a guest only so
//! long: a guest that does not answer can be rebooted and stopped as any other ([`turnover`]).
//! A machine that ended between calls is not replaced unseen: the next call is told, the one after that boots.
//! What is deliberately absent: MCP, and anything that prints.

mod ahead;
mod base;
mod command;
mod error;
mod feed;
mod files;
mod git;
mod header;
pub mod instance;
mod jobs;
mod look;
mod machine;
pub mod runtime;
mod session;
mod store;
mod turnover;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use snowglobe_init::wire::{ExecRequest, Report, Request};
use snowglobe_runner::{Action, Answer, DiskFormat};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, WorkspaceMode};
pub use crate::guest::Output;
use crate::guest::{self, Guest, GuestError, unexpected};
use crate::progress::Progress;
use crate::vmm;
use base::make_overlay;
pub use base::{VmUnpacker, image_is_here, image_store};
pub use command::{Exec, Limit};
pub use error::SandboxError;
use instance::Instance;
pub use look::{Console, Name, Names, workspace_stamp};
pub use machine::{Machine, Parts, Plan};
pub use snowglobe_init::wire::{
    Command, Detach, DirEntry, EditReport, EditRequest, ErrorKind, ExecReport, FoundLine,
    JobAction, JobInfo, JobReport, OUTPUT_DIRECTORY, Outcome, PtySize, ReadContent, STOP_GRACE,
    SearchReport, SearchRequest, Status, Stdin, User,
};
pub use store::{Base, Record, Store, StoreError, check_snapshot_name};

/// Where the workspace is in the guest.
pub const WORKSPACE: &str = "/workspace";

/// Output longer than this (bytes, per stream) is kept whole in a guest file.
const SPILL_AFTER: u64 = 10_000;

/// The console's file among a VM's own.
const CONSOLE_LOG: &str = "console.log";

/// How long the end of a VM may lag behind the end of its link.
const END_GRACE: Duration = Duration::from_secs(2);

/// What became of a command.
#[derive(Debug, Clone)]
pub enum Ran {
    /// It ended.
    Ended(ExecEnd),
    /// It goes on as a job.
    Job(JobInfo),
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct ExecEnd {
    /// Each its own outcome.
    pub outcome: Outcome,
    /// How long it ran in the guest.
    pub duration: Duration,
    /// Bytes on standard output, all of them.
    pub stdout_bytes: u64,
    /// Bytes on standard error, all of them.
    pub stderr_bytes: u64,
    /// The guest file with all of a long standard output.
    pub stdout_file: Option<String>,
    /// The guest file with all of a long standard error.
    pub stderr_file: Option<String>,
    /// Whether processes it started still run.
    pub left_running: bool,
    /// Whether something of it did not end when it was told to, and was killed.
    pub killed: bool,
}

impl From<ExecReport> for ExecEnd {
    fn from(report: ExecReport) -> Self {
        Self {
            outcome: report.outcome,
            duration: Duration::from_millis(report.duration_ms),
            stdout_bytes: report.stdout_bytes,
            stderr_bytes: report.stderr_bytes,
            stdout_file: report.stdout_file,
            stderr_file: report.stderr_file,
            left_running: report.left_running,
            killed: report.killed,
        }
    }
}

/// What [`Sandbox::read`] found.
#[derive(Debug, Clone)]
pub struct Read {
    /// The resolved, absolute path.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub content: ReadContent,
    /// The text's lines (without numbers), or what may be an image, or the directory's entries as JSON lines.
    pub data: Bytes,
    /// What a reader should know about it.
    pub notes: Vec<String>,
}

/// What [`Sandbox::write`] did.
#[derive(Debug, Clone)]
pub struct Written {
    /// The resolved, absolute path.
    pub path: String,
    /// How many bytes were written.
    pub bytes: u64,
    /// What a reader should know about it.
    pub notes: Vec<String>,
}

/// A file for [`Sandbox::write`].
#[derive(Debug, Clone)]
pub struct Write {
    /// The path; relative to the workspace.
    pub path: String,
    /// Its new content (or what is added).
    pub content: Bytes,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Add to the end.
    pub append: bool,
    /// Who writes.
    pub user: User,
}

/// One saved snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What it takes on the host's disk beyond the snapshots it builds on, in bytes.
    pub bytes: u64,
    /// When it was saved.
    pub created: jiff::Timestamp,
}

impl From<Record> for Snapshot {
    fn from(record: Record) -> Self {
        Self {
            name: record.name,
            bytes: record.bytes,
            created: record.created,
        }
    }
}

/// A VM with what its disk is made of.
#[derive(Debug)]
struct Live {
    machine: Machine,
    run: store::RunDir,
    base: Base,
    layers: std::sync::Mutex<Vec<String>>,
    /// Set when this VM makes way for another: what its commands then are told.
    replaced: std::sync::OnceLock<&'static str>,
    /// Whether a call was told that this VM ended.
    told: AtomicBool,
    // A disk in use is not to be removed.
    _image: base::ImageHold,
}

enum State {
    Off,
    Running(Arc<Live>),
    Stopped,
}

/// The owner of one VM's state. Boots at the first call that needs a guest.
pub struct Sandbox {
    config: Config,
    store: Store,
    instance: Instance,
    state: Arc<Mutex<State>>,
    stopping: CancellationToken,
    view: look::View,
    ahead: ahead::Ahead,
}

/// Where a new VM's disk starts.
enum From_ {
    Clean,
    Start(String),
    Snapshot(String),
}

impl Sandbox {
    /// A sandbox that is off. Checks what can be checked without booting.
    pub fn new(config: Config) -> Result<Arc<Self>, SandboxError> {
        let store = Store::open(&config.data_dir, &config.name)?;
        Self::with(config, store)
    }

    /// A sandbox of a client's session, which keeps what it saves in the session's own store.
    pub fn of_session(config: &Config, store: Store) -> Result<Arc<Self>, SandboxError> {
        let name = store.name();
        let config = Config {
            name,
            ..config.clone()
        };
        Self::with(config, store)
    }

    fn with(config: Config, store: Store) -> Result<Arc<Self>, SandboxError> {
        store.sweep();
        if let Some(name) = &config.snapshot {
            store.start(name)?;
        }
        let instance = Instance::create(&config)?;
        Ok(Arc::new(Self {
            config,
            store,
            instance,
            state: Arc::new(Mutex::new(State::Off)),
            stopping: CancellationToken::new(),
            view: look::View::default(),
            ahead: ahead::Ahead::default(),
        }))
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its directory of sockets and keys.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The running machine; boots one when there is none.
    async fn live(self: &Arc<Self>, progress: &Progress) -> Result<Arc<Live>, SandboxError> {
        if self.stopping.is_cancelled() {
            return Err(SandboxError::Stopped);
        }
        // A caller that gives up must not take the boot with it that others wait for: so the boot is a task.
        let (sandbox, progress) = (self.clone(), progress.clone());
        let boot = tokio::spawn(async move {
            let mut state = sandbox.state.clone().lock_owned().await;
            match &*state {
                State::Running(live) => match live.machine.vm.end() {
                    None => return Ok(live.clone()),
                    Some(end) if !live.told.load(Ordering::Relaxed) => {
                        let error = sandbox.died(live, &end);
                        *state = State::Off;
                        return Err(error);
                    }
                    Some(_) => *state = State::Off,
                },
                State::Stopped => return Err(SandboxError::Stopped),
                State::Off => {}
            }
            let from = sandbox
                .config
                .snapshot
                .clone()
                .map_or(From_::Clean, From_::Start);
            let live = tokio::select! {
                live = sandbox.boot(from, &progress) => Arc::new(sandbox.view.booted(live)?),
                () = sandbox.stopping.cancelled() => return Err(SandboxError::Stopped),
            };
            *state = State::Running(live.clone());
            Ok(live)
        });
        boot.await.unwrap_or(Err(SandboxError::Stopped))
    }

    async fn boot(&self, from: From_, progress: &Progress) -> Result<Live, SandboxError> {
        let config = &self.config;
        let parts = base::parts(config)?;
        let saved = match &from {
            From_::Clean => None,
            From_::Start(name) => Some(self.store.start(name)?),
            From_::Snapshot(name) => Some(self.store.get(name)?),
        };
        let (base, mut layers, image) = match saved {
            None => {
                let (base, image) = base::of_image(config, progress).await?;
                (base, Vec::new(), image)
            }
            Some(record) => {
                let image = base::hold(config, &record.base)?;
                (record.base, record.layers, image)
            }
        };
        let git_identity = match config.git_identity {
            true => git::identity(&config.workspace).await,
            false => None,
        };
        let run = self.store.new_run()?;
        self.view.booting(run.path.join(CONSOLE_LOG));
        let layer = self.store.new_layer();
        let (under, format) = match layers.last() {
            Some(layer) => (self.store.layer(layer), DiskFormat::Qcow2),
            None => (base.disk.clone(), DiskFormat::Raw),
        };
        let mut backing: Vec<_> = layers.iter().map(|layer| self.store.layer(layer)).collect();
        backing.push(base.disk.clone());
        let size = self.check_layers(&base, &layers)?;
        layers.push(layer.clone());
        run.set_layers(&layers)?;
        let disk = self.store.layer(&layer);
        make_overlay(&under, format, size, &disk).await?;
        let mount = config.workspace_mode == WorkspaceMode::Mount;
        let mut env = base.env.clone();
        env.extend(config.env.clone());
        let plan = Plan {
            name: "snowglobe".into(),
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            disk: disk.clone(),
            format: DiskFormat::Qcow2,
            backing,
            build: false,
            feed: None,
            workspace: mount.then(|| config.workspace.clone()),
            workspace_dir: config.workspace_dir.clone(),
            workspace_path: Some(WORKSPACE.into()),
            nofile: config.nofile,
            disk_bytes: Some(config.disk_bytes),
            env,
            image_user: base.user.clone(),
            workdir: base.workdir.clone().filter(|_| !mount),
            git_identity,
            login_keys: vec![self.instance.login_key.clone()],
            run_dir: run.path.clone(),
            link_socket: self.instance.link_socket(),
            remove: vec![disk],
            remove_if_orphaned: vec![self.instance.dir.clone()],
            timeout: config.boot_timeout,
        };
        let machine = Machine::boot(&parts, plan, progress).await?;
        self.view.fenced(&machine.vm.lacks);
        self.instance.set_keys(&machine.keys)?;
        Ok(Live {
            machine,
            run,
            base,
            layers: std::sync::Mutex::new(layers),
            replaced: std::sync::OnceLock::new(),
            told: AtomicBool::new(false),
            _image: image,
        })
    }

    /// What the call is told that finds the VM ended.
    fn died(&self, live: &Live, end: &vmm::VmEnd) -> SandboxError {
        live.told.store(true, Ordering::Relaxed);
        self.view.died(&end.to_string());
        SandboxError::Died(end.to_string())
    }

    /// What an error of the guest link means for the call it ended.
    async fn explain(&self, live: &Live, error: GuestError) -> SandboxError {
        if !error.is_lost() {
            return error.into();
        }
        let end = tokio::time::timeout(END_GRACE, live.machine.vm.ended()).await;
        if let Some(what) = live.replaced.get() {
            return SandboxError::Replaced(what);
        }
        match end {
            _ if self.stopping.is_cancelled() => SandboxError::Stopped,
            Ok(end) => self.died(live, &end),
            Err(_) if matches!(error, GuestError::Lost) => SandboxError::LinkBroke,
            Err(_) => error.into(),
        }
    }

    async fn ready(
        self: &Arc<Self>,
        progress: &Progress,
    ) -> Result<(Arc<Live>, Arc<Guest>), SandboxError> {
        let live = self.live(progress).await?;
        let guest = self.guest_of(&live).await?;
        Ok((live, guest))
    }

    /// A machine's guest, or why it can't be reached.
    async fn guest_of(&self, live: &Live) -> Result<Arc<Guest>, SandboxError> {
        match live.machine.guest().await {
            Err(SandboxError::Guest(error)) => Err(self.explain(live, error).await),
            Err(SandboxError::Died(_)) => {
                let end = live.machine.vm.ended().await;
                Err(self.died(live, &end))
            }
            other => other,
        }
    }

    /// An answer of the guest's, or why there is none.
    async fn answer<T>(
        &self,
        live: &Live,
        answer: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, SandboxError> {
        tokio::select! {
            answer = answer => match answer {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.explain(live, error).await),
            },
            // It stands still, so nothing will come.
            reason = live.machine.vm.stalled() => Err(SandboxError::Stalled(reason)),
        }
    }

    /// The state's lock, for as long as the sandbox is not being stopped.
    async fn lock(&self) -> Result<OwnedMutexGuard<State>, SandboxError> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(SandboxError::Stopped),
            state = self.state.clone().lock_owned() => Ok(state),
        }
    }

    /// Does something while the state's lock is held, until the sandbox is stopped.
    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, SandboxError>>,
    ) -> Result<T, SandboxError> {
        let done = self.stopping.run_until_cancelled(work).await;
        done.unwrap_or(Err(SandboxError::Stopped))
    }

    /// Boots if need be, and gives the guest.
    pub async fn guest(self: &Arc<Self>, progress: &Progress) -> Result<Arc<Guest>, SandboxError> {
        Ok(self.ready(progress).await?.1)
    }

    /// Runs a command; `output` is called with each piece as it comes. Cancelling ends the command.
    pub async fn exec(
        self: &Arc<Self>,
        exec: Exec,
        output: &mut (dyn FnMut(Output) + Send),
        cancel: &CancellationToken,
        progress: &Progress,
    ) -> Result<Ran, SandboxError> {
        let called = std::time::Instant::now();
        let _changing = self.ahead.changing();
        let live = tokio::select! {
            live = self.live(progress) => live?,
            () = cancel.cancelled() => return Ok(Ran::Ended(never_ran())),
        };
        let input = std::io::Cursor::new(exec.input.clone());
        let request = ExecRequest {
            spill_after: Some(SPILL_AFTER),
            detach: exec
                .detach
                .map(|detach| less_the_wait(detach, called.elapsed())),
            ..exec.request(&self.config)
        };
        let ran = async {
            let guest = self.guest_of(&live).await?;
            let ran = guest.run(request.clone(), input, output, cancel, None);
            self.answer(&live, ran).await
        };
        Ok(
            match guest::within(guest::patience(&request), "exec", ran).await? {
                guest::Ran::Ended(report) => Ran::Ended(report.into()),
                guest::Ran::Job(job) => {
                    self.view.changed();
                    Ran::Job(job)
                }
            },
        )
    }

    /// Asks for what may change a file.
    async fn request(
        self: &Arc<Self>,
        request: &Request,
        input: Bytes,
        progress: &Progress,
    ) -> Result<(Report, Bytes), SandboxError> {
        let _changing = self.ahead.changing();
        self.ask(request, input, progress).await
    }

    async fn ask(
        self: &Arc<Self>,
        request: &Request,
        input: Bytes,
        progress: &Progress,
    ) -> Result<(Report, Bytes), SandboxError> {
        let (live, guest) = self.ready(progress).await?;
        self.answer(&live, gathered(&guest, request, input)).await
    }

    /// Asks the machine that runs, if one does. What goes wrong is left for a call to meet.
    async fn peek(&self, request: &Request) -> Option<(Report, Bytes)> {
        let live = match &*self.state.lock().await {
            State::Running(live) => live.clone(),
            State::Off | State::Stopped => return None,
        };
        let asked = async {
            let guest = live.machine.guest().await.ok()?;
            gathered(&guest, request, Bytes::new()).await.ok()
        };
        tokio::select! {
            answer = asked => answer,
            _ = live.machine.vm.stalled() => None,
        }
    }

    /// How the guest is doing.
    pub async fn status(self: &Arc<Self>, progress: &Progress) -> Result<Status, SandboxError> {
        match self
            .request(&Request::Status, Bytes::new(), progress)
            .await?
        {
            (Report::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected("status", &other).into()),
        }
    }

    /// The process ids of the VM's runner and engine, while it runs.
    pub async fn processes(&self) -> Option<(u32, u32)> {
        match &*self.state.lock().await {
            State::Running(live) => Some((live.machine.vm.runner_pid, live.machine.vm.engine_pid)),
            State::Off | State::Stopped => None,
        }
    }

    /// Freezes the disk as it stands and goes on above it.
    pub async fn snapshot_save(
        self: &Arc<Self>,
        name: &str,
        progress: &Progress,
    ) -> Result<Snapshot, SandboxError> {
        self.store.check_free(name)?;
        let (_, guest) = self.ready(progress).await?;
        let state = self.lock().await?;
        let State::Running(live) = &*state else {
            return Err(SandboxError::Stopped);
        };
        if let Some(newest) = layers(live).last() {
            let limit = self.config.snapshot_bytes;
            self.store.check_size(name, newest, limit)?;
        }
        progress.say("pausing what runs");
        let freezing = async {
            self.answer(live, guest.ask(&Request::Freeze)).await?;
            let switched = self.freeze_disk(live).await;
            // Thawed whatever came of it; a guest that can't be reached thaws by itself.
            if let Err(error) = guest.ask(&Request::Thaw).await {
                tracing::warn!(%error, "the guest did not confirm that it goes on");
            }
            switched
        };
        let frozen = self.unless_stopped(freezing).await?;
        // The VM wrote it: what is wrong with it is better known before something is to stand on it.
        self.check_layers(&live.base, &frozen)?;
        let saved = self.store.save(name, live.base.clone(), frozen)?;
        self.view.changed();
        Ok(saved.into())
    }

    /// Checks that each layer stands on the one before it, and the first on the image's disk; gives that one's size.
    fn check_layers(&self, base: &Base, layers: &[String]) -> Result<u64, SandboxError> {
        let disk = std::fs::metadata(&base.disk).map_err(|source| SandboxError::File {
            operation: "read the size of the image's disk",
            path: base.disk.clone(),
            source,
        })?;
        let size = disk.len();
        let (mut below, mut format) = (base.disk.clone(), DiskFormat::Raw);
        for layer in layers {
            let path = self.store.layer(layer);
            let stands_on = header::Below {
                path: &below,
                format,
                size,
            };
            header::check(&path, stands_on).map_err(|problem| StoreError::Layer {
                path: path.clone(),
                problem,
            })?;
            (below, format) = (path, DiskFormat::Qcow2);
        }
        Ok(size)
    }

    /// Freezes the running VM's disk; gives the layers that are frozen now.
    async fn freeze_disk(&self, live: &Live) -> Result<Vec<String>, SandboxError> {
        let before = layers(live);
        let new = self.store.new_layer();
        let mut all = before.clone();
        all.push(new.clone());
        // Both are held against sweeping until the snapshot's record holds one of them.
        live.run.set_layers(&all)?;
        let layer = self.store.layer(&new);
        let freeze = Action::FreezeDisk {
            layer: layer.clone(),
        };
        let (frozen, now) = match live.machine.vm.command(freeze).await? {
            Answer::Frozen { layer: frozen } if frozen == layer => {
                let mut copied = before.clone();
                copied.pop();
                copied.push(new);
                (copied, before)
            }
            _ => (before, all),
        };
        *live
            .layers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        Ok(frozen)
    }

    /// Goes back to a snapshot. The new VM is up before the old one goes; if it does not come up, nothing changed.
    pub async fn snapshot_restore(
        self: &Arc<Self>,
        name: &str,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        self.store.get(name)?;
        self.replace(
            From_::Snapshot(name.to_owned()),
            "restored to a snapshot",
            progress,
        )
        .await
    }

    /// Deletes a snapshot.
    pub async fn snapshot_delete(&self, name: &str) -> Result<Snapshot, SandboxError> {
        let deleted = self.store.delete(name)?;
        self.view.changed();
        Ok(deleted.into())
    }

    /// Every snapshot, by name.
    pub async fn snapshot_list(&self) -> Result<Vec<Snapshot>, SandboxError> {
        Ok(self.store.list()?.into_iter().map(Into::into).collect())
    }

    /// Goes back to the clean image.
    pub async fn reboot(self: &Arc<Self>, progress: &Progress) -> Result<(), SandboxError> {
        self.replace(From_::Clean, "rebooted", progress).await
    }
}

/// An answer of the guest's with its data.
async fn gathered(
    guest: &Guest,
    request: &Request,
    input: Bytes,
) -> Result<(Report, Bytes), GuestError> {
    let mut data = Vec::new();
    let mut collect = |output| {
        if let Output::Stdout(bytes) = output {
            data.extend_from_slice(&bytes);
        }
    };
    let report = guest.request(request, input, &mut collect).await?;
    Ok((report, data.into()))
}

fn layers(live: &Live) -> Vec<String> {
    live.layers
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

/// Who waits for a command waited for the boot, too.
fn less_the_wait(detach: Detach, waited: Duration) -> Detach {
    match detach {
        Detach::Now => Detach::Now,
        Detach::After(ms) => {
            let left = ms.saturating_sub(waited.as_millis() as u64);
            Detach::After(left.max(ms.min(1000)))
        }
    }
}

fn never_ran() -> ExecEnd {
    ExecEnd {
        outcome: Outcome::Cancelled,
        duration: Duration::ZERO,
        stdout_bytes: 0,
        stderr_bytes: 0,
        stdout_file: None,
        stderr_file: None,
        left_running: false,
        killed: false,
    }
}

/// What this host runs a sandbox with, for those who only want to know.
pub fn engine(config: &Config) -> Result<snowglobe_runner::Engine, vmm::VmmError> {
    vmm::choose(config, &vmm::host::Host::detect(&config.cache_dir))
}
