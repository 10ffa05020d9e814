//! The requests of a controlling connection: one per channel, one report each.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::command::exec::{self, Wire};
use crate::command::jobs;
use crate::files::{self, edit, search};
use crate::server::guest::Guest;
use crate::system::actor::Actor;
use crate::wire::{
    EXT_REPORT, ErrorKind, MAX_FREEZE, MAX_REQUEST, Report, Request, STOP_GRACE, Status, User,
    WireError,
};
use crate::{layers, system};

/// How many pieces of input wait for a slow disk before the link does.
const INPUT_PIECES: usize = 64;

/// Serves one channel: reads its request, does it, reports.
pub(crate) async fn serve(guest: Arc<Guest>, channel: Channel<Msg>) {
    let (reader, writer) = channel.split();
    let mut wire = Wire {
        reader,
        writer: Arc::new(writer),
    };
    let report = match read_request(&mut wire.reader).await {
        Ok(Some((request, input, eof))) => {
            match perform(&guest, request, &mut wire, input, eof).await {
                Ok(report) => report,
                Err(error) => Report::Error(error),
            }
        }
        Ok(None) => return,
        Err(error) => Report::Error(error),
    };
    let json = serde_json::to_vec(&report).unwrap_or_default();
    tokio::select! {
        _ = wire.writer.extended_data_bytes(EXT_REPORT, json) => {}
        () = exec::closed(&mut wire.reader) => {}
    }
    let _ = wire.writer.eof().await;
    let _ = wire.writer.close().await;
}

fn own_thread(guest: &Guest, user: User) -> io::Result<Actor> {
    let credentials = guest
        .account(user)
        .credentials
        .filter(|_| user != User::Root);
    Actor::start(credentials)
}

fn invalid(message: impl Into<String>) -> WireError {
    WireError {
        kind: ErrorKind::InvalidRequest,
        message: message.into(),
    }
}

fn other(what: &str, e: &io::Error) -> WireError {
    WireError {
        kind: ErrorKind::Other,
        message: format!("{what}: {}", crate::command::enter::plain(e)),
    }
}

/// The request, what of its input came with it, and whether that was all. Nothing if the channel closed.
async fn read_request(
    reader: &mut ChannelReadHalf,
) -> Result<Option<(Request, Bytes, bool)>, WireError> {
    let mut head = BytesMut::new();
    let mut eof = false;
    loop {
        if let Some(length) = head
            .first_chunk::<4>()
            .map(|l| u32::from_be_bytes(*l) as usize)
        {
            if length > MAX_REQUEST {
                return Err(invalid(format!(
                    "take the request: it is {length} bytes long; expected {MAX_REQUEST} at most"
                )));
            }
            if head.len() >= 4 + length {
                let body = head.split_to(4 + length);
                let request = serde_json::from_slice(&body[4..])
                    .map_err(|e| invalid(format!("understand the request: {e}")))?;
                return Ok(Some((request, head.freeze(), eof)));
            }
        }
        if eof {
            return Err(invalid("take the request: it ended early"));
        }
        match reader.wait().await {
            Some(ChannelMsg::Data { data }) => head.extend_from_slice(&data),
            Some(ChannelMsg::Eof) => eof = true,
            Some(ChannelMsg::Close) | None => return Ok(None),
            Some(_) => {}
        }
    }
}

async fn perform(
    guest: &Arc<Guest>,
    request: Request,
    wire: &mut Wire,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    match request {
        Request::Exec(request) => exec::run(guest, &request, wire, input, eof).await,
        Request::Job(request) => jobs::serve(guest, &request, wire, input, eof).await,
        Request::Jobs => Ok(Report::Jobs {
            jobs: guest.jobs.list(),
        }),
        Request::Read(request) => {
            // Root reads for the agent, whose home is that of `sandbox`.
            let places = guest.places(User::Sandbox);
            let of_task = guest.clone();
            with_output(guest, request.user, "read", wire, move |send| {
                files::read(&places, &of_task.index, &request, &mut |piece| {
                    send(piece);
                })
            })
            .await
        }
        Request::Search(request) => {
            let places = guest.places(User::Sandbox);
            with_output(guest, request.user, "search", wire, move |send| {
                search::search(&places, &request, send)
            })
            .await
        }
        Request::Edit(request) => {
            let actor = own_thread(guest, request.user)
                .map_err(|e| other("edit: no thread could be made", &e))?;
            let (places, guest) = (guest.places(request.user), guest.clone());
            actor
                .run(move || edit::edit(&places, &request, &guest.edits))
                .await
        }
        Request::Write(request) => {
            // A thread of its own: a slow writer must not hold up everybody's reads.
            let actor = own_thread(guest, request.user)
                .map_err(|e| other("write: no thread could be made", &e))?;
            let (places, guest) = (guest.places(request.user), guest.clone());
            let (sender, mut source) = source(input);
            let work =
                actor.run(move || files::write(&places, &guest.edits, &request, &mut source));
            with_input(work, sender, &mut wire.reader, eof).await
        }
        Request::ApplyLayer {
            whiteouts,
            offset,
            bytes,
        } => {
            let root = guest
                .build_root
                .clone()
                .ok_or_else(|| invalid("apply a layer: this guest builds no image"))?;
            let piece =
                feed(offset, bytes).map_err(|e| other("open the disk with the layers", &e))?;
            let applied =
                tokio::task::spawn_blocking(move || layers::apply(&root, piece, whiteouts)).await;
            let applied = applied.map_err(|e| invalid(format!("apply the layer: {e}")))?;
            let applied = applied.map_err(|e| WireError {
                kind: ErrorKind::Other,
                message: system::chain(&e),
            })?;
            Ok(Report::Layer {
                entries: applied.entries,
                bytes: applied.bytes,
            })
        }
        Request::FinishRoot => {
            let root = guest
                .build_root
                .clone()
                .ok_or_else(|| invalid("finish the root: this guest builds no image"))?;
            let finished = tokio::task::spawn_blocking(move || system::finish_root(&root)).await;
            finished.map_err(|e| invalid(format!("finish the root: {e}")))??;
            Ok(Report::Done)
        }
        Request::Freeze => freeze(guest).await,
        Request::Thaw => thaw(guest).await,
        Request::End => {
            end(guest).await;
            Ok(Report::Done)
        }
        Request::Renew { clock_ns, entropy } => {
            system::renew(clock_ns, &entropy).map_err(|e| other("set the clock", &e))?;
            Ok(Report::Done)
        }
        Request::Status => Ok(Report::Status(status(guest))),
        Request::PowerOff => {
            system::power_off();
            Ok(Report::Done)
        }
    }
}

