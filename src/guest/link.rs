//! Reaching the guest's end of the link: connecting and synchronizing.

use std::path::Path;
use std::time::Duration;

use snowglobe_init::wire::SYNC_PREFIX;
use snowglobe_runner::socket::Address;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::GuestError;

/// How long to wait for an answer before asking with another nonce. The guest may only just be booting; a line it
/// has not read yet costs nothing.
const RETRY: Duration = Duration::from_secs(2);

/// Connects to the link's socket.
pub async fn connect(path: &Path) -> Result<UnixStream, GuestError> {
    let connected = async {
        let address = Address::of(path)?;
        UnixStream::connect(address.path()).await
    };
    connected.await.map_err(|source| GuestError::Unreachable {
        path: path.to_owned(),
        source,
    })
}

/// Sends nonces until the guest repeats the newest one; what comes before is left over from an older connection.
/// Never gives up by itself: the caller bounds it.
pub async fn synchronize<S>(stream: S) -> Result<BufReader<S>, GuestError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let mut line = Vec::new();
    loop {
        let nonce = format!("{SYNC_PREFIX}{:032x}\n", rand::random::<u128>());
        stream
            .write_all(nonce.as_bytes())
            .await
            .map_err(|_| GuestError::Lost)?;
        stream.flush().await.map_err(|_| GuestError::Lost)?;
        let answered = tokio::time::timeout(RETRY, async {
            loop {
                // A partial line survives in `line` when the time is up in the middle of it.
                match stream.read_until(b'\n', &mut line).await {
                    Ok(0) | Err(_) => return Err(GuestError::Lost),
                    Ok(_) if line.ends_with(nonce.as_bytes()) => return Ok(()),
                    Ok(_) => line.clear(),
                }
            }
        });
        match answered.await {
            Ok(done) => return done.map(|()| stream),
            Err(_) => continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn garbage_and_old_nonces_are_skipped() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let guest = async move {
            let mut theirs = BufReader::new(theirs);
            let mut first = String::new();
            theirs.read_line(&mut first).await.unwrap();
            // The first nonce goes unanswered, so a second one comes.
            let mut second = String::new();
            theirs.read_line(&mut second).await.unwrap();
            theirs.write_all(b"\x00\xffleft over").await.unwrap();
            theirs.write_all(first.as_bytes()).await.unwrap();
            theirs.write_all(b"more").await.unwrap();
            theirs.write_all(second.as_bytes()).await.unwrap();
            theirs
        };
        let (stream, _guest) = tokio::join!(synchronize(ours), guest);
        assert!(stream.unwrap().buffer().is_empty());
    }

    #[tokio::test]
    async fn a_closed_link_is_lost() {
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert!(matches!(synchronize(ours).await, Err(GuestError::Lost)));
    }
}
