//! The requests of the host: one per channel, with one report each.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use rustix::process::Signal;

use super::state::Server;
use super::status::status;
use super::transfer::{with_input, with_output};
use crate::boot::SECOND_DISK;
use crate::command::{exec, jobs};
use crate::files::{self, edit, search};
use crate::link::channel::{SplitChannel, closed};
use crate::reason::{chain, plain};
use crate::wire::{
    EXT_REPORT, ErrorKind, MAX_FREEZE, MAX_REQUEST, Report, Request, STOP_GRACE, User, WireError,
};
use crate::{layers, system, tree};

/// Serves one channel: reads its request, carries it out, sends the report.
pub(super) async fn serve(server: Arc<Server>, channel: Channel<Msg>) {
    let mut channel = SplitChannel::from(channel);
    let report = match read_request(&mut channel.reader).await {
        Ok(Some((request, input, eof))) => {
            perform(&server, request, &mut channel, input, eof).await
        }
        Ok(None) => return,
        Err(error) => Err(error),
    };
    server.settling.begin();
    tokio::select! {
        // A peer that is gone needs no report.
        _ = channel.writer.extended_data_bytes(EXT_REPORT, encoded(report)) => {}
        () = closed(&mut channel.reader) => {}
    }
    channel.close().await;
}

/// A report as JSON. If it can't be encoded, an error that says so.
fn encoded(report: Result<Report, WireError>) -> Vec<u8> {
    let report = report.unwrap_or_else(Report::Error);
    let json = serde_json::to_vec(&report).or_else(|e| {
        let error = WireError::new(ErrorKind::Other, format!("encode the report: {e}"));
        serde_json::to_vec(&Report::Error(error))
    });
    // An error can always be encoded. Otherwise the host would see a channel without a report, which it treats as lost.
    json.unwrap_or_default()
}

fn other(what: &str, e: &io::Error) -> WireError {
    WireError::new(ErrorKind::Other, format!("{what}: {}", plain(e)))
}

/// The request, the part of its input that came with it, and whether the input is complete. `None` if the channel
/// closed.
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
                return Err(WireError::invalid(format!(
                    "take the request: it is {length} bytes long; expected {MAX_REQUEST} at most"
                )));
            }
            if head.len() >= 4 + length {
                let body = head.split_to(4 + length);
                let request = serde_json::from_slice(&body[4..])
                    .map_err(|e| WireError::invalid(format!("understand the request: {e}")))?;
                return Ok(Some((request, head.freeze(), eof)));
            }
        }
        if eof {
            return Err(WireError::invalid("take the request: it ended early"));
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
    server: &Arc<Server>,
    request: Request,
    channel: &mut SplitChannel,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    match request {
        Request::Exec(request) => {
            exec::run(&server.context, &server.jobs, &request, channel, input, eof).await
        }
        Request::Job(request) => jobs::serve(&server.jobs, &request, channel, input, eof).await,
        Request::Jobs => Ok(Report::Jobs {
            jobs: server.jobs.list(),
        }),
        Request::Read(request) => {
            // The host reads as root, but on behalf of the agent: `~` is the home of `sandbox`.
            let places = server.context.places(User::Sandbox);
            let (user, of_task) = (request.user, server.clone());
            with_output(server, user, "read", channel, move |send| {
                files::read(&places, &of_task.index, &request, send)
            })
            .await
        }
        Request::Search(request) => {
            let places = server.context.places(User::Sandbox);
            with_output(server, request.user, "search", channel, move |send| {
                search::search(&places, &request, send)
            })
            .await
        }
        Request::Edit(request) => {
            let places = server.context.places(request.user);
            let (user, of_task) = (request.user, server.clone());
            with_input(server, user, "edit", channel, (input, eof), move |_| {
                edit::edit(&places, &request, &of_task.edits)
            })
            .await
        }
        Request::Write(request) => {
            let places = server.context.places(request.user);
            let (user, of_task) = (request.user, server.clone());
            with_input(server, user, "write", channel, (input, eof), move |input| {
                files::write(&places, &of_task.edits, &request, input)
            })
            .await
        }
        Request::Tree {
            ignore,
            excludes,
            only,
        } => {
            let root = server.workspace();
            with_output(
                server,
                User::Root,
                "list the workspace",
                channel,
                move |send| match only {
                    Some(paths) => tree::look(&root, &paths, send),
                    None => tree::list(&root, ignore, &excludes, send),
                },
            )
            .await
        }
        Request::Fetch { paths, max_bytes } => {
            let root = server.workspace();
            with_output(server, User::Root, "fetch files", channel, move |send| {
                tree::fetch(&root, &paths, max_bytes, send)
            })
            .await
        }
        Request::Place { changes } => {
            let (root, owner) = (server.workspace(), server.context.account(User::Sandbox));
            let (input, settling) = ((input, eof), server.settling.clone());
            with_input(
                server,
                User::Root,
                "change files",
                channel,
                input,
                move |input| {
                    let placed = tree::place(&root, &owner, &changes, input);
                    // The host notes down what was placed, so it must not be lost with the machine.
                    settling.write();
                    placed
                },
            )
            .await
        }
        Request::ApplyLayer {
            whiteouts,
            offset,
            bytes,
        } => apply_layer(server, whiteouts, offset, bytes).await,
        Request::FinishRoot => finish_root(server).await,
        Request::Freeze => freeze(server).await,
        Request::Thaw => thaw(server).await,
        Request::End => {
            end(server).await;
            let settling = server.settling.clone();
            // What is written later is lost with the machine.
            tokio::task::spawn_blocking(move || settling.write())
                .await
                .ok();
            Ok(Report::Done)
        }
        Request::Renew { clock_ns, entropy } => {
            system::renew(clock_ns, &entropy).map_err(|e| other("set the clock", &e))?;
            Ok(Report::Done)
        }
        Request::Status => Ok(Report::Status(status(server.context.supervisor.count()))),
        Request::PowerOff => {
            system::power_off();
            Ok(Report::Done)
        }
    }
}

