//! What the bytes of a connection go through: the gate, the counts.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snowglobe_init::streams::{self, End, Reason, Refusal, Source, Stop, Stream, read_piece};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::counts::Connection;
use super::gate::Gate;
use super::wrong::Wrong;

impl From<Wrong> for Stop {
    fn from(wrong: Wrong) -> Self {
        Self::Refused(Refusal::new(Reason::Denied, wrong.to_string()))
    }
}

/// Copies until the connection ends. The rest of the guest's first bytes may take `first`.
pub(super) async fn copy(
    guest: &mut Stream,
    server: &mut TcpStream,
    gate: Gate,
    counts: &Connection,
    first: Duration,
) -> End {
    let down = Down {
        answer: gate.answer(),
        counts,
    };
    let up = Up {
        gate,
        counts,
        first,
        deadline: None,
        ended: false,
    };
    streams::copy(guest, server, up, down).await
}

/// The guest's bytes.
struct Up<'a> {
    gate: Gate,
    counts: &'a Connection,
    first: Duration,
    /// When the bytes that are held must be complete.
    deadline: Option<Instant>,
    ended: bool,
}

impl Source for Up<'_> {
    async fn next<R: AsyncRead + Unpin + Send>(&mut self, guest: &mut R) -> Result<Bytes, Stop> {
        while !self.ended {
            let read = async {
                match self.gate.awaits() {
                    Some(answered) => {
                        answered.wait().await;
                        Ok(None)
                    }
                    None => read_piece(guest).await.map(Some),
                }
            };
            let piece = match self.deadline {
                Some(deadline) => timeout_at(deadline, read).await.map_err(|_| Wrong::Cut)?,
                None => read.await,
            }?;
            if piece.as_ref().is_some_and(BytesMut::is_empty) {
                self.ended = true;
                return Ok(self.gate.end()?);
            }
            self.counts.up(piece.as_ref().map_or(0, BytesMut::len))?;
            let passed = self.gate.pass(piece.unwrap_or_default())?;
            self.deadline = match self.gate.holds() {
                true => self.deadline.or_else(|| Some(Instant::now() + self.first)),
                false => None,
            };
            if !passed.is_empty() {
                return Ok(passed);
            }
        }
        Ok(Bytes::new())
    }
}

/// The server's bytes.
struct Down<'a> {
    answer: Answer,
    counts: &'a Connection,
}

impl Source for Down<'_> {
    async fn next<R: AsyncRead + Unpin + Send>(&mut self, server: &mut R) -> Result<Bytes, Stop> {
        let piece = read_piece(server).await?;
        self.counts.down(piece.len())?;
        self.answer.see(&piece);
        Ok(piece.freeze())
    }
}
