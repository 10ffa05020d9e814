//! Commands that run in the background: they outlive the call that started them, and the connection.
//!
//! A job is running or ended; an ended one stays listed, with its output, until [`ENDED`] newer ones have ended too.
//! Its output is one file, both streams in the order they came, read by offset: so who reads keeps no state here,
//! and several may. Jobs end with the machine: a reboot or a restored snapshot knows none, and no id ever comes twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use russh::ChannelMsg;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::command::exec::{self, Wire};
use crate::command::input::Input;
use crate::command::process::{LONGEST_KILL, Process};
use crate::command::pump::{DRAIN, Log, Pump};
use crate::server::guest::Guest;
use crate::wire::{
    Command, ErrorKind, ExecRequest, JobAction, JobInfo, JobReport, JobRequest, Outcome, Report,
    STOP_GRACE, User, WireError,
};

/// Where output is kept: on the disk, not in memory.
const DIRECTORY: &str = "/var/tmp/snowglobe-jobs";

/// How much output of a command that may yet become a job is held in memory.
const IN_MEMORY: u64 = 64 << 10;

/// How many jobs may run at once.
const RUNNING: usize = 64;

/// How many ended jobs are remembered.
const ENDED: usize = 64;

/// How much of a job's command is remembered, in characters.
const COMMAND: usize = 500;

/// How much is sent at once.
const PIECE: u64 = 256 << 10;

/// Every job of this boot.
#[derive(Debug)]
pub(crate) struct Jobs {
    tag: u16,
    numbers: AtomicU64,
    table: Mutex<BTreeMap<u64, Arc<Job>>>,
}

/// An id and a log for a command that is or may become a job. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Reserved {
    number: u64,
    id: String,
    path: PathBuf,
    pub(crate) log: Arc<Log>,
}

/// A command on its way into the background.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) pumps: Vec<Pump>,
    pub(crate) stdin: Input,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
}

/// How a job ended.
#[derive(Debug, Clone)]
struct End {
    outcome: Result<Outcome, WireError>,
    duration: Duration,
    left_running: bool,
    killed: bool,
}

