//! A VM's life, in this process's one thread.
//!
//! ```text
//! spec --> starting --> running --> ended
//!    \________\____________________> failed
//! ```
//!
//! The VM is *starting* until the engine reports that it is ready. An error before that ends in `Failed`, one after it in
//! `Exited`. Either is the last event, sent when the engine is reaped and the VM's files are removed. Each reason to end
//! the VM (a command, the parent's end, a signal, the engine's end, a failed server of a share) is an [`End`] that the
//! loop returns; nothing else stops it.
//!
//! `events` handles the engine, the shares and a stalled disk, `requests` the parent, `protect` the rules of the shares,
//! `freeze` the disk, `finish` the end.

mod events;
mod finish;
mod freeze;
pub(crate) mod link;
mod protect;
mod question;
mod requests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use snowglobe_runner::{EngineSpec, Isolation, Share, VmSpec};

use crate::check;
use crate::confine::calls::Calls;
use crate::confine::cgroup::Cgroup;
use crate::console::{Lines, Log, read_available};
use crate::engine::{Engine, krun, newest_layers, qemu};
use crate::error::StartError;
use crate::removal::Removal;
use crate::share::{self, Server, Socket};
use crate::stall::Stall;
use crate::talk::{Input, failed};

use self::link::Sockets;
use self::question::Question;

/// The least time limit for an engine to be ready. It builds the machine; krun also boots the guest's kernel as far as the
/// device of the guest link.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The stage of an error about a required fence that does not hold.
const ISOLATION_STAGE: &str = "isolation";

/// Why the loop ended.
enum End {
    /// Standard input ended.
    Orphaned,
    /// The command with this id stopped the VM.
    Stopped(u64),
    /// A signal.
    Signalled,
    /// The engine ended.
    Engine,
    /// A part that the VM needs failed; the stage, and why.
    Failed(&'static str, String),
}

/// A freeze that is in progress.
struct Freeze {
    id: u64,
    disk: usize,
    layer: PathBuf,
    until: Option<Instant>,
}

struct Vm {
    engine: Box<dyn Engine>,
    shares: Vec<Server>,
    /// Dropped after the fields above: the group can be removed only when its processes have ended.
    _control_group: Option<Cgroup>,
    console: Lines,
    messages: Lines,
    log: Log,
    started: Option<Instant>,
    /// The time limit for the engine to be ready.
    start_limit: Duration,
    /// The fences that do not hold, and why.
    missing_fences: Vec<String>,
    isolation: Isolation,
    /// The newest layer of each disk that the guest may write.
    tops: Vec<Option<PathBuf>>,
    freeze: Option<Freeze>,
    /// The request whose merge of layers is in progress.
    merge: Option<u64>,
    /// The questions that the shares have not all answered.
    questions: Vec<Question>,
    stall: Stall,
    /// The time of the next check of the host's disk.
    next_check: Option<Instant>,
}

/// Reads a spec and runs its VM, with descriptors that the parent passed on; returns when all processes have ended.
pub(crate) fn run(passed: Vec<OwnedFd>) -> ExitCode {
    let mut input = Input::default();
    let line = match input.wait_for_line() {
        Ok(Some(line)) => line,
        // The parent ended without a spec.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            return failed(
                &StartError::new("spec", format!("read it: {error}")),
                Vec::new(),
            );
        }
    };
    let spec: VmSpec = match serde_json::from_slice(&line) {
        Ok(spec) => spec,
        Err(error) => return failed(&StartError::new("spec", error.to_string()), Vec::new()),
    };
    // First: the default of a signal would leave files and processes behind.
    let signals = match catch_signals() {
        Ok(signals) => signals,
        Err(error) => {
            return failed(
                &StartError::new("runner", format!("catch signals: {error}")),
                Vec::new(),
            );
        }
    };
    if let Err(error) = check::words(&spec, passed.len()).and_then(|()| check::owners(&spec)) {
        // Remove nothing: a wrong spec may name wrong paths to remove.
        return failed(&error, Vec::new());
    }
    let mut removal = Removal::new(&spec.remove, &spec.remove_if_orphaned);
    let checked = check::files(&spec).and_then(|()| Sockets::listen(&spec, &mut removal));
    let started = checked.and_then(|sockets| Vm::start(&spec, sockets, &passed));
    match started {
        Ok(mut vm) => {
            let end = vm.supervise(&mut input, &signals, &mut removal);
            // The parent may have ended at the same time.
            let orphaned = match end {
                End::Orphaned => true,
                End::Stopped(_) => false,
                End::Signalled | End::Engine | End::Failed(..) => input.is_orphaned(),
            };
            vm.finish(end, orphaned, &removal)
        }
        Err(error) => {
            removal.carry_out(input.is_orphaned());
            failed(&error, Vec::new())
        }
    }
}

