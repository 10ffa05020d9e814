//! One stream, as its user reads and writes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{MAX_REQUEST, Refusal};
use super::shared::{SEND, Shared};

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection has ended.
    #[error("open a stream: the connection has ended")]
    Ended,
    /// The request is too long.
    #[error("open a stream: a request of {0} bytes is longer than {MAX_REQUEST}")]
    TooLong(usize),
}

/// A stream. If it is dropped before both directions have ended, the peer sees a reset.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    id: u32,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.dropped(self.id);
    }
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }

    pub(super) fn accept(&self, answer: Bytes) {
        self.shared.accept(self.id, answer);
    }

    /// Ends both directions at once; the peer sees a reset with this reason.
    pub fn reset(&mut self, refusal: Refusal) {
        self.shared.reset(self.id, refusal);
    }

    /// Waits for the peer's answer.
    pub(super) async fn opened(&mut self) -> Result<Bytes, OpenError> {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            let ended = state.ended;
            let Some(entry) = state.entry(self.id) else {
                return Poll::Ready(Err(OpenError::Ended));
            };
            match (&entry.answer, &entry.peer_reset) {
                // An answer counts, also if the stream has ended since: some requests need no more.
                (Some(answer), _) => Poll::Ready(Ok(answer.clone())),
                (None, Some(refusal)) => Poll::Ready(Err(refusal.clone().into())),
                (None, None) if ended => Poll::Ready(Err(OpenError::Ended)),
                (None, None) => {
                    entry.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Tells when the peer is gone, also after its last byte and while others read and write.
    pub fn gone(&self) -> Gone {
        Gone {
            shared: self.shared.clone(),
            id: self.id,
        }
    }
}

/// Tells when the peer of a stream is gone.
#[derive(Debug)]
pub struct Gone {
    shared: Arc<Shared>,
    id: u32,
}

impl Gone {
    /// Waits until the peer has reset the stream, or the connection has ended. Only one task may wait for a stream at a
    /// time, here or to read it.
    pub async fn wait(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            let ended = state.ended;
            match state.entry(self.id) {
                Some(entry) if entry.peer_reset.is_none() && !ended => {
                    entry.reader = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let ended = state.ended;
        let Some(entry) = state.entry(self.id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(refusal) = &entry.peer_reset {
            let error = io::Error::new(io::ErrorKind::ConnectionReset, refusal.clone());
            return Poll::Ready(Err(error));
        }
        let mut taken = 0;
        while let Some(piece) = entry.received.front_mut() {
            let length = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..length]);
            piece.advance(length);
            taken += length;
            if !piece.is_empty() {
                break;
            }
            entry.received.pop_front();
        }
        if taken > 0 {
            self.shared.took(&mut state, self.id, taken);
            return Poll::Ready(Ok(()));
        }
        if entry.peer_finished || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        entry.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let ended = state.ended;
        let Some(entry) = state.entry(self.id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(refusal) = &entry.peer_reset {
            let error = io::Error::new(io::ErrorKind::ConnectionReset, refusal.clone());
            return Poll::Ready(Err(error));
        }
        if ended || entry.finish {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = data.len().min(SEND - entry.unsent.len());
        if length == 0 && !data.is_empty() {
            entry.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        entry.unsent.extend(&data[..length]);
        self.shared.touch(&mut state, self.id);
        Poll::Ready(Ok(length))
    }

    /// What was written is sent without further ado; nothing is held back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(entry) = state.entry(self.id) {
            entry.finish = true;
        }
        self.shared.touch(&mut state, self.id);
        Poll::Ready(Ok(()))
    }
}
