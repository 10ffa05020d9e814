//! What follows after a connection has changed to another protocol, such as WebSocket: bytes both ways, each direction
//! with an end of its own. Values are hidden in what the server sends without a change of lengths, so that frames stay
//! whole.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::report::Account;
use crate::network::secrets::mask::Mask;

/// How much is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// Carries bytes between the two until both directions have ended.
pub(super) async fn carry(
    guest: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    mask: Option<(Mask, Duration)>,
    account: &Account,
) -> io::Result<()> {
    let (guest_reader, guest_writer) = tokio::io::split(guest);
    let (server_reader, server_writer) = tokio::io::split(server);
    let up = copy(guest_reader, server_writer, None, |bytes| {
        account.sent(bytes)
    });
    let down = copy(server_reader, guest_writer, mask, |bytes| {
        account.received(bytes)
    });
    tokio::try_join!(up, down).map(|_| ())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mask: Option<(Mask, Duration)>,
    count: impl Fn(usize),
) -> io::Result<()> {
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE);
        let read = match &mut mask {
            Some((mask, quiet)) if mask.waits() => {
                tokio::time::timeout(*quiet, from.read_buf(&mut piece))
                    .await
                    .ok()
            }
            _ => Some(from.read_buf(&mut piece).await),
        };
        let data: Bytes = piece.split().freeze();
        let (data, ended) = match (read.transpose()?, &mut mask) {
            (Some(0), mask) => (
                mask.as_mut()
                    .map(|(mask, _)| mask.finish())
                    .unwrap_or_default(),
                true,
            ),
            (Some(_), Some((mask, _))) => (mask.feed(data), false),
            (Some(_), None) => (data, false),
            (None, mask) => (
                mask.as_mut()
                    .map(|(mask, _)| mask.release())
                    .unwrap_or_default(),
                false,
            ),
        };
        if !data.is_empty() {
            to.write_all(&data).await?;
            to.flush().await?;
            count(data.len());
        }
        if ended {
            return to.shutdown().await;
        }
    }
}