#[derive(Debug)]
struct Job {
    reserved: Reserved,
    command: String,
    user: User,
    started: Instant,
    started_ms: u64,
    stdin: Input,
    kill: CancellationToken,
    end: watch::Receiver<Option<End>>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            tag: rand::random(),
            numbers: AtomicU64::new(1),
            table: Mutex::default(),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn error(kind: ErrorKind, message: impl Into<String>) -> WireError {
    WireError {
        kind,
        message: message.into(),
    }
}

impl Jobs {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more.
    pub(crate) fn reserve(&self) -> Result<Reserved, WireError> {
        let running = self.table().values().filter(|job| job.runs()).count();
        if running >= RUNNING {
            return Err(error(
                ErrorKind::NotStarted,
                format!("start a job: {running} jobs run already; end one of them first"),
            ));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let id = format!("job-{:04x}-{number}", self.tag);
        let path = Path::new(DIRECTORY).join(&id);
        Ok(Reserved {
            number,
            log: Arc::new(Log::new(path.clone(), IN_MEMORY)),
            id,
            path,
        })
    }

    /// Every job, the oldest first.
    pub(crate) fn list(&self) -> Vec<JobInfo> {
        self.table().values().map(|job| job.info()).collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, WireError> {
        let table = self.table();
        if let Some(job) = table.values().find(|job| job.reserved.id == id) {
            return Ok(job.clone());
        }
        let mut known: Vec<&str> = table.values().map(|job| job.reserved.id.as_str()).collect();
        // The newest are the likeliest to be meant.
        known.drain(..known.len().saturating_sub(5));
        let known = match known.as_slice() {
            [] => "there are none (a reboot or a restored snapshot ends all jobs)".to_owned(),
            known => format!("the newest are {}", known.join(", ")),
        };
        Err(error(
            ErrorKind::NotFound,
            format!("find the job {id:?}: {known}"),
        ))
    }

    fn add(&self, job: Arc<Job>) {
        let mut table = self.table();
        table.insert(job.reserved.number, job);
        let ended: Vec<u64> = table
            .iter()
            .filter(|(_, job)| !job.runs())
            .map(|(number, _)| *number)
            .collect();
        for number in ended.iter().rev().skip(ENDED) {
            table.remove(number);
        }
    }
}

impl Job {
    fn runs(&self) -> bool {
        self.end.borrow().is_none()
    }

    fn info(&self) -> JobInfo {
        let end = self.end.borrow().clone();
        let (output_bytes, kept_bytes) = self.reserved.log.bytes();
        JobInfo {
            id: self.reserved.id.clone(),
            command: self.command.clone(),
            user: self.user,
            started_ms: self.started_ms,
            duration_ms: end
                .as_ref()
                .map_or_else(|| self.started.elapsed(), |end| end.duration)
                .as_millis() as u64,
            output_bytes,
            kept_bytes,
            output_file: self.reserved.path.to_string_lossy().into_owned(),
            takes_input: end.is_none() && self.stdin.open(),
            left_running: end.as_ref().is_some_and(|end| end.left_running),
            killed: end.as_ref().is_some_and(|end| end.killed),
            outcome: end.and_then(|end| end.outcome.ok()),
        }
    }

    fn report(&self) -> Report {
        let job = self.info();
        Report::Job(JobReport {
            offset: job.kept_bytes,
            next_offset: job.kept_bytes,
            job,
        })
    }

    /// Waits for the end, at most so long.
    async fn ended(&self, time: Duration) {
        let mut end = self.end.clone();
        let _ = tokio::time::timeout(time, end.wait_for(Option::is_some)).await;
    }
}

/// Makes a job of what runs. One that turns out never to have started, within the time `early`, is none.
pub(crate) async fn start(
    guest: &Arc<Guest>,
    reserved: Reserved,
    request: &ExecRequest,
    running: Running,
    early: Duration,
) -> Result<Report, WireError> {
    if let Err(e) = reserved.log.keep() {
        running.process.kill();
        let path = reserved.path.display();
        return Err(error(
            ErrorKind::NoSpace,
            format!("start a job: its output can't be kept in {path}: {e}"),
        ));
    }
    let command = match &request.command {
        Command::Shell(line) => line.clone(),
        Command::Argv(argv) => argv.join(" "),
        Command::LoginShell => "login shell".into(),
    };
    let (sender, end) = watch::channel(None);
    let kill = guest.ending.child_token();
    let (started, ago) = (running.started, running.started.elapsed());
    let Running {
        process,
        pumps,
        stdin,
        timeout,
        ..
    } = running;
    let job = Arc::new(Job {
        reserved,
        command: command.chars().take(COMMAND).collect(),
        user: request.user,
        started,
        started_ms: (SystemTime::now() - ago)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64,
        stdin,
        kill: kill.clone(),
        end,
    });
    guest.jobs.add(job.clone());
    tokio::spawn(async move {
        let _ = sender.send(Some(run(process, pumps, started, timeout, kill).await));
    });
    if !early.is_zero() {
        job.ended(early).await;
    }
    let end = job.end.borrow().clone();
    if let Some(Err(error)) = end.map(|end| end.outcome) {
        guest.jobs.table().remove(&job.reserved.number);
        return Err(error);
    }
    Ok(job.report())
}

/// A job's life.
async fn run(
    mut process: Process,
    mut pumps: Vec<Pump>,
    started: Instant,
    timeout: Option<Duration>,
    kill: CancellationToken,
) -> End {
    let forced = tokio::select! {
        status = &mut process.exit => Err(status.ok()),
        () = exec::after(started, timeout) => Ok(Outcome::TimedOut),
        () = kill.cancelled() => Ok(Outcome::Cancelled),
    };
    let killed = forced.is_ok() && process.stop().await;
    let duration = started.elapsed();
    let deadline = Instant::now() + DRAIN;
    for pump in &mut pumps {
        pump.drain(deadline, process.all_gone()).await;
    }
    let outcome = match forced {
        Ok(outcome) => Ok(outcome),
        Err(status) => match process.start_error() {
            Some(error) => Err(error),
            None => Ok(exec::outcome(&process, status)),
        },
    };
    End {
        outcome,
        duration,
        left_running: process.left_running(),
        killed,
    }
}

/// Does what a request asks of a job.
pub(crate) async fn serve(
    guest: &Guest,
    request: &JobRequest,
    wire: &mut Wire,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    let job = guest.jobs.find(&request.id)?;
    match request.action {
        JobAction::Output { offset, limit } => return output(&job, offset, limit, wire).await,
        JobAction::Wait { timeout_ms } => tokio::select! {
            () = job.ended(Duration::from_millis(timeout_ms)) => {}
            () = exec::closed(&mut wire.reader) => {}
        },
        JobAction::Kill => {
            job.kill.cancel();
            job.ended(STOP_GRACE + LONGEST_KILL + DRAIN).await;
        }
        JobAction::Input { end } => take_input(&job, end, wire, input, eof).await?,
    }
    Ok(job.report())
}

async fn take_input(
    job: &Job,
    end: bool,
    wire: &mut Wire,
    input: Bytes,
    mut eof: bool,
) -> Result<(), WireError> {
    // All of it, or nothing: input that was cut off on its way must not reach the command.
    let mut pieces = vec![input];
    while !eof {
        match wire.reader.wait().await {
            Some(ChannelMsg::Data { data }) => pieces.push(data),
            Some(ChannelMsg::Eof) => eof = true,
            Some(ChannelMsg::Close) | None => {
                return Err(error(
                    ErrorKind::InvalidRequest,
                    "send input to the job: it was cut off, so none of it was sent",
                ));
            }
            Some(_) => {}
        }
    }
    let id = &job.reserved.id;
    if !job.runs() {
        return Err(error(
            ErrorKind::InvalidRequest,
            format!("send input to the job {id}: it has ended"),
        ));
    }
    if !job.stdin.open() {
        return Err(error(
            ErrorKind::InvalidRequest,
            format!(
                "send input to the job {id}: its standard input is closed; start a command that is to get input \
                 later with `background` and `keep_stdin`"
            ),
        ));
    }
    for piece in pieces {
        job.stdin.push(piece);
    }
    if end {
        job.stdin.end();
    }
    Ok(())
}

/// Sends a part of the output.
async fn output(
    job: &Job,
    offset: Option<u64>,
    limit: u64,
    wire: &mut Wire,
) -> Result<Report, WireError> {
    let failed = |e: io::Error| {
        let path = job.reserved.path.display();
        error(
            ErrorKind::Other,
            format!("read the output of {} in {path}: {e}", job.reserved.id),
        )
    };
    // Asked before it is read: what is written meanwhile belongs to the next offset.
    let info = job.info();
    let offset = offset.unwrap_or_else(|| info.kept_bytes.saturating_sub(limit));
    let end = offset.saturating_add(limit).min(info.kept_bytes);
    let file = File::open(&job.reserved.path).map_err(failed)?;
    let mut at = offset;
    while at < end {
        let mut piece = vec![0; PIECE.min(end - at) as usize];
        let read = file.read_at(&mut piece, at).map_err(failed)?;
        if read == 0 {
            break;
        }
        piece.truncate(read);
        at += read as u64;
        tokio::select! {
            _ = wire.writer.data_bytes(piece) => {}
            () = exec::closed(&mut wire.reader) => break,
        }
    }
    Ok(Report::Job(JobReport {
        job: info,
        offset,
        next_offset: at,
    }))
}
