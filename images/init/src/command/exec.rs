//! Running one command on one channel: its input, its output, its end.
//!
//! There is one timer per command. When it fires, the channel closes or the machine is about to end, the command is
//! ended ([`Process::stop`]) and the pipes are drained. When the command ends by itself, its background processes
//! continue. Their output is read and dropped, since a closed pipe would end them.
//!
//! A command that becomes a job leaves this module: the job takes its process, streams and timer ([`jobs`]).

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::{ChannelMsg, Sig};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::input::Input;
use super::jobs::{self, Jobs, RunningCommand};
use super::process::{self, Process};
use super::pump::{DRAIN, Pump, Sink};
use super::spill::Spill;
use super::timer;
use crate::link::channel::{SplitChannel, closed};
use crate::signals;
use crate::wire::{Detach, EXT_STDERR, ExecReport, ExecRequest, Outcome, Report, Stdin, WireError};

/// How long a job that is one from its start may fail to start, so that its request fails instead.
const EARLY_END: Duration = Duration::from_millis(300);

/// Runs the command to its end, or until it becomes a job. `input` came with the request.
pub(crate) async fn run(
    context: &Context,
    jobs: &Jobs,
    request: &ExecRequest,
    channel: &mut SplitChannel,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    let job = match request.detach {
        Some(Detach::Now) => Some(jobs.reserve()?),
        // Without room for another job, the command stays on its channel.
        Some(Detach::After(_)) => jobs.reserve().ok(),
        None => None,
    };
    let started = Instant::now();
    let mut process = process::start(context, request)?;
    let (gone, detached) = (CancellationToken::new(), CancellationToken::new());
    if request.detach == Some(Detach::Now) {
        detached.cancel();
    }
    let sink = |name, ext| Sink {
        writer: channel.writer.clone(),
        ext,
        spill: request
            .spill_after
            .map(|after| Spill::new(context.number(), name, after)),
        log: job.as_ref().map(|job| job.log.clone()),
        closed: gone.clone(),
        detached: detached.clone(),
    };
    let mut pumps = start_pumps(&mut process, sink);
    let mut stdin = ChannelInput {
        input: Input::new(process.stdin.take()),
        stays_open: request.stdin == Stdin::Open,
        complete: false,
    };
    stdin.push(input);
    if eof {
        stdin.end();
    }
    let timers = Timers {
        started,
        timeout: request.timeout_ms.map(Duration::from_millis),
        detach: request.detach.filter(|_| job.is_some()),
    };
    let ended = wait(context, &mut process, channel, &mut stdin, &timers).await;
    let killed = match ended {
        End::Exit(_) | End::Detached => false,
        End::TimedOut => stop(&mut process, channel, &gone).await,
        End::Cancelled => {
            gone.cancel();
            process.stop().await
        }
    };
    if let (End::Detached, Some(job)) = (&ended, job) {
        detached.cancel();
        let running = RunningCommand {
            process,
            pumps,
            stdin: stdin.input,
            started,
            timeout: timers.timeout,
        };
        return jobs::start(context, jobs, job, request, running, early(request)).await;
    }
    let duration = started.elapsed();
    drop(stdin);
    drain(&mut pumps, channel, &gone, !process.populated()).await;
    Ok(Report::Exec(ExecReport {
        outcome: outcome(&ended, &process)?,
        duration_ms: timer::milliseconds(duration),
        stdout_bytes: pumps[0].bytes(),
        stderr_bytes: pumps.get(1).map_or(0, Pump::bytes),
        stdout_file: pumps[0].file(),
        stderr_file: pumps.get(1).and_then(Pump::file),
        left_running: process.populated(),
        killed,
    }))
}

