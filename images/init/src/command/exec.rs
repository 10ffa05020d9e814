//! Running one command over one channel: its input, its output, its end.
//!
//! There is one timer per command. When it is up, the channel closes or the machine is to go, the command is ended
//! ([`Process::stop`]) and what the pipes still hold is drained. When the command ends by itself, what it left in the
//! background goes on: its output is read on and dropped, so that it does not die of a closed pipe.
//!
//! A command that goes on as a job leaves this module: process, streams and timer become the job's ([`jobs`]).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::command::input::Input;
use crate::command::jobs::{self, Running};
use crate::command::process::{self, Process};
use crate::command::pump::{DRAIN, Pump, Sink};
use crate::command::spill::Spill;
use crate::server::guest::Guest;
use crate::signals;
use crate::wire::{Detach, EXT_STDERR, ExecReport, ExecRequest, Outcome, Report, Stdin, WireError};

/// How long a command that is a job from its start is watched for not having started at all.
const EARLY_END: Duration = Duration::from_millis(300);

/// The channel's two halves.
pub(crate) struct Wire {
    pub(crate) reader: ChannelReadHalf,
    pub(crate) writer: Arc<ChannelWriteHalf<Msg>>,
}

/// Waits until the peer closes the channel, and takes what it still sends off it meanwhile.
///
/// What is sent on a closed channel waits for ever once its window is used up: nobody makes room any more.
pub(crate) async fn closed(reader: &mut ChannelReadHalf) {
    while !matches!(reader.wait().await, Some(ChannelMsg::Close) | None) {}
}

/// Runs the command to its end, or until it goes on as a job. `input` is what came with the request already.
pub(crate) async fn run(
    guest: &Arc<Guest>,
    request: &ExecRequest,
    wire: &mut Wire,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    let job = match request.detach {
        Some(Detach::Now) => Some(guest.jobs.reserve()?),
        // Where no more jobs can be, it simply runs on here.
        Some(Detach::After(_)) => guest.jobs.reserve().ok(),
        None => None,
    };
    let started = Instant::now();
    let mut process = process::start(guest, request)?;
    let spill = |name| {
        request
            .spill_after
            .map(|after| Spill::new(guest.number(), name, after))
    };
    let (gone, detached) = (CancellationToken::new(), CancellationToken::new());
    let sink = |name, ext| Sink {
        writer: wire.writer.clone(),
        ext,
        spill: spill(name),
        log: job.as_ref().map(|job| job.log.clone()),
        closed: gone.clone(),
        detached: detached.clone(),
    };
    if request.detach == Some(Detach::Now) {
        detached.cancel();
    }
    let stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let mut pumps = vec![Pump::start(stdout, sink("stdout", None))];
    if let Some(stderr) = process.stderr.take() {
        pumps.push(Pump::start(stderr, sink("stderr", Some(EXT_STDERR))));
    }
    let mut stdin = Feed {
        input: Input::new(process.stdin.take()),
        stays_open: request.stdin == Stdin::Open,
        complete: false,
    };
    stdin.push(input);
    if eof {
        stdin.end();
    }
    let timers = Timers {
        timeout: request.timeout_ms.map(Duration::from_millis),
        detach: request.detach.filter(|_| job.is_some()),
    };
    let ended = wait(guest, &mut process, wire, &mut stdin, &timers, started).await;
    let killed = match ended {
        End::Exit(_) | End::Detached => false,
        End::TimedOut => stop(&mut process, wire, &gone).await,
        End::Cancelled => {
            gone.cancel();
            process.stop().await
        }
    };
    if let (End::Detached, Some(job)) = (&ended, job) {
        detached.cancel();
        let running = Running {
            process,
            pumps,
            stdin: stdin.input,
            started,
            timeout: timers.timeout,
        };
        return jobs::start(guest, job, request, running, early(request)).await;
    }
    let duration = started.elapsed();
    drop(stdin);
    drain(&mut pumps, wire, &gone, process.all_gone()).await;
    let outcome = match ended {
        End::Exit(status) => match process.start_error() {
            Some(error) => return Err(error),
            None => outcome(&process, status),
        },
        End::TimedOut => Outcome::TimedOut,
        End::Cancelled | End::Detached => Outcome::Cancelled,
    };
    Ok(Report::Exec(ExecReport {
        outcome,
        duration_ms: duration.as_millis() as u64,
        stdout_bytes: pumps[0].bytes(),
        stderr_bytes: pumps.get(1).map_or(0, Pump::bytes),
        stdout_file: pumps[0].file(),
        stderr_file: pumps.get(1).and_then(Pump::file),
        left_running: process.left_running(),
        killed,
    }))
}