/// A piece of the disk that layers come on.
fn feed(offset: u64, bytes: u64) -> io::Result<impl Read> {
    use std::io::{Seek, SeekFrom};
    let mut disk = std::fs::File::open(crate::boot::FEED_DEVICE)?;
    disk.seek(SeekFrom::Start(offset))?;
    Ok(disk.take(bytes))
}

/// Work with output, on a thread of its own: what hangs or is large must not hold up everybody's reads. The work is
/// told when nobody takes its output any more.
async fn with_output(
    guest: &Guest,
    user: User,
    operation: &str,
    wire: &mut Wire,
    work: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> bool) -> Result<Report, WireError> + Send + 'static,
) -> Result<Report, WireError> {
    let actor = own_thread(guest, user)
        .map_err(|e| other(&format!("{operation}: no thread could be made"), &e))?;
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(INPUT_PIECES);
    let work = actor.run(move || work(&mut |piece| sender.blocking_send(piece).is_ok()));
    tokio::pin!(work);
    let mut report = None;
    loop {
        tokio::select! {
            done = &mut work, if report.is_none() => report = Some(done),
            piece = pieces.recv() => match piece {
                Some(piece) => tokio::select! {
                    sent = wire.writer.data_bytes(piece) => drop(sent),
                    () = exec::closed(&mut wire.reader) => break,
                },
                None => break,
            }
        }
    }
    drop(pieces);
    match report {
        Some(report) => report,
        None => work.await,
    }
}

async fn freeze(guest: &Arc<Guest>) -> Result<Report, WireError> {
    if let Some(cgroups) = guest.cgroups.clone() {
        let number = guest.next_freeze();
        if let Err(e) = cgroups.freeze(true).await {
            let _ = cgroups.freeze(false).await;
            return Err(other("pause the commands", &e));
        }
        let guest = guest.clone();
        tokio::spawn(async move {
            tokio::time::sleep(MAX_FREEZE).await;
            if guest.freeze_count() == number {
                let _ = cgroups.freeze(false).await;
            }
        });
    }
    let synced = tokio::task::spawn_blocking(rustix::fs::sync).await;
    synced.map_err(|e| invalid(format!("write everything to the disk: {e}")))?;
    Ok(Report::Done)
}

async fn thaw(guest: &Guest) -> Result<Report, WireError> {
    guest.next_freeze();
    if let Some(cgroups) = &guest.cgroups {
        cgroups
            .freeze(false)
            .await
            .map_err(|e| other("let the commands go on", &e))?;
    }
    Ok(Report::Done)
}

/// Ends every command, and what ended ones left running.
async fn end(guest: &Guest) {
    guest.ending.cancel();
    let Some(cgroups) = &guest.cgroups else {
        return;
    };
    cgroups.signal_leftovers(Signal::TERM);
    // Those that are being ended have their grace, and a little to be killed in after it.
    let deadline = Instant::now() + STOP_GRACE + Duration::from_millis(200);
    while cgroups.populated() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn status(guest: &Guest) -> Status {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = memory
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .unwrap_or_default()
            << 10
    };
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime
        .split(' ')
        .next()
        .and_then(|s| s.parse().ok())
        .unwrap_or_default();
    let (used, free) = rustix::fs::statvfs("/")
        .map(|fs| {
            (
                (fs.f_blocks - fs.f_bfree) * fs.f_frsize,
                fs.f_bavail * fs.f_frsize,
            )
        })
        .unwrap_or_default();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        uptime_ms: (uptime * 1000.0) as u64,
        init_started_ms: system::started_ms(),
        memory_bytes: field("MemTotal:"),
        memory_available_bytes: field("MemAvailable:"),
        disk_used_bytes: used,
        disk_free_bytes: free,
        commands: guest
            .cgroups
            .as_ref()
            .map_or(0, crate::command::cgroup::Tree::count),
    }
}

/// Input from a channel as a blocking reader.
struct Source {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

fn source(first: Bytes) -> (mpsc::Sender<Bytes>, Source) {
    let (sender, pieces) = mpsc::channel(INPUT_PIECES);
    (
        sender,
        Source {
            pieces,
            current: first,
        },
    )
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// Feeds a worker from the channel until it is done. A channel that closes ends its input.
async fn with_input<T>(
    work: impl Future<Output = T>,
    sender: mpsc::Sender<Bytes>,
    reader: &mut ChannelReadHalf,
    eof: bool,
) -> T {
    let mut sender = (!eof).then_some(sender);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            message = reader.wait(), if sender.is_some() => match message {
                Some(ChannelMsg::Data { data }) => {
                    if let Some(sender) = &sender {
                        tokio::select! {
                            done = &mut work => return done,
                            _ = sender.send(data) => {}
                        }
                    }
                }
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => sender = None,
                Some(_) => {}
            }
        }
    }
}
