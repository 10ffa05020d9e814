//! Input and output of requests whose work runs on a thread of its own.

use std::io::{self, Read};

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf};
use tokio::sync::mpsc;

use super::state::Server;
use crate::link::channel::{SplitChannel, closed};
use crate::reason::plain;
use crate::wire::{ErrorKind, Report, User, WireError};

/// How many pieces of input or output are queued before the sender waits.
const PIECES: usize = 64;

/// Runs work that reads a request's input, on a thread with the user's permissions. Each request has its own thread, so
/// that slow work does not make others wait.
pub(super) async fn with_input(
    server: &Server,
    user: User,
    operation: &str,
    channel: &mut SplitChannel,
    (input, eof): (Bytes, bool),
    work: impl FnOnce(&mut dyn Read) -> Result<Report, WireError> + Send + 'static,
) -> Result<Report, WireError> {
    let thread = server.new_thread(user).map_err(no_thread(operation))?;
    let (sender, pieces) = mpsc::channel(PIECES);
    let mut input = Input {
        pieces,
        current: input,
    };
    let work = thread.run(move || work(&mut input));
    feed(work, sender, &mut channel.reader, eof).await
}

/// Runs work that sends output, on a thread with the user's permissions. `send` returns false once the host takes no
/// more output.
pub(super) async fn with_output(
    server: &Server,
    user: User,
    operation: &str,
    channel: &mut SplitChannel,
    work: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> bool) -> Result<Report, WireError> + Send + 'static,
) -> Result<Report, WireError> {
    let thread = server.new_thread(user).map_err(no_thread(operation))?;
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES);
    let work = thread.run(move || work(&mut |piece| sender.blocking_send(piece).is_ok()));
    tokio::pin!(work);
    let mut report = None;
    loop {
        tokio::select! {
            done = &mut work, if report.is_none() => report = Some(done),
            piece = pieces.recv() => match piece {
                Some(piece) => tokio::select! {
                    sent = channel.writer.data_bytes(piece) => if sent.is_err() { break },
                    () = closed(&mut channel.reader) => break,
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

fn no_thread(operation: &str) -> impl FnOnce(io::Error) -> WireError {
    move |e| {
        WireError::new(
            ErrorKind::Other,
            format!("{operation}: no thread could be made: {}", plain(&e)),
        )
    }
}

/// A channel's data as a blocking reader.
struct Input {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Input {
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

/// Passes the channel's data to the work until it is done. The input ends when the channel closes.
async fn feed<T>(
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
                    let Some(open) = &sender else { continue };
                    tokio::select! {
                        done = &mut work => return done,
                        // Fails when the work has dropped its input, just before it is done.
                        sent = open.send(data) => drop(sent),
                    }
                }
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => sender = None,
                Some(_) => {}
            }
        }
    }
}