/// Ends the command. A peer that goes meanwhile takes no more of its output, but does not hasten its end.
async fn stop(process: &mut Process, wire: &mut Wire, gone: &CancellationToken) -> bool {
    let stopped = process.stop();
    tokio::pin!(stopped);
    tokio::select! {
        killed = &mut stopped => killed,
        () = closed(&mut wire.reader) => {
            gone.cancel();
            stopped.await
        }
    }
}

/// A command's standard input as it comes from the channel.
struct Feed {
    input: Input,
    /// Whether the channel's end of input leaves it open.
    stays_open: bool,
    /// Whether all that the channel brings is there.
    complete: bool,
}

impl Feed {
    fn push(&self, data: Bytes) {
        self.input.push(data);
    }

    fn end(&mut self) {
        self.complete = true;
        if !self.stays_open {
            self.input.end();
        }
    }
}

/// How long to see whether a new job ends at once. One that has been running for a while has started.
fn early(request: &ExecRequest) -> Duration {
    match request.detach {
        Some(Detach::Now) => EARLY_END,
        Some(Detach::After(_)) | None => Duration::ZERO,
    }
}

/// Waits for the rest of the output, and gives it up if the peer is gone.
async fn drain(pumps: &mut [Pump], wire: &mut Wire, gone: &CancellationToken, alone: bool) {
    let deadline = Instant::now() + DRAIN;
    let drained = async {
        for pump in pumps {
            pump.drain(deadline, alone).await;
        }
    };
    tokio::pin!(drained);
    tokio::select! {
        () = &mut drained => {}
        () = closed(&mut wire.reader) => {
            gone.cancel();
            drained.await;
        }
    }
}

enum End {
    Exit(Option<ExitStatus>),
    TimedOut,
    Cancelled,
    Detached,
}

/// What may end a command's stay here besides itself and the channel.
struct Timers {
    timeout: Option<Duration>,
    detach: Option<Detach>,
}

/// Sleeps so long after `started`; for ever if there is no such time.
pub(crate) async fn after(started: Instant, time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep_until((started + time).into()).await,
        None => std::future::pending().await,
    }
}

async fn wait(
    guest: &Guest,
    process: &mut Process,
    wire: &mut Wire,
    stdin: &mut Feed,
    timers: &Timers,
    started: Instant,
) -> End {
    let timer = after(started, timers.timeout);
    let at_once = timers.detach == Some(Detach::Now);
    let detach = after(
        started,
        match timers.detach {
            Some(Detach::Now) => Some(Duration::ZERO),
            Some(Detach::After(time)) => Some(Duration::from_millis(time)),
            None => None,
        },
    );
    tokio::pin!(timer, detach);
    loop {
        tokio::select! {
            // A job from its start is one even if it has ended by now.
            status = &mut process.exit, if !at_once => return End::Exit(status.ok()),
            () = &mut timer => return End::TimedOut,
            // Not before the channel has brought all its input: nothing more comes by it afterwards.
            () = &mut detach, if stdin.complete => return End::Detached,
            () = guest.ending.cancelled() => return End::Cancelled,
            message = wire.reader.wait() => match message {
                Some(ChannelMsg::Data { data }) => stdin.push(data),
                // A terminal has no end: only its user's ^D is one.
                Some(ChannelMsg::Eof) => stdin.end(),
                Some(ChannelMsg::Signal { signal }) => {
                    if let Some(signal) = to_signal(&signal) {
                        process.signal(signal);
                    }
                }
                Some(ChannelMsg::WindowChange { col_width, row_height, .. }) => {
                    process.resize(col_width as u16, row_height as u16);
                }
                Some(ChannelMsg::Close) | None => return End::Cancelled,
                Some(_) => {}
            }
        }
    }
}

/// How a command that ended by itself did.
pub(crate) fn outcome(process: &Process, status: Option<ExitStatus>) -> Outcome {
    let failed = !status.is_some_and(|status| status.success());
    if failed
        && process
            .cgroup
            .as_ref()
            .is_some_and(crate::command::cgroup::Cgroup::out_of_memory)
    {
        return Outcome::OutOfMemory;
    }
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => Outcome::Exited { code: code as u8 },
        Some((None, Some(signal))) => Outcome::Signaled {
            signal: signals::name(signal),
        },
        _ => Outcome::Signaled {
            signal: "KILL".into(),
        },
    }
}

/// The name of a signal as SSH sends it.
pub(crate) fn ssh_name(signal: &russh::Sig) -> &str {
    use russh::Sig;
    match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    }
}

fn to_signal(signal: &russh::Sig) -> Option<Signal> {
    Signal::from_named_raw(signals::number(ssh_name(signal))?)
}
