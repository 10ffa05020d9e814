//! One SFTP session: protocol version 3, which `sftp`, `scp`, sshfs and editors use.
//!
//! A session is a home directory and a table of handles. It answers requests in the order in which they come, on a
//! thread with the user's permissions, so the kernel checks every path for the user. Invariants:
//!
//! - each request that can be told apart gets exactly one reply with its id, even one that makes no sense;
//! - a packet longer than [`MAX_PACKET`], or a broken stream, ends the session: the following bytes may not be packets;
//! - no request waits for another process: files are opened without blocking, so a named pipe can't make the other users
//!   of the thread wait.
//!
//! Names that aren't UTF-8 are listed with replacement characters and can't be opened, since the protocol library uses
//! strings. Symbolic links use OpenSSH's order of arguments (first the target, then the path of the link), as clients
//! do; the draft has the opposite order.

mod attributes;
mod listing;
mod protocol;
mod session;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::system::user_thread::UserThread;
use protocol::{MAX_PACKET, invalid};
use session::Session;

/// Serves one SFTP session until the stream ends; every operation runs on the thread.
pub(super) async fn serve<S>(stream: S, thread: Arc<UserThread>, home: PathBuf)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let mut session = thread.run(move || Session::new(home)).await;
    if let Err(error) = converse(&mut stream, &thread, &mut session).await {
        tracing::debug!(%error, "the SFTP session broke off");
    }
    // The peer may have closed the stream already.
    stream.shutdown().await.ok();
}

async fn converse<S>(
    stream: &mut BufReader<S>,
    thread: &UserThread,
    session: &mut Session,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(packet) = read_packet(stream).await? {
        let mut taken = std::mem::take(session);
        let (returned, reply) = thread
            .run(move || {
                let reply = taken.answer(packet);
                (taken, reply)
            })
            .await;
        *session = returned;
        stream.write_all(&reply?).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The next packet without its length; `None` when the stream ended between two.
async fn read_packet<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Bytes>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length == 0 || length > MAX_PACKET {
        return Err(invalid(format!("a packet of {length} bytes")));
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet.into()))
}
