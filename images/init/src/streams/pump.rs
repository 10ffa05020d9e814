//! Copies between a TCP connection and a stream, so that ends stay ends and resets stay resets.
//!
//! Each direction ends by itself. An idle connection holds no buffer.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::frame::{MAX_BODY, Reason, Refusal};
use super::stream::Stream;

/// How much is read at once, in bytes: a frame's body.
const PIECE: usize = MAX_BODY;

/// How long what the TCP end sent before it reset the connection may take to reach the stream's peer.
const DRAIN: Duration = Duration::from_secs(1);

/// How copying ended.
#[derive(Debug)]
pub enum End {
    /// Both ends have sent everything.
    Both,
    /// The stream's peer reset it, or is gone.
    Stream,
    /// The TCP connection failed, mostly by a reset.
    Tcp(io::Error),
    /// It may not go on.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl End {
    /// Has the other end see how it ended: a reset stays a reset.
    pub fn tell(self, stream: &mut Stream, tcp: &TcpStream) {
        if let Self::Stream | Self::Refused(_) = &self {
            // Best effort: closing without a word then sends a reset.
            tcp.set_zero_linger().ok();
        }
        match self {
            Self::Both | Self::Stream => {}
            Self::Tcp(error) => stream.reset(Refusal::new(Reason::Reset, error.to_string())),
            Self::Refused(refusal) => stream.reset(refusal),
        }
    }
}

/// Why a [`Source`] gives nothing more.
#[derive(Debug)]
pub enum Stop {
    /// Its reader failed.
    Read(io::Error),
    /// The bytes may not go on.
    Refused(Refusal),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Takes the bytes of one direction from their reader: it may look at them, hold them, or refuse them.
pub trait Source: Send {
    /// The next bytes that go on; none at the end.
    fn next<R>(&mut self, reader: &mut R) -> impl Future<Output = Result<Bytes, Stop>> + Send
    where
        R: AsyncRead + Unpin + Send;
}

/// All bytes, unchanged.
#[derive(Debug, Clone, Copy)]
pub struct All;

impl Source for All {
    async fn next<R: AsyncRead + Unpin + Send>(&mut self, reader: &mut R) -> Result<Bytes, Stop> {
        Ok(read(reader).await?.freeze())
    }
}

/// Copies all bytes both ways until both directions have ended, or one end is reset; the other end is reset then, too.
pub async fn pump(tcp: TcpStream, stream: Stream) {
    pump_after(tcp, stream, async |_| Ok(())).await;
}

/// As [`pump`], but nothing is taken from the TCP connection before `look` has looked at it. If that fails, both ends are
/// reset.
pub async fn pump_after<L>(mut tcp: TcpStream, mut stream: Stream, look: L)
where
    L: AsyncFnOnce(&mut ReadHalf<'_>) -> Result<(), Refusal>,
{
    // Best effort: without it small pieces wait for each other.
    tcp.set_nodelay(true).ok();
    let end = copy_after(&mut stream, &mut tcp, All, All, look).await;
    end.tell(&mut stream, &tcp);
}

/// Copies what the sources give until the connection ends. [`End::tell`] then tells the other end.
pub async fn copy(
    stream: &mut Stream,
    tcp: &mut TcpStream,
    to_tcp: impl Source,
    from_tcp: impl Source,
) -> End {
    copy_after(stream, tcp, to_tcp, from_tcp, async |_| Ok(())).await
}

async fn copy_after<L>(
    stream: &mut Stream,
    tcp: &mut TcpStream,
    to_tcp: impl Source,
    from_tcp: impl Source,
    look: L,
) -> End
where
    L: AsyncFnOnce(&mut ReadHalf<'_>) -> Result<(), Refusal>,
{
    let gone = stream.gone();
    let (stream_reader, stream_writer) = tokio::io::split(stream);
    let (mut tcp_reader, tcp_writer) = tcp.split();
    let mut to_tcp = pin!(to_end_of_tcp(stream_reader, tcp_writer, to_tcp));
    let mut from_tcp = pin!(async {
        look(&mut tcp_reader).await?;
        from_end_of_tcp(tcp_reader, stream_writer, from_tcp).await
    });
    let ended = tokio::select! {
        done = &mut to_tcp => match done {
            // The peer has sent everything, so nothing else would notice that it is gone.
            Ok(()) => tokio::select! {
                biased;
                done = from_tcp => done,
                () = gone.wait() => Err(End::Stream),
            },
            Err(End::Tcp(error)) => {
                timeout(DRAIN, from_tcp).await.ok();
                Err(End::Tcp(error))
            }
            Err(ended) => Err(ended),
        },
        done = &mut from_tcp => match done {
            Ok(()) => to_tcp.await,
            Err(ended) => Err(ended),
        },
    };
    ended.map_or_else(|ended| ended, |()| End::Both)
}

async fn to_end_of_tcp(
    mut stream: impl AsyncRead + Unpin + Send,
    mut tcp: impl AsyncWrite + Unpin,
    mut source: impl Source,
) -> Result<(), End> {
    loop {
        let piece = source.next(&mut stream).await.map_err(|stop| match stop {
            Stop::Read(_) => End::Stream,
            Stop::Refused(refusal) => End::Refused(refusal),
        })?;
        if piece.is_empty() {
            return match tcp.shutdown().await {
                // The TCP end has closed both directions; the other direction tells how.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                ended => ended.map_err(End::Tcp),
            };
        }
        tcp.write_all(&piece).await.map_err(End::Tcp)?;
    }
}

async fn from_end_of_tcp(
    mut tcp: impl AsyncRead + Unpin + Send,
    mut stream: impl AsyncWrite + Unpin,
    mut source: impl Source,
) -> Result<(), End> {
    loop {
        let piece = source.next(&mut tcp).await.map_err(|stop| match stop {
            Stop::Read(error) => End::Tcp(error),
            Stop::Refused(refusal) => End::Refused(refusal),
        })?;
        if piece.is_empty() {
            return stream.shutdown().await.map_err(|_| End::Stream);
        }
        stream.write_all(&piece).await.map_err(|_| End::Stream)?;
    }
}

/// Reads some bytes; none at the end. The buffer exists only once there are bytes to read.
pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<BytesMut> {
    poll_fn(|context| {
        let mut piece = BytesMut::with_capacity(PIECE);
        poll_read_buf(Pin::new(&mut *reader), context, &mut piece).map_ok(|_| piece)
    })
    .await
}