/// A stream that becomes readable when a signal asks this process to end.
fn catch_signals() -> io::Result<UnixStream> {
    // A write beyond a file's bound shall fail and not kill the engine; children inherit that.
    // SAFETY: an ignored signal runs no code of this program.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// Moves the VM's processes into a new control group.
fn control_group(spec: &VmSpec, processes: &[u32]) -> io::Result<Cgroup> {
    let group = Cgroup::create(spec.memory_mib)?;
    processes.iter().try_for_each(|id| group.add(*id))?;
    Ok(group)
}

/// Starts a server for each share; gives their sockets.
fn serve(
    shares: &[Share],
    passed: &[OwnedFd],
    servers: &mut Vec<Server>,
) -> Result<Vec<Socket>, StartError> {
    let start = |spec: &Share| {
        let (server, socket) = share::start(spec, share::directory(spec, passed)?)?;
        servers.push(server);
        Ok(socket)
    };
    shares.iter().map(start).collect()
}

impl Vm {
    fn start(spec: &VmSpec, sockets: Sockets, passed: &[OwnedFd]) -> Result<Self, StartError> {
        let log = Log::create(&spec.console_log).map_err(StartError::io(
            "console",
            format!("make the log {}", spec.console_log.display()),
        ))?;
        let mut shares = Vec::new();
        let served = serve(&spec.shares, passed, &mut shares);
        let engine: Result<Box<dyn Engine>, StartError> =
            served.and_then(|served| match &spec.engine {
                EngineSpec::Qemu { binary, accel } => {
                    let engine = qemu::Qemu::start(spec, binary, *accel, sockets, &served)?;
                    Ok(Box::new(engine) as _)
                }
                // libkrun makes the sockets of the guest link itself.
                EngineSpec::Krun => {
                    sockets.free(spec)?;
                    Ok(Box::new(krun::Krun::start(spec, served)?) as _)
                }
            });
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                shares.iter_mut().for_each(|share| share.child.end());
                return Err(error);
            }
        };
        let processes = std::iter::once(engine.process().child.id());
        let processes = processes.chain(shares.iter().map(|share| share.child.id()));
        let processes: Vec<_> = processes.collect();
        let mut missing_fences = engine.process().missing_fences.clone();
        for fence in shares.iter().flat_map(|share| &share.missing_fences) {
            if !missing_fences.contains(fence) {
                missing_fences.push(fence.clone());
            }
        }
        let group = control_group(spec, &processes);
        if let Err(why) = &group {
            missing_fences.push(format!("a control group: {why}"));
        }
        // From here on the runner starts no program and signals no other process.
        if let Err(why) = Calls::of_runner(&processes).enforce() {
            missing_fences.push(format!("a filter of system calls around the runner: {why}"));
        }
        Ok(Self {
            _control_group: group.ok(),
            missing_fences,
            isolation: spec.isolation,
            engine,
            shares,
            console: Lines::default(),
            messages: Lines::default(),
            log,
            started: None,
            start_limit: START_LIMIT.max(Duration::from_secs(spec.boot_timeout_s)),
            tops: newest_layers(spec),
            freeze: None,
            merge: None,
            questions: Vec::new(),
            stall: Stall::default(),
            next_check: Some(Instant::now()),
        })
    }

    /// Handles events until one ends the VM.
    fn supervise(&mut self, input: &mut Input, signals: &UnixStream, removal: &mut Removal) -> End {
        let begun = Instant::now();
        if let Err(why) = self.require_fences() {
            return End::Failed(ISOLATION_STAGE, why);
        }
        let engine_ended = match self.engine.process().child.pidfd() {
            Ok(fd) => fd,
            Err(error) => return End::Failed("runner", format!("watch the engine: {error}")),
        };
        loop {
            if let Some(why) = self.overdue(begun) {
                return End::Failed(self.engine.name(), why);
            }
            let limit = self.until_deadline(begun);
            let ready = match self.wait(input, signals, engine_ended.as_fd(), limit) {
                Ok(ready) => ready,
                Err(error) => return End::Failed("runner", format!("wait for events: {error}")),
            };
            self.read_streams();
            if let Err(end) = self.handle_engine(removal) {
                return end;
            }
            if let Err(end) = self.handle_stall(removal) {
                return end;
            }
            if ready.engine_ended {
                return End::Engine;
            }
            if let Some(end) = self.handle_shares() {
                return end;
            }
            if let Err(end) = self.handle_answers() {
                return end;
            }
            if ready.signals {
                return End::Signalled;
            }
            if ready.input
                && let Some(end) = self.handle_parent(input)
            {
                return end;
            }
        }
    }

    /// The error where the engine has exceeded a time limit.
    fn overdue(&self, begun: Instant) -> Option<String> {
        if self.started.is_none() && begun.elapsed() >= self.start_limit {
            return Some(format!(
                "it was not ready within {} s; a higher boot_timeout_s allows more",
                self.start_limit.as_secs()
            ));
        }
        let until = self.freeze.as_ref()?.until?;
        (Instant::now() >= until).then(|| "it did not freeze the disk in time".into())
    }

    /// The time until the next deadline.
    fn until_deadline(&self, begun: Instant) -> Option<Duration> {
        let now = Instant::now();
        let start = self.started.is_none().then_some(begun + self.start_limit);
        let freeze = self.freeze.as_ref().and_then(|freeze| freeze.until);
        [start, freeze, self.next_check]
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now))
            .chain(self.stall.left(now))
            .min()
    }

    /// Waits for an event or the deadline.
    fn wait(
        &self,
        input: &Input,
        signals: &UnixStream,
        engine_ended: BorrowedFd<'_>,
        limit: Option<Duration>,
    ) -> io::Result<Ready> {
        let mut fds = vec![input.as_fd(), signals.as_fd(), engine_ended];
        // The streams of an engine that has ended are always readable; its end is handled in the same round.
        fds.extend([
            self.engine.process().console(),
            self.engine.process().messages(),
            self.engine.control(),
        ]);
        for share in &self.shares {
            fds.extend([
                share.ended.as_fd(),
                share.messages.as_fd(),
                share.control.as_fd(),
            ]);
        }
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |n: usize| !polled[n].revents().is_empty();
        Ok(Ready {
            input: is_ready(0),
            signals: is_ready(1),
            engine_ended: is_ready(2),
        })
    }

    /// Reads what the guest, the engine and the servers have written; gives the number of bytes.
    fn read_streams(&mut self) -> usize {
        let (console, log) = (&mut self.console, &mut self.log);
        let mut bytes = read_available(self.engine.process().console(), |bytes| {
            console.feed(bytes);
            // An error, such as a full disk, does not end the VM: the last lines are also in memory.
            log.write(bytes).ok();
        });
        bytes += read_available(self.engine.process().messages(), |bytes| {
            self.messages.feed(bytes)
        });
        for share in &self.shares {
            bytes += read_available(share.messages.as_fd(), |bytes| self.messages.feed(bytes));
        }
        bytes
    }
}

/// The events that [`Vm::wait`] found.
struct Ready {
    input: bool,
    signals: bool,
    engine_ended: bool,
}
