//! A VM's life, in this process's one thread.
//!
//! ```text
//! spec --> starting --> running --> ended
//!    \________\____________________> failed
//! ```
//!
//! It is *starting* until the engine says it is ready; what goes wrong before that ends in `Failed`, what comes after
//! in `Exited`. Either is said once, as the last event, when the engine is reaped and the VM's files are gone.
//! Whatever ends the VM (a command, the parent's end, a signal, the engine's own end, a share's server that broke) is
//! an [`End`] that the loop returns; nothing else stops it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use snowglobe_runner::{
    Action, Answer, Command, Engine as Chosen, Event, Isolation, Share, VmSpec, socket,
};

use crate::confine::calls::Calls;
use crate::confine::cgroup::Cgroup;
use crate::confine::child::in_words;
use crate::confine::missing;
use crate::console::{Lines, Log};
use crate::engine::{Engine, Frozen, Notice, newest_layer};
use crate::engine::{krun, qemu};
use crate::error::StartError;
use crate::removal::{self, Removal};
use crate::share::{STAGE as SHARE_STAGE, Server};
use crate::stall::{Stall, Step};
use crate::talk::{Input, reply, say, warn};
use crate::{check, share};

/// How long an engine may take to be ready: it has to build the machine, not to boot it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How many lines of the console, and of the engine's messages, an ending is told with.
const LAST_LINES: usize = 100;

/// The stage named when a fence is required that does not hold.
const ISOLATION_STAGE: &str = "isolation";

/// How many pieces of a stream are read before others get their turn.
const PIECES: usize = 16;

/// Why the loop ended.
enum End {
    /// Standard input ended.
    Orphaned,
    /// By the command of this number.
    Stopped(u64),
    /// By a signal.
    Signalled,
    /// The engine ended.
    Engine,
    /// Something that the VM can't do without broke.
    Broken(&'static str, String),
}

/// A layer that the engine works on.
struct Freeze {
    id: u64,
    layer: PathBuf,
    until: Option<Instant>,
}

struct Vm {
    engine: Box<dyn Engine>,
    shares: Vec<Server>,
    /// Around all of these; after them, since it goes when they have gone.
    _bounds: Option<Cgroup>,
    console: Lines,
    messages: Lines,
    log: Log,
    started: Option<Instant>,
    /// Which fences do not hold, and why.
    lacks: Vec<String>,
    isolation: Isolation,
    /// The first disk's newest layer.
    top: Option<PathBuf>,
    freeze: Option<Freeze>,
    stall: Stall,
    /// When the engine wants to look at the host's disk again.
    look: Option<Instant>,
}

/// Reads a spec and runs it with what was handed on; returns when all is gone.
pub(crate) fn run(handed_on: Vec<OwnedFd>) -> ExitCode {
    let mut input = Input::default();
    let line = match input.wait_for_line() {
        Ok(Some(line)) => line,
        // Nobody asked for anything.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            return fail(
                &StartError::new("spec", format!("read it: {error}")),
                Vec::new(),
            );
        }
    };
    let spec: VmSpec = match serde_json::from_slice(&line) {
        Ok(spec) => spec,
        Err(error) => return fail(&StartError::new("spec", error.to_string()), Vec::new()),
    };
    // Before there is anything that a signal's default would leave behind.
    let signals = match catch_signals() {
        Ok(signals) => signals,
        Err(error) => {
            return fail(
                &StartError::new("runner", format!("catch signals: {error}")),
                Vec::new(),
            );
        }
    };
    if let Err(error) = check::words(&spec, handed_on.len()).and_then(|()| check::owners(&spec)) {
        // A spec that is wrong may be wrong about what to remove.
        return fail(&error, Vec::new());
    }
    let mut removal = Removal::new(&spec.remove, &spec.remove_if_orphaned);
    let checked = check::files(&spec).and_then(|()| listen(&spec.link_socket));
    let started = checked.and_then(|link| {
        // Not before: another VM's socket is not this one's to remove.
        removal.add(&spec.link_socket);
        Vm::start(&spec, link, &handed_on)
    });
    match started {
        Ok(mut vm) => {
            let end = vm.supervise(&mut input, &signals, &mut removal);
            // A VM that ended by itself while the parent went is an orphan too.
            let orphaned = match end {
                End::Orphaned => true,
                End::Stopped(_) => false,
                End::Signalled | End::Engine | End::Broken(..) => input.is_orphaned(),
            };
            vm.finish(&spec, end, orphaned, &removal)
        }
        Err(error) => {
            removal.carry_out(input.is_orphaned());
            fail(&error, Vec::new())
        }
    }
}

