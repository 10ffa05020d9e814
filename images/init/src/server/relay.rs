//! Connecting a channel with a stream: a forwarded port, or a session inside the session.

use std::sync::Arc;

use bytes::BytesMut;
use russh::server::Msg;
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::link::inbox::Inbox;

/// How many bytes are read from the stream at once.
const PIECE: usize = 64 << 10;

/// Copies both directions until both have ended or the peer closes the channel. A stream that accepts no data makes no
/// other channel wait.
pub(crate) async fn couple<S: AsyncRead + AsyncWrite + Unpin>(channel: Channel<Msg>, stream: S) {
    let (mut reader, writer) = channel.split();
    let (mut from, mut to) = tokio::io::split(stream);
    let inbox = Arc::new(Inbox::new());
    let collecting = async {
        loop {
            match reader.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    if inbox.push(data).is_err() {
                        break;
                    }
                }
                Some(ChannelMsg::Eof) => inbox.end(),
                Some(ChannelMsg::Close) | None => break,
                Some(_) => {}
            }
        }
    };
    let inward = async {
        while let Ok(Some(data)) = inbox.next().await {
            if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        to.shutdown().await.ok();
        inbox.discard();
    };
    let outward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if writer.data_bytes(buffer.split().freeze()).await.is_err() {
                break;
            }
        }
        writer.eof().await.ok();
    };
    tokio::select! {
        _ = async { tokio::join!(inward, outward) } => {}
        () = collecting => {}
    }
    writer.close().await.ok();
}
