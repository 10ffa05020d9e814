//! The host's requests about jobs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use russh::ChannelMsg;

use super::Jobs;
use super::job::Job;
use crate::command::process::LONGEST_KILL;
use crate::command::pump::DRAIN;
use crate::link::channel::{SplitChannel, closed};
use crate::wire::{ErrorKind, JobAction, JobReport, JobRequest, Report, STOP_GRACE, WireError};

/// How many bytes are sent at once.
const PIECE: usize = 256 << 10;

/// Carries out one request.
pub(crate) async fn serve(
    jobs: &Jobs,
    request: &JobRequest,
    channel: &mut SplitChannel,
    input: Bytes,
    eof: bool,
) -> Result<Report, WireError> {
    let job = jobs.find(&request.id)?;
    match request.action {
        JobAction::Output { offset, limit } => return output(&job, offset, limit, channel).await,
        JobAction::Wait { timeout_ms } => tokio::select! {
            () = job.ended(Duration::from_millis(timeout_ms)) => {}
            () = closed(&mut channel.reader) => {}
        },
        JobAction::Kill => {
            job.kill.cancel();
            job.ended(STOP_GRACE + LONGEST_KILL + DRAIN).await;
        }
        JobAction::Input { end } => take_input(&job, end, channel, input, eof).await?,
    }
    Ok(job.report())
}

async fn take_input(
    job: &Job,
    end: bool,
    channel: &mut SplitChannel,
    input: Bytes,
    mut eof: bool,
) -> Result<(), WireError> {
    // The command gets all of the input or nothing: no part of a request that was cut off.
    let mut pieces = vec![input];
    while !eof {
        match channel.reader.wait().await {
            Some(ChannelMsg::Data { data }) => pieces.push(data),
            Some(ChannelMsg::Eof) => eof = true,
            Some(ChannelMsg::Close) | None => {
                return Err(WireError::invalid(
                    "send input to the job: it was cut off, so none of it was sent",
                ));
            }
            Some(_) => {}
        }
    }
    let id = &job.reserved.id;
    if !job.runs() {
        return Err(WireError::invalid(format!(
            "send input to the job {id}: it has ended"
        )));
    }
    if !job.stdin.open() {
        return Err(WireError::invalid(format!(
            "send input to the job {id}: its standard input is closed; start a command that is to get input \
             later with `background` and `keep_stdin`"
        )));
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
    channel: &mut SplitChannel,
) -> Result<Report, WireError> {
    let failed = |e: io::Error| {
        let path = job.reserved.path.display();
        WireError::new(
            ErrorKind::Other,
            format!("read the output of {} in {path}: {e}", job.reserved.id),
        )
    };
    // The state before the reading: output that is written meanwhile belongs to the next offset.
    let info = job.info();
    let offset = offset.unwrap_or_else(|| info.kept_bytes.saturating_sub(limit));
    let end = offset.saturating_add(limit).min(info.kept_bytes);
    let file = File::open(&job.reserved.path).map_err(failed)?;
    let mut at = offset;
    while at < end {
        let mut piece = vec![0; usize::try_from(end - at).unwrap_or(PIECE).min(PIECE)];
        let read = file.read_at(&mut piece, at).map_err(failed)?;
        if read == 0 {
            break;
        }
        piece.truncate(read);
        at += read as u64;
        tokio::select! {
            sent = channel.writer.data_bytes(piece) => if sent.is_err() { break },
            () = closed(&mut channel.reader) => break,
        }
    }
    Ok(Report::Job(JobReport {
        job: info,
        offset,
        next_offset: at,
    }))
}