fn fail(error: &StartError, console: Vec<String>) -> ExitCode {
    say(&Event::Failed {
        stage: error.stage.to_owned(),
        message: error.message.clone(),
        console,
    });
    ExitCode::FAILURE
}

/// A stream on which something arrives when this process is told to end.
fn catch_signals() -> io::Result<UnixStream> {
    // A write beyond the bound on an engine's files is to fail, not to kill it; children inherit that.
    // SAFETY: to ignore a signal runs no code of this program's.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// The socket of the guest link. One left behind by a runner that was killed is replaced, one in use is not.
fn listen(path: &Path) -> Result<UnixListener, StartError> {
    let bind = || socket::bind(path);
    let bound = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match socket::connect(path) {
            Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).and_then(|()| bind())
            }
            _ => Err(io::Error::new(
                error.kind(),
                "it is there already; another VM may use it",
            )),
        },
        bound => bound,
    };
    bound.map_err(StartError::io(
        "guest link",
        format!("listen on {}", path.display()),
    ))
}

/// Removes a socket that was only to show that its path can be had.
fn give_up(link: UnixListener, path: &Path) -> Result<(), StartError> {
    drop(link);
    std::fs::remove_file(path).map_err(StartError::io(
        "guest link",
        format!("free {}", path.display()),
    ))
}

/// Puts the VM's processes into a control group, where there can be one.
fn bounds(spec: &VmSpec, processes: &[u32]) -> io::Result<Cgroup> {
    let group = Cgroup::create(spec.memory_mib)?;
    processes.iter().try_for_each(|id| group.add(*id))?;
    Ok(group)
}

/// Starts a server for each share; gives the connections to them.
fn serve(
    shares: &[Share],
    handed_on: &[OwnedFd],
    servers: &mut Vec<Server>,
) -> Result<Vec<UnixStream>, StartError> {
    let start = |spec: &Share| {
        let (server, connection) = share::start(spec, share::directory(spec, handed_on)?)?;
        servers.push(server);
        Ok(connection)
    };
    shares.iter().map(start).collect()
}

