//! Running one command over one channel: its input, its output, its end.
//!
//! There is one timer per command. When it is up, or the channel closes, the whole cgroup is killed and what the
//! pipes still hold is drained. When the command ends by itself, what it left in the background goes on: its
//! output is read on and dropped, so that it does not die of a closed pipe.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::guest::Guest;
use crate::inbox::Inbox;
use crate::process::{self, Process};
use crate::spill::Spill;
use crate::wire::{EXT_STDERR, ExecReport, ExecRequest, Outcome, WireError};

/// How long output may stay silent after the command's end before the rest is somebody else's.
const SILENCE: Duration = Duration::from_millis(100);

/// The same when no process of the command is left: the output then ends by itself, so only a stranger who was handed
/// a pipe can make this matter; a machine that is merely busy must not cost any output.
const SILENCE_ALONE: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a process that was killed.
const LONGEST_KILL: Duration = Duration::from_secs(5);

/// How long output is waited for at most after the command's end, while other processes hold it open.
const DRAIN: Duration = Duration::from_millis(500);

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

/// One output stream on its way.
struct Pump {
    state: Arc<PumpState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct PumpState {
    bytes: AtomicU64,
    sending: AtomicBool,
    discard: AtomicBool,
    file: std::sync::Mutex<Option<String>>,
}

impl Pump {
    fn start(
        mut from: Box<dyn AsyncRead + Send + Unpin>,
        writer: Arc<ChannelWriteHalf<Msg>>,
        ext: Option<u32>,
        mut spill: Option<Spill>,
        closed: CancellationToken,
    ) -> Self {
        let state = Arc::new(PumpState::default());
        let of_task = state.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = match from.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                if of_task.discard.load(Ordering::Acquire) {
                    spill = None;
                    continue;
                }
                of_task.sending.store(true, Ordering::Release);
                of_task.bytes.fetch_add(read as u64, Ordering::AcqRel);
                if let Some(spill) = &mut spill {
                    spill.add(&buffer[..read]);
                    *of_task
                        .file
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = spill.file();
                }
                let data = Bytes::copy_from_slice(&buffer[..read]);
                let sending = async {
                    match ext {
                        None => writer.data_bytes(data).await.is_ok(),
                        Some(ext) => writer.extended_data_bytes(ext, data).await.is_ok(),
                    }
                };
                let sent = tokio::select! {
                    sent = sending => sent,
                    () = closed.cancelled() => false,
                };
                if !sent {
                    of_task.discard.store(true, Ordering::Release);
                }
                of_task.sending.store(false, Ordering::Release);
            }
        });
        Self { state, task }
    }

    /// Waits for the end of the stream, or until it is silent although processes still hold it open.
    async fn drain(&mut self, deadline: Instant, alone: bool) {
        let silence = if alone { SILENCE_ALONE } else { SILENCE };
        let mut before = self.state.bytes.load(Ordering::Acquire);
        loop {
            if tokio::time::timeout(silence, &mut self.task).await.is_ok() {
                return;
            }
            // What was read must be sent, however long the host takes it.
            if self.state.sending.load(Ordering::Acquire) {
                continue;
            }
            let now = self.state.bytes.load(Ordering::Acquire);
            if now == before || (!alone && Instant::now() >= deadline) {
                break;
            }
            before = now;
        }
        self.state.discard.store(true, Ordering::Release);
    }

    fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Acquire)
    }

    fn file(&self) -> Option<String> {
        self.state
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

/// Runs the command to its end. `input` is what came with the request already.
pub(crate) async fn run(
    guest: &Guest,
    request: &ExecRequest,
    wire: &mut Wire,
    input: Bytes,
    eof: bool,
) -> Result<ExecReport, WireError> {
    let started = Instant::now();
    let mut process = process::start(guest, request)?;
    let spill = |name| {
        request
            .spill_after
            .map(|after| Spill::new(guest.number(), name, after))
    };
    let stdout = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
    let gone = CancellationToken::new();
    let mut pumps = vec![Pump::start(
        stdout,
        wire.writer.clone(),
        None,
        spill("stdout"),
        gone.clone(),
    )];
    if let Some(stderr) = process.stderr.take() {
        pumps.push(Pump::start(
            stderr,
            wire.writer.clone(),
            Some(EXT_STDERR),
            spill("stderr"),
            gone.clone(),
        ));
    }
    let stdin = Input::new(process.stdin.take());
    stdin.push(input);
    if eof {
        stdin.end();
    }
    let ended = wait(
        &mut process,
        wire,
        &stdin,
        request.timeout_ms.map(Duration::from_millis),
        started,
    )
    .await;
    let duration = started.elapsed();
    drop(stdin);
    if let End::Cancelled = ended {
        gone.cancel();
    }
    drain(&mut pumps, wire, &gone, process.all_gone()).await;
    let outcome = match ended {
        End::Exit(status) => match process.start_error() {
            Some(error) => return Err(error),
            None => outcome(&process, status),
        },
        End::TimedOut => Outcome::TimedOut,
        End::Cancelled => Outcome::Cancelled,
    };
    Ok(ExecReport {
        outcome,
        duration_ms: duration.as_millis() as u64,
        stdout_bytes: pumps[0].bytes(),
        stderr_bytes: pumps.get(1).map_or(0, Pump::bytes),
        stdout_file: pumps[0].file(),
        stderr_file: pumps.get(1).and_then(Pump::file),
        left_running: process.left_running(),
    })
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
}

/// Standard input: a queue that never holds up its channel, and a task that empties it. Ends when dropped.
struct Input {
    inbox: Arc<Inbox>,
    task: tokio::task::JoinHandle<()>,
}

impl Input {
    fn new(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>) -> Self {
        let inbox = Arc::new(Inbox::new());
        let of_task = inbox.clone();
        let task = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                while let Ok(Some(data)) = of_task.next().await {
                    if stdin.write_all(&data).await.is_err() {
                        break;
                    }
                }
            }
            of_task.discard();
        });
        Self { inbox, task }
    }

    fn push(&self, data: Bytes) {
        if self.inbox.push(data).is_err() {
            // No room on the disk either. Going on without a part of the input would be worse than its end.
            self.inbox.discard();
        }
    }

    fn end(&self) {
        self.inbox.end();
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.inbox.discard();
        self.task.abort();
    }
}

