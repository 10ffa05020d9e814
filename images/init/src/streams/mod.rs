//! Many streams over one connection of the host and the guest, beside the guest link.
//!
//! Each stream has a window of its own, so a reader that is slow holds up only its own stream. Either side opens
//! streams with a request, and the other side accepts or refuses it with a reason. A stream ends in each direction by
//! itself, as TCP's do, and a reset stays a reset.
//!
//! On the wire each frame has a head of eight bytes: the stream's number (`u32`, big endian), the [kind](frame::Kind)
//! (`u8`), a zero, the length of the body (`u16`, big endian). The guest opens odd numbers, the host even ones, each
//! in rising order.
//!
//! Neither side trusts the other. What a peer sends beyond its window, beyond the bound on streams or out of order is a
//! [`Violation`], which ends the connection. The window of a stream that carries much grows; at most [`Bounds::streams`]
//! times [`WINDOW`] bytes and [`GROWTH`] wait for readers. The task that reads never waits for the task that writes, so two
//! ends that are both full don't block each other.

mod frame;
mod pump;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use frame::{HEAD, Head};
use shared::Shared;

pub use frame::{
    Bounds, GROWTH, MAX_REQUEST, MAX_WINDOW, Reason, Refusal, Side, Violation, WINDOW,
};
pub use pump::{All, End, Source, Stop, copy, pump, pump_after, read as read_piece};
pub use stream::{Gone, OpenError, Stream};

/// How much is read and written at once, in bytes.
const BUFFER: usize = 64 << 10;

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The peer broke the rules.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The transport failed.
    #[error("use the connection for streams: {0}")]
    Io(#[from] std::io::Error),
}

/// Opens streams. The connection ends when the last clone and the last stream are gone, or the peer closes it.
#[derive(Debug, Clone)]
pub struct Streams(Arc<Shared>);

impl Streams {
    /// Asks the peer for a stream. Gives the stream and the peer's answer.
    pub async fn open(&self, request: impl Into<Bytes>) -> Result<(Stream, Bytes), OpenError> {
        let request = request.into();
        if request.len() > MAX_REQUEST {
            return Err(OpenError::TooLong(request.len()));
        }
        let id = self.0.open(request).ok_or(OpenError::Ended)?;
        let mut stream = Stream::new(self.0.clone(), id);
        let answer = stream.opened().await?;
        Ok((stream, answer))
    }

    /// How many streams there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }
}

/// A stream that the peer asks for. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    /// What the peer asks for, at most [`MAX_REQUEST`] bytes.
    pub request: Bytes,
    stream: Stream,
}

impl Incoming {
    /// Accepts it, with an answer of at most [`MAX_REQUEST`] bytes.
    pub fn accept(self, answer: impl Into<Bytes>) -> Stream {
        self.stream.accept(answer.into());
        self.stream
    }

    /// Refuses it.
    pub fn refuse(mut self, refusal: Refusal) {
        self.stream.reset(refusal);
    }

    /// Waits until the peer no longer wants it, or the connection has ended.
    pub async fn withdrawn(&self) {
        self.stream.gone().wait().await;
    }
}

/// Serves a connection: gives what opens streams, those that the peer asks for, and what must run for as long as the
/// connection is used.
pub fn over<T>(
    transport: T,
    side: Side,
    bounds: Bounds,
) -> (
    Streams,
    mpsc::UnboundedReceiver<Incoming>,
    impl Future<Output = Result<(), Ended>> + Send,
)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    // As many as the bound on streams wait in it.
    let (incoming, received) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(side, bounds));
    let streams = Streams(shared.clone());
    let served = async move {
        let (reader, writer) = tokio::io::split(transport);
        let result = tokio::select! {
            result = read(reader, &shared, &incoming) => result,
            result = write(writer, &shared) => result.map_err(Ended::from),
        };
        shared.end();
        result
    };
    (streams, received, served)
}

async fn read<R: AsyncRead + Unpin>(
    reader: R,
    shared: &Arc<Shared>,
    incoming: &mpsc::UnboundedSender<Incoming>,
) -> Result<(), Ended> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    loop {
        let mut head = [0; HEAD];
        match reader.read_exact(&mut head).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let head = Head::decode(head)?;
        // A buffer of its own: a slice of a larger one would keep all of it.
        let mut body = BytesMut::zeroed(head.length);
        reader.read_exact(&mut body).await?;
        if let Some((id, request)) = shared.receive(head, body)? {
            let stream = Stream::new(shared.clone(), id);
            // Nobody takes requests: the stream is dropped, which refuses it.
            incoming.send(Incoming { request, stream }).ok();
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(mut writer: W, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(2 * BUFFER);
    loop {
        buffer.clear();
        shared.compose(&mut buffer, BUFFER);
        match buffer.is_empty() {
            true => shared.wait().await,
            false => {
                writer.write_all(&buffer).await?;
                writer.flush().await?;
            }
        }
    }
}
