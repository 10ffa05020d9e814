//! Bounding what a guest may send over its link in addition to the answers to requests.
//!
//! Every byte has to belong to a request. The bytes read from the link are counted; the bytes of requests' channels, with
//! the cost of their messages, are subtracted, and the rest must stay below [`BESIDE`]. This one rule bounds everything
//! else in SSH: banners, global requests, key exchanges, unrequested answers. It bounds memory together with the
//! channels' queues, since the library stops reading while one is full.
//!
//! Only a guest whose init was replaced breaks a rule: then there is a [`Violation`], the link ends at once, and the
//! owner of the VM ends the VM. A link never recovers from a violation, and only the first one counts.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use russh::client::{self, ChannelOpenHandle, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, Names};
use snowglobe_init::wire::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How many bytes may come outside of requests in the life of a link.
const BESIDE: u64 = 1 << 20;

/// The most that a message costs in addition to its data, in bytes: header, padding, authentication code.
const MESSAGE: u64 = 96;

/// What a channel costs in addition to its messages, in bytes.
const CHANNEL: u64 = 1 << 10;

/// One byte of window adjustments is allowed for this many bytes written.
const ANSWERED: u64 = 32;

/// The longest packet that the guest may send, in bytes.
pub(super) const LONGEST_PACKET: u32 = 65_535;

/// How many bytes may still come for a request that was given up: its window, with the cost of messages. The library has
/// forgotten the channel by then.
const ON_ITS_WAY: u64 = 32 << 20;

/// A rule that the guest broke. The text continues "the guest …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The link's first line did not come.
    #[error("sent {sent} bytes without the line that begins the link")]
    NoBeginning {
        /// How many bytes came.
        sent: u64,
    },
    /// More data than was asked for.
    #[error("sent more than the {limit} bytes that `{operation}` had asked for")]
    Data {
        /// What was asked.
        operation: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A report that is too long.
    #[error("sent a report on `{operation}` of more than {limit} bytes")]
    Report {
        /// What was asked.
        operation: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The guest opened a channel.
    #[error("opened a channel of its own (`{0}`)")]
    Channel(&'static str),
    /// A packet that is too long.
    #[error("sent a packet of {0} bytes; {LONGEST_PACKET} is the longest")]
    Packet(usize),
    /// More bytes outside of requests than a link needs.
    #[error("sent more than {BESIDE} bytes that belong to no request")]
    Chatter,
}

#[derive(Debug, Default)]
struct State {
    violation: OnceLock<Violation>,
    broken: CancellationToken,
    /// Bytes read from the link.
    read: AtomicU64,
    /// Bytes that may be read.
    granted: AtomicU64,
    /// The version of the link that the guest states; absent: unknown.
    version: OnceLock<Option<Version>>,
}

/// One link's counters and rules, shared by its stream and its handler.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard(Arc<State>);

impl Guard {
    /// Ends the link; the first violation counts.
    pub(super) fn violated(&self, violation: Violation) {
        tracing::error!("the guest {violation}; its link is dropped");
        self.0.violation.set(violation).ok();
        self.0.broken.cancel();
    }

    /// Ends the link without blaming the guest.
    pub(super) fn give_up(&self) {
        self.0.broken.cancel();
    }

    /// The rule that the guest broke, if any.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.0.violation.get().cloned()
    }

    /// Whether this ended the link.
    pub(super) fn is_broken(&self) -> bool {
        self.0.broken.is_cancelled()
    }

    /// Waits until this ends the link.
    pub(super) async fn broken(&self) {
        self.0.broken.cancelled().await;
    }

    /// Allows the bytes of one more channel, or of one more request on the connection itself.
    pub(super) fn open(&self) {
        self.grant(CHANNEL);
    }

    /// Notes the version that the guest states, once: SSH has one identification line.
    fn stated(&self, version: Option<Version>) {
        self.0.version.get_or_init(|| version);
    }

    /// The version of the link that the guest stated.
    pub(super) fn version(&self) -> Option<Version> {
        self.0.version.get().copied().flatten()
    }

    /// How many bytes have been read.
    pub(super) fn received(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }

    /// A channel was given up.
    pub(super) fn forsake(&self) {
        self.grant(ON_ITS_WAY);
    }

    fn grant(&self, bytes: u64) {
        self.0.granted.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count(&self, bytes: usize) -> io::Result<()> {
        let read = self.0.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if read > self.0.granted.load(Ordering::Relaxed) + BESIDE {
            self.violated(Violation::Chatter);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// A message brought data on a channel.
    fn brought(&self, bytes: usize) {
        if bytes > LONGEST_PACKET as usize {
            self.violated(Violation::Packet(bytes));
        }
        self.grant(bytes as u64 + MESSAGE);
    }

    /// Refuses a channel that the guest opens: init opens none.
    fn refuse(&self, kind: &'static str) -> Result<(), russh::Error> {
        self.violated(Violation::Channel(kind));
        Err(russh::Error::Disconnect)
    }
}

/// A stream to a service in the guest. Bytes that come after it is dropped are no violation.
#[derive(Debug)]
pub(super) struct Attached<S> {
    stream: S,
    guard: Guard,
}

impl<S> Attached<S> {
    pub(super) fn new(stream: S, guard: Guard) -> Self {
        Self { stream, guard }
    }
}

impl<S> Drop for Attached<S> {
    fn drop(&mut self) {
        self.guard.forsake();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attached<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attached<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The link's stream: counts bytes, and ends with a violation.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    guard: Guard,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Guarded<S> {
    /// Guards a stream.
    pub(super) fn new(stream: S, guard: Guard) -> Self {
        let broken = Box::pin(guard.0.broken.clone().cancelled_owned());
        Self {
            stream,
            guard,
            broken,
        }
    }

    /// Whether the link has ended; wakes the task when it does.
    fn ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ended(cx)?;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.guard.count(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ended(cx)?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.guard.grant(written as u64 / ANSWERED);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The SSH library's handler: accepts the pinned host key only, and no channel that the guest opens.
#[derive(Debug)]
pub(super) struct Watch {
    /// The host key.
    pub(super) key: PublicKey,
    /// The link's rules.
    pub(super) guard: Guard,
}

impl client::Handler for Watch {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(
            matches!(key, PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.key.key_data()),
        )
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        _: &Names,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard
            .stated(Version::stated_by(session.remote_sshid()));
        Ok(())
    }

    async fn data(
        &mut self,
        _: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.brought(data.len());
        Ok(())
    }

    async fn extended_data(
        &mut self,
        _: ChannelId,
        _: u32,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.brought(data.len());
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("session")
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("agent")
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("x11")
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("direct-tcpip")
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("direct-streamlocal")
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("forwarded-tcpip")
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.guard.refuse("forwarded-streamlocal")
    }

    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        self.guard
            .violated(Violation::Channel("of an unknown kind"));
        false
    }
}

#[cfg(test)]
mod tests;