impl Vm {
    fn start(spec: &VmSpec, link: UnixListener, handed_on: &[OwnedFd]) -> Result<Self, StartError> {
        let log = Log::create(&spec.console_log).map_err(StartError::io(
            "console",
            format!("make the log {}", spec.console_log.display()),
        ))?;
        let mut shares = Vec::new();
        let engine: Result<Box<dyn Engine>, StartError> = match &spec.engine {
            Chosen::Qemu { binary, accel } => serve(&spec.shares, handed_on, &mut shares)
                .and_then(|connections| qemu::Qemu::start(spec, binary, *accel, link, connections))
                .map(|engine| Box::new(engine) as _),
            // It serves the shares itself, and makes its own socket.
            Chosen::Krun => give_up(link, &spec.link_socket)
                .and_then(|()| krun::Krun::start(spec, handed_on))
                .map(|engine| Box::new(engine) as _),
        };
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                shares.iter_mut().for_each(end_share);
                return Err(error);
            }
        };
        let processes = std::iter::once(engine.process().child.id());
        let processes = processes.chain(shares.iter().map(|share| share.child.id()));
        let processes: Vec<_> = processes.collect();
        let mut lacks = engine.process().missing_fences.clone();
        for lack in shares.iter().flat_map(|share| &share.missing_fences) {
            if !lacks.contains(lack) {
                lacks.push(lack.clone());
            }
        }
        let bounds = bounds(spec, &processes);
        if let Err(why) = &bounds {
            lacks.push(format!("a control group: {why}"));
        }
        // No program is started from here on, and nobody's process is signalled but these.
        if let Err(why) = Calls::of_runner(&processes).enforce() {
            lacks.push(format!("a filter of system calls around the runner: {why}"));
        }
        Ok(Self {
            _bounds: bounds.ok(),
            lacks,
            isolation: spec.isolation,
            engine,
            shares,
            console: Lines::default(),
            messages: Lines::default(),
            log,
            started: None,
            top: newest_layer(spec),
            freeze: None,
            stall: Stall::default(),
            look: Some(Instant::now()),
        })
    }

    /// Does what is to be done, as it comes, until something ends it.
    fn supervise(&mut self, input: &mut Input, signals: &UnixStream, removal: &mut Removal) -> End {
        let begun = Instant::now();
        if let Err(why) = self.require_fences() {
            return End::Broken(ISOLATION_STAGE, why);
        }
        let engine_ended = match self.engine.process().child.pidfd() {
            Ok(fd) => fd,
            Err(error) => return End::Broken("runner", format!("watch the engine: {error}")),
        };
        loop {
            if let Some(late) = self.late(begun) {
                return End::Broken(self.engine.name(), late);
            }
            let limit = self.limit(begun);
            let ready = match self.wait(input, signals, engine_ended.as_fd(), limit) {
                Ok(ready) => ready,
                Err(error) => return End::Broken("runner", format!("wait for events: {error}")),
            };
            self.read_streams();
            if let Err(end) = self.heed_engine(removal) {
                return end;
            }
            if let Err(end) = self.heed_room(removal) {
                return end;
            }
            if ready.engine_ended {
                return End::Engine;
            }
            if let Some(end) = self.heed_shares() {
                return end;
            }
            if ready.signals {
                return End::Signalled;
            }
            if ready.input
                && let Some(end) = self.heed_parent(input)
            {
                return end;
            }
        }
    }

    /// What the engine should have done by now.
    fn late(&self, begun: Instant) -> Option<String> {
        if self.started.is_none() && begun.elapsed() >= START_LIMIT {
            return Some(format!(
                "it was not ready within {} s",
                START_LIMIT.as_secs()
            ));
        }
        let until = self.freeze.as_ref()?.until?;
        (Instant::now() >= until).then(|| "it did not freeze the disk in time".into())
    }

    /// How long nothing is to be done if nothing happens.
    fn limit(&self, begun: Instant) -> Option<Duration> {
        let now = Instant::now();
        let start = self.started.is_none().then_some(begun + START_LIMIT);
        let freeze = self.freeze.as_ref().and_then(|freeze| freeze.until);
        [start, freeze, self.look]
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now))
            .chain(self.stall.left(now))
            .min()
    }

    /// Waits until there is something to do.
    fn wait(
        &self,
        input: &Input,
        signals: &UnixStream,
        engine_ended: BorrowedFd<'_>,
        limit: Option<Duration>,
    ) -> io::Result<Ready> {
        let mut fds = vec![input.as_fd(), signals.as_fd(), engine_ended];
        // When the engine ends its streams do, which would wake this for ever: its end is heard of at once then.
        fds.extend([
            self.engine.process().console(),
            self.engine.process().messages(),
            self.engine.control(),
        ]);
        for share in &self.shares {
            fds.extend([share.ended.as_fd(), share.messages.as_fd()]);
        }
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is = |n: usize| !polled[n].revents().is_empty();
        Ok(Ready {
            input: is(0),
            signals: is(1),
            engine_ended: is(2),
        })
    }

    /// Takes what the guest, the engine and the servers have written; gives how many bytes that was.
    fn read_streams(&mut self) -> usize {
        let (console, log) = (&mut self.console, &mut self.log);
        let mut bytes = read_available(self.engine.process().console(), |bytes| {
            console.feed(bytes);
            // A full disk is no reason to end the VM: the last lines are in memory too.
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

    fn heed_engine(&mut self, removal: &mut Removal) -> Result<(), End> {
        let notices = self
            .engine
            .notices()
            .map_err(|error| End::Broken(self.engine.name(), error.to_string()))?;
        notices
            .into_iter()
            .try_for_each(|notice| self.heed_notice(notice, removal))
    }

    fn heed_notice(&mut self, notice: Notice, removal: &mut Removal) -> Result<(), End> {
        match notice {
            Notice::Stalled(reason) => self.stalled(reason),
            Notice::Full => {
                let why = "its disk layer has grown as far as it may (disk_gib)";
                return Err(End::Broken("disk", why.into()));
            }
            Notice::Refused(why) => return Err(End::Broken(why.stage, why.message)),
            Notice::Ready => {
                // What its processes had to say was said before they served it.
                self.read_streams();
                self.take_lacks();
                self.require_fences()
                    .map_err(|why| End::Broken(ISOLATION_STAGE, why))?;
                self.started = Some(Instant::now());
                say(&Event::Started {
                    pid: self.engine.process().child.id(),
                    lacks: self.lacks.clone(),
                });
            }
            Notice::Frozen(result) => self.frozen(result, removal),
        }
        Ok(())
    }

    fn stalled(&mut self, reason: String) {
        if self.stall.failed(Instant::now()) {
            say(&Event::Stalled { reason });
        }
    }

    /// Looks after a VM for which the host has no room, and lets it go on when that may be of use.
    fn heed_room(&mut self, removal: &mut Removal) -> Result<(), End> {
        let name = self.engine.name();
        let broken = |error: io::Error| End::Broken(name, error.to_string());
        let now = Instant::now();
        if self.look.is_some_and(|at| now >= at) {
            let (notice, again) = self.engine.check_disk().map_err(broken)?;
            self.look = again.map(|after| now + after);
            if let Some(notice) = notice {
                self.heed_notice(notice, removal)?;
            }
        }
        match self.stall.due(now) {
            Step::Wait => {}
            Step::Try => match self.engine.try_resume().map_err(broken)? {
                true => self.stall.tried(now),
                false => self.stall.put_off(now),
            },
            Step::GoesOn => {
                self.stall.over();
                say(&Event::Resumed);
            }
        }
        Ok(())
    }

    /// Takes what processes say that they lack.
    fn take_lacks(&mut self) {
        for line in self.messages.last(usize::MAX) {
            if let Some(lack) = missing::reported(&line)
                && !self.lacks.iter().any(|known| known == lack)
            {
                self.lacks.push(lack.to_owned());
            }
        }
    }

    /// Refuses a VM around which a fence does not hold, where all are required.
    fn require_fences(&self) -> Result<(), String> {
        if self.isolation == Isolation::Best || self.lacks.is_empty() {
            return Ok(());
        }
        Err(format!(
            "isolation is \"require\", and the VM would be without {}; `snowglobe doctor` says what helps, or \
             set isolation = \"best\"",
            self.lacks.join("; without ")
        ))
    }

    /// Forgets the servers that ended because the engine did; one that failed ends the VM.
    fn heed_shares(&mut self) -> Option<End> {
        let mut end = None;
        self.shares
            .retain_mut(|share| match share.child.try_wait() {
                Ok(None) => true,
                Ok(Some(status)) if status.success() => false,
                Ok(Some(status)) => {
                    end = Some(format!(
                        "the server of the share `{}` {}",
                        share.tag,
                        in_words(status)
                    ));
                    false
                }
                Err(error) => {
                    end = Some(format!(
                        "the server of the share `{}` is lost: {error}",
                        share.tag
                    ));
                    false
                }
            });
        end.map(|why| End::Broken(SHARE_STAGE, why))
    }

    fn heed_parent(&mut self, input: &mut Input) -> Option<End> {
        if let Err(error) = input.fill() {
            return Some(End::Broken("runner", format!("read commands: {error}")));
        }
        while let Some(line) = input.line() {
            match serde_json::from_slice(&line) {
                Ok(Command {
                    id,
                    action: Action::Stop,
                }) => return Some(End::Stopped(id)),
                Ok(Command {
                    id,
                    action: Action::Console { lines },
                }) => {
                    reply(
                        id,
                        Ok(Answer::Console {
                            lines: self.console.last(lines),
                        }),
                    );
                }
                Ok(Command {
                    id,
                    action: action @ (Action::Pause | Action::Resume),
                }) => {
                    let signal = match action {
                        Action::Pause => Signal::STOP,
                        _ => Signal::CONT,
                    };
                    let engine = self.engine.process().child.pid();
                    let sent = rustix::process::kill_process(engine, signal);
                    reply(
                        id,
                        sent.map(|()| Answer::Done)
                            .map_err(|error| format!("signal the engine: {error}")),
                    );
                }
                Ok(Command {
                    id,
                    action: Action::FreezeDisk { layer },
                }) => {
                    if let Err(why) = self.begin_freeze(id, &layer) {
                        reply(id, Err(format!("freeze the disk: {why}")));
                    }
                }
                Err(error) => match command_id(&line) {
                    Some(id) => reply(id, Err(format!("understand the command: {error}"))),
                    None => warn(format_args!("a command was not understood: {error}")),
                },
            }
        }
        input.ended().then_some(End::Orphaned)
    }

    fn begin_freeze(&mut self, id: u64, layer: &Path) -> Result<(), String> {
        if self.top.is_none() {
            return Err("the VM has none that it may write".into());
        }
        if self.freeze.is_some() {
            return Err("it is being frozen already".into());
        }
        if self.stall.is() {
            return Err("the VM stands still, because the host can't take what it writes".into());
        }
        if !layer.is_absolute() {
            return Err(format!("{} is not an absolute path", layer.display()));
        }
        match layer.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", layer.display())),
            Ok(_) => return Err(format!("{} exists already", layer.display())),
        }
        self.engine.freeze_disk(layer)?;
        self.freeze = Some(Freeze {
            id,
            layer: layer.to_owned(),
            until: self
                .engine
                .freeze_limit()
                .map(|limit| Instant::now() + limit),
        });
        Ok(())
    }

    fn frozen(&mut self, result: Result<Frozen, String>, removal: &mut Removal) {
        let Some(Freeze { id, layer, .. }) = self.freeze.take() else {
            return;
        };
        let frozen = match (result, &mut self.top) {
            (Err(why), _) => return abandon(id, &layer, &why),
            (Ok(Frozen::Below), Some(top)) => {
                removal.replace(top, &layer);
                std::mem::replace(top, layer)
            }
            (Ok(Frozen::Copy), _) => layer,
            (Ok(Frozen::Below), None) => return,
        };
        // This can take long, and the parent may go meanwhile.
        std::thread::spawn(move || {
            let flushed = flush(&frozen).map_err(|error| {
                format!(
                    "put the frozen layer {} on the host's disk: {error}",
                    frozen.display()
                )
            });
            reply(id, flushed.map(|()| Answer::Frozen { layer: frozen }));
        });
    }

    /// Ends whatever still runs, removes the VM's files, and tells how it ended.
    fn finish(mut self, spec: &VmSpec, end: End, orphaned: bool, removal: &Removal) -> ExitCode {
        if !matches!(end, End::Engine) {
            self.engine.process().child.kill().ok();
        }
        let status = self.engine.process_mut().child.wait();
        // What was written before the end is still in the sockets, and nothing more comes.
        while self.read_streams() > 0 {}
        if self.engine.notices().is_err() {
            warn(format_args!(
                "the engine's last messages are not understood"
            ));
        }
        self.shares.iter_mut().for_each(end_share);
        if let Some(Freeze { id, layer, .. }) = self.freeze.take() {
            abandon(id, &layer, "the VM ended");
        }
        if !orphaned {
            let first = self.top.iter();
            let others = spec
                .disks
                .iter()
                .skip(1)
                .filter(|disk| !disk.read_only)
                .map(|disk| &disk.path);
            for path in first.chain(others).filter(|path| removal.keeps(path)) {
                if let Err(error) = flush(path) {
                    warn(format_args!("failed to flush {}: {error}", path.display()));
                }
            }
        }
        removal.carry_out(orphaned);
        if let End::Stopped(id) = end {
            reply(id, Ok(Answer::Done));
        }
        let messages = self.messages.last(LAST_LINES);
        let end = match (end, messages.last()) {
            // A server that fails says why on its standard error.
            (End::Broken(SHARE_STAGE, why), Some(said)) => {
                End::Broken(SHARE_STAGE, format!("{why}: {said}"))
            }
            (end, _) => end,
        };
        let mut console = self.console.last(LAST_LINES);
        console.extend(messages.iter().cloned());
        if self.started.is_none() {
            let error = match end {
                End::Engine => self.engine.explain(&messages),
                End::Broken(stage, why) => StartError::new(stage, why),
                End::Orphaned | End::Stopped(_) | End::Signalled => StartError::new(
                    "runner",
                    "the runner was told to stop while the VM was starting",
                ),
            };
            return fail(&error, console);
        }
        let (clean, reason) = self.ending(&end, status);
        say(&Event::Exited {
            clean,
            reason,
            console,
        });
        ExitCode::SUCCESS
    }

    fn ending(&self, end: &End, status: io::Result<std::process::ExitStatus>) -> (bool, String) {
        match (end, status) {
            (End::Orphaned, _) => (false, "the program that started the VM is gone".into()),
            (End::Stopped(_), _) => (false, "it was told to stop".into()),
            (End::Signalled, _) => (false, "the runner was told to stop by a signal".into()),
            (End::Broken(_, why), _) => (false, why.clone()),
            (End::Engine, Ok(status)) if status.success() && self.engine.guest_ended_it() => {
                match self.console.panic() {
                    Some(why) => (false, format!("the guest's kernel panicked: {why}")),
                    None => (true, "the guest powered off".into()),
                }
            }
            (End::Engine, Ok(status)) => (
                false,
                format!("{} {}", self.engine.name(), in_words(status)),
            ),
            (End::Engine, Err(error)) => (
                false,
                format!("{} ended, it is unknown how: {error}", self.engine.name()),
            ),
        }
    }
}

/// What [`Vm::wait`] found.
struct Ready {
    input: bool,
    signals: bool,
    engine_ended: bool,
}

/// The number of a command that is not understood otherwise, so that it gets an answer.
fn command_id(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("id")?.as_u64()
}

/// Reads what there is, up to a limit, without waiting; gives how many bytes that was.
fn read_available(fd: BorrowedFd<'_>, mut take: impl FnMut(&[u8])) -> usize {
    let mut piece = [0; 4096];
    let mut bytes = 0;
    for _ in 0..PIECES {
        match rustix::io::read(fd, &mut piece) {
            Ok(n) if n > 0 => {
                take(&piece[..n]);
                bytes += n;
            }
            Err(rustix::io::Errno::INTR) => {}
            // Nothing there, or nothing ever again: the end of whoever wrote is noticed elsewhere.
            Ok(_) | Err(_) => break,
        }
    }
    bytes
}

fn end_share(share: &mut Server) {
    share.child.end();
}

/// Answers an order to freeze that was not carried out, and removes what was made for it.
fn abandon(id: u64, layer: &Path, why: &str) {
    if let Err(error) = removal::remove(layer) {
        warn(format_args!(
            "failed to remove {}: {error}",
            layer.display()
        ));
    }
    reply(
        id,
        Err(format!("freeze the disk with {}: {why}", layer.display())),
    );
}

/// Puts a file, and its directory's entry for it, on the host's disk.
fn flush(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    path.parent()
        .map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}
