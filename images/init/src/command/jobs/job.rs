//! One job, from a running command to its end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reserved::Reserved;
use crate::command::context::Context;
use crate::command::input::Input;
use crate::command::process::Process;
use crate::command::pump::{DRAIN, Pump};
use crate::command::timer;
use crate::wire::{
    ErrorKind, ExecRequest, JobInfo, JobReport, Outcome, Program, Report, User, WireError, Word,
};

/// How many characters of a job's command are kept.
const COMMAND: usize = 500;

/// A running command that becomes a job.
pub(in crate::command) struct RunningCommand {
    pub(in crate::command) process: Process,
    pub(in crate::command) pumps: Vec<Pump>,
    pub(in crate::command) stdin: Input,
    pub(in crate::command) started: Instant,
    pub(in crate::command) timeout: Option<Duration>,
}

/// How a job ended.
#[derive(Debug, Clone)]
struct End {
    /// An error if the command was never started.
    outcome: Result<Outcome, WireError>,
    duration: Duration,
    left_running: bool,
    killed: bool,
}

/// A job, running or ended.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) reserved: Reserved,
    command: String,
    user: User,
    started: Instant,
    started_ms: u64,
    pub(super) stdin: Input,
    /// Fires when the job has to end.
    pub(super) kill: CancellationToken,
    end: watch::Receiver<Option<End>>,
}

impl Job {
    pub(super) fn runs(&self) -> bool {
        self.end.borrow().is_none()
    }

    pub(super) fn info(&self) -> JobInfo {
        let end = self.end.borrow().clone();
        let (output_bytes, kept_bytes) = self.reserved.log.bytes();
        let duration = end
            .as_ref()
            .map_or_else(|| self.started.elapsed(), |end| end.duration);
        JobInfo {
            id: self.reserved.id.clone(),
            command: self.command.clone(),
            user: self.user,
            started_ms: self.started_ms,
            duration_ms: timer::milliseconds(duration),
            output_bytes,
            kept_bytes,
            output_file: self.reserved.path.to_string_lossy().into_owned(),
            takes_input: end.is_none() && self.stdin.open(),
            left_running: end.as_ref().is_some_and(|end| end.left_running),
            killed: end.as_ref().is_some_and(|end| end.killed),
            outcome: end.and_then(|end| end.outcome.ok()),
        }
    }

    /// The report of an action that sent no output.
    pub(super) fn report(&self) -> Report {
        let job = self.info();
        Report::Job(JobReport {
            offset: job.kept_bytes,
            next_offset: job.kept_bytes,
            job,
        })
    }

    /// Why the command never started, if that is known.
    pub(super) fn start_error(&self) -> Option<WireError> {
        self.end.borrow().clone()?.outcome.err()
    }

    /// Waits for the job's end, at most for this time.
    pub(super) async fn ended(&self, time: Duration) {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some);
        tokio::time::timeout(time, ended).await.ok();
    }
}

/// Makes a job of a running command.
pub(super) fn follow(
    context: &Context,
    reserved: Reserved,
    request: &ExecRequest,
    running: RunningCommand,
) -> Result<Arc<Job>, WireError> {
    if let Err(e) = reserved.log.keep() {
        running.process.kill();
        let path = reserved.path.display();
        return Err(WireError::new(
            ErrorKind::NoSpace,
            format!("start a job: its output can't be kept in {path}: {e}"),
        ));
    }
    let command = match &request.command {
        Program::Shell(line) => line.text().into_owned(),
        Program::Argv(argv) => argv.iter().map(Word::text).collect::<Vec<_>>().join(" "),
        Program::LoginShell => "login shell".into(),
    };
    let (sender, end) = watch::channel(None);
    let kill = context.ending.child_token();
    let (started, ago) = (running.started, running.started.elapsed());
    let RunningCommand {
        process,
        pumps,
        stdin,
        timeout,
        ..
    } = running;
    let since_epoch = (SystemTime::now() - ago).duration_since(UNIX_EPOCH);
    let job = Arc::new(Job {
        reserved,
        command: command.chars().take(COMMAND).collect(),
        user: request.user,
        started,
        started_ms: timer::milliseconds(since_epoch.unwrap_or_default()),
        stdin,
        kill: kill.clone(),
        end,
    });
    tokio::spawn(async move {
        let end = run(process, pumps, started, timeout, kill).await;
        sender.send_replace(Some(end));
    });
    Ok(job)
}

/// Follows a job until it ends.
async fn run(
    mut process: Process,
    mut pumps: Vec<Pump>,
    started: Instant,
    timeout: Option<Duration>,
    kill: CancellationToken,
) -> End {
    let forced = tokio::select! {
        status = &mut process.exit => Err(status.ok()),
        () = timer::after(started, timeout) => Ok(Outcome::TimedOut),
        () = kill.cancelled() => Ok(Outcome::Cancelled),
    };
    let killed = forced.is_ok() && process.stop().await;
    let duration = started.elapsed();
    let deadline = Instant::now() + DRAIN;
    for pump in &mut pumps {
        pump.drain(deadline, !process.populated()).await;
    }
    let outcome = match forced {
        Ok(outcome) => Ok(outcome),
        Err(status) => match process.start_error() {
            Some(error) => Err(error),
            None => Ok(process.outcome(status)),
        },
    };
    End {
        outcome,
        duration,
        left_running: process.populated(),
        killed,
    }
}