/// Starts a pump for each output stream. The first one is standard output's.
fn start_pumps(
    process: &mut Process,
    sink: impl Fn(&'static str, Option<u32>) -> Sink,
) -> Vec<Pump> {
    let stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let mut pumps = vec![Pump::start(stdout, sink("stdout", None))];
    if let Some(stderr) = process.stderr.take() {
        pumps.push(Pump::start(stderr, sink("stderr", Some(EXT_STDERR))));
    }
    pumps
}

/// How the command ended; an error if it was never started.
fn outcome(ended: &End, process: &Process) -> Result<Outcome, WireError> {
    match ended {
        End::Exit(status) => match process.start_error() {
            Some(error) => Err(error),
            None => Ok(process.outcome(*status)),
        },
        End::TimedOut => Ok(Outcome::TimedOut),
        End::Cancelled | End::Detached => Ok(Outcome::Cancelled),
    }
}

/// Ends the command. If the peer closes the channel meanwhile, the rest of the output is dropped.
async fn stop(process: &mut Process, channel: &mut SplitChannel, gone: &CancellationToken) -> bool {
    let stopped = process.stop();
    tokio::pin!(stopped);
    tokio::select! {
        killed = &mut stopped => killed,
        () = closed(&mut channel.reader) => {
            gone.cancel();
            stopped.await
        }
    }
}

/// A command's standard input, as it comes from the channel.
struct ChannelInput {
    input: Input,
    /// Whether it stays open after the channel's EOF.
    stays_open: bool,
    /// Whether the channel's EOF has come.
    complete: bool,
}

impl ChannelInput {
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

/// How long a new job is watched for an early end. A command that became a job later has started successfully.
fn early(request: &ExecRequest) -> Duration {
    match request.detach {
        Some(Detach::Now) => EARLY_END,
        Some(Detach::After(_)) | None => Duration::ZERO,
    }
}

/// Waits for the rest of the output, and drops it if the peer closes the channel.
async fn drain(
    pumps: &mut [Pump],
    channel: &mut SplitChannel,
    gone: &CancellationToken,
    alone: bool,
) {
    let deadline = Instant::now() + DRAIN;
    let drained = async {
        for pump in pumps {
            pump.drain(deadline, alone).await;
        }
    };
    tokio::pin!(drained);
    tokio::select! {
        () = &mut drained => {}
        () = closed(&mut channel.reader) => {
            gone.cancel();
            drained.await;
        }
    }
}

/// Why a command left its channel.
enum End {
    Exit(Option<ExitStatus>),
    TimedOut,
    Cancelled,
    Detached,
}

/// The times after which a command leaves its channel.
struct Timers {
    started: Instant,
    timeout: Option<Duration>,
    detach: Option<Detach>,
}

async fn wait(
    context: &Context,
    process: &mut Process,
    channel: &mut SplitChannel,
    stdin: &mut ChannelInput,
    timers: &Timers,
) -> End {
    let timeout = timer::after(timers.started, timers.timeout);
    let at_once = timers.detach == Some(Detach::Now);
    let detach = timer::after(
        timers.started,
        match timers.detach {
            Some(Detach::Now) => Some(Duration::ZERO),
            Some(Detach::After(time)) => Some(Duration::from_millis(time)),
            None => None,
        },
    );
    tokio::pin!(timeout, detach);
    loop {
        tokio::select! {
            // A command that is a job from its start becomes one even if it has ended.
            status = &mut process.exit, if !at_once => return End::Exit(status.ok()),
            () = &mut timeout => return End::TimedOut,
            // Only after the channel's EOF, since a job gets no more input from the channel.
            () = &mut detach, if stdin.complete => return End::Detached,
            () = context.ending.cancelled() => return End::Cancelled,
            message = channel.reader.wait() => match message {
                Some(ChannelMsg::Data { data }) => stdin.push(data),
                // On a terminal this ends nothing: there, the user's ^D is the end of input.
                Some(ChannelMsg::Eof) => stdin.end(),
                Some(ChannelMsg::Signal { signal }) => {
                    if let Some(signal) = to_signal(&signal) {
                        process.signal(signal);
                    }
                }
                Some(ChannelMsg::WindowChange { col_width, row_height, .. }) => {
                    process.resize(dimension(col_width), dimension(row_height));
                }
                Some(ChannelMsg::Close) | None => return End::Cancelled,
                Some(_) => {}
            }
        }
    }
}

/// A terminal's width or height as the kernel takes it.
pub(crate) fn dimension(cells: u32) -> u16 {
    u16::try_from(cells).unwrap_or(u16::MAX)
}

/// The signal that an SSH client asks for.
fn to_signal(signal: &Sig) -> Option<Signal> {
    match signal {
        Sig::ABRT => Some(Signal::ABORT),
        Sig::ALRM => Some(Signal::ALARM),
        Sig::FPE => Some(Signal::FPE),
        Sig::HUP => Some(Signal::HUP),
        Sig::ILL => Some(Signal::ILL),
        Sig::INT => Some(Signal::INT),
        Sig::KILL => Some(Signal::KILL),
        Sig::PIPE => Some(Signal::PIPE),
        Sig::QUIT => Some(Signal::QUIT),
        Sig::SEGV => Some(Signal::SEGV),
        Sig::TERM => Some(Signal::TERM),
        Sig::USR1 => Some(Signal::USR1),
        Sig::Custom(name) => Signal::from_named_raw(signals::number(name)?),
    }
}