async fn apply_layer(
    server: &Server,
    whiteouts: bool,
    offset: u64,
    bytes: u64,
) -> Result<Report, WireError> {
    let root = server
        .build_root
        .clone()
        .ok_or_else(|| WireError::invalid("apply a layer: this guest builds no image"))?;
    let archive = archive(offset, bytes).map_err(|e| other("open the disk with the layers", &e))?;
    let applied =
        tokio::task::spawn_blocking(move || layers::apply(&root, archive, whiteouts)).await;
    let applied = applied
        .map_err(|e| WireError::invalid(format!("apply the layer: {e}")))?
        .map_err(|e| WireError::new(ErrorKind::Other, chain(&e)))?;
    Ok(Report::Layer {
        entries: applied.entries,
        bytes: applied.bytes,
    })
}

/// A layer's archive on the second disk.
fn archive(offset: u64, bytes: u64) -> io::Result<impl Read> {
    let mut disk = std::fs::File::open(SECOND_DISK)?;
    disk.seek(SeekFrom::Start(offset))?;
    Ok(disk.take(bytes))
}

async fn finish_root(server: &Server) -> Result<Report, WireError> {
    let root = server
        .build_root
        .clone()
        .ok_or_else(|| WireError::invalid("finish the root: this guest builds no image"))?;
    let finished = tokio::task::spawn_blocking(move || system::finish_root(&root)).await;
    finished.map_err(|e| WireError::invalid(format!("finish the root: {e}")))??;
    Ok(Report::Done)
}

async fn freeze(server: &Arc<Server>) -> Result<Report, WireError> {
    let number = server.next_freeze();
    let supervisor = server.context.supervisor.clone();
    if let Err(e) = supervisor.freeze(true).await {
        // The first error is the one to report.
        supervisor.freeze(false).await.ok();
        return Err(other("freeze the commands", &e));
    }
    let of_task = server.clone();
    tokio::spawn(async move {
        tokio::time::sleep(MAX_FREEZE).await;
        if of_task.freeze_count() == number
            && let Err(error) = supervisor.freeze(false).await
        {
            tracing::error!(%error, "the commands stay frozen");
        }
    });
    let synced = tokio::task::spawn_blocking(rustix::fs::sync).await;
    synced.map_err(|e| WireError::invalid(format!("write everything to the disk: {e}")))?;
    Ok(Report::Done)
}

async fn thaw(server: &Server) -> Result<Report, WireError> {
    server.next_freeze();
    let thawed = server.context.supervisor.freeze(false).await;
    thawed.map_err(|e| other("unfreeze the commands", &e))?;
    Ok(Report::Done)
}

/// Ends every command, and the processes that ended commands left running.
async fn end(server: &Server) {
    server.context.ending.cancel();
    let supervisor = &server.context.supervisor;
    supervisor.signal_leftovers(Signal::TERM);
    // Commands have their grace, and a little time to be killed after it.
    let deadline = Instant::now() + STOP_GRACE + Duration::from_millis(200);
    while supervisor.populated() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