async fn wait(
    process: &mut Process,
    wire: &mut Wire,
    stdin: &Input,
    timeout: Option<Duration>,
    started: Instant,
) -> End {
    let timer = async {
        match timeout {
            Some(timeout) => tokio::time::sleep_until((started + timeout).into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(timer);
    let end = loop {
        tokio::select! {
            status = &mut process.exit => return End::Exit(status.ok()),
            () = &mut timer => break End::TimedOut,
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
                Some(ChannelMsg::Close) | None => break End::Cancelled,
                Some(_) => {}
            }
        }
    };
    process.kill();
    let _ = tokio::time::timeout(LONGEST_KILL, &mut process.exit).await;
    end
}

fn outcome(process: &Process, status: Option<ExitStatus>) -> Outcome {
    let failed = !status.is_some_and(|status| status.success());
    if failed
        && process
            .cgroup
            .as_ref()
            .is_some_and(crate::cgroup::Cgroup::out_of_memory)
    {
        return Outcome::OutOfMemory;
    }
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => Outcome::Exited { code: code as u8 },
        Some((None, Some(signal))) => Outcome::Signaled {
            signal: signal_name(signal),
        },
        _ => Outcome::Signaled {
            signal: "KILL".into(),
        },
    }
}

const SIGNALS: &[(&str, Signal)] = &[
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("SYS", Signal::SYS),
];

fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
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
    let name = ssh_name(signal);
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| *signal)
}
