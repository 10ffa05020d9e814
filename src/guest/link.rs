//! Connecting to the guest link, and synchronizing with the guest.

use std::path::Path;
use std::time::Duration;

use snowglobe_init::wire::SYNC_PREFIX;
use snowglobe_runner::socket::Address;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{GuestError, Violation};

/// How long to wait for an answer before the next nonce is sent. The guest may still be booting; lines that it has not
/// read yet cost nothing.
const RETRY: Duration = Duration::from_secs(2);

/// How much is read at once, in bytes.
const BUFFER: usize = 64 << 10;

/// The most bytes that an older connection can have left: the window of its channels, and the devices' buffers.
const LEFT_OVER: u64 = 64 << 20;

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

/// Sends nonces until the guest repeats the newest one; everything before that is left over from an older connection. Keeps
/// no more of it than a nonce's length, and gives up after [`LEFT_OVER`] bytes. Has no deadline: the caller sets one.
pub async fn synchronize<S>(stream: S) -> Result<BufReader<S>, GuestError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    let mut skipped = 0;
    loop {
        let nonce = format!("{SYNC_PREFIX}{:032x}\n", rand::random::<u128>());
        let asked = async {
            stream.write_all(nonce.as_bytes()).await?;
            stream.flush().await
        };
        asked.await.map_err(|_| GuestError::Lost)?;
        let answered = skip_to(&mut stream, nonce.as_bytes(), &mut skipped);
        // A guest that has not read the nonce yet will answer both.
        if let Ok(answered) = tokio::time::timeout(RETRY, answered).await {
            return answered.map(|()| stream);
        }
    }
}

/// Reads up to the end of `line`.
async fn skip_to<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    line: &[u8],
    skipped: &mut u64,
) -> Result<(), GuestError> {
    // The end of what was read: the line may begin there.
    let mut held: Vec<u8> = Vec::with_capacity(line.len() + BUFFER);
    loop {
        let piece = match stream.fill_buf().await {
            Ok([]) | Err(_) => return Err(GuestError::Lost),
            Ok(piece) => piece,
        };
        let (before, length) = (held.len(), piece.len());
        held.extend_from_slice(piece);
        if let Some(at) = memchr::memmem::find(&held, line) {
            stream.consume(at + line.len() - before);
            return Ok(());
        }
        stream.consume(length);
        *skipped += length as u64;
        if *skipped > LEFT_OVER {
            let violation = Violation::NoBeginning { sent: *skipped };
            return Err(GuestError::Violation(violation));
        }
        held.drain(..held.len() - held.len().min(line.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn garbage_and_old_nonces_are_skipped() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let guest = async move {
            let mut theirs = BufReader::new(theirs);
            let mut first = String::new();
            theirs.read_line(&mut first).await.unwrap();
            // The first nonce is not answered, so a second one comes.
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
    async fn an_answer_in_pieces_behind_much_else_is_found() {
        for garbage in [0, 1, BUFFER - 10, BUFFER, 3 * BUFFER + 7] {
            let (ours, theirs) = tokio::io::duplex(1000);
            let guest = async move {
                let mut theirs = BufReader::new(theirs);
                let mut nonce = String::new();
                theirs.read_line(&mut nonce).await.unwrap();
                theirs.write_all(&vec![b'S'; garbage]).await.unwrap();
                for byte in nonce.bytes().chain(*b"SSH-2.0-x") {
                    theirs.write_all(&[byte]).await.unwrap();
                }
                theirs
            };
            let (stream, _guest) = tokio::join!(synchronize(ours), guest);
            let mut after = [0; 9];
            stream.unwrap().read_exact(&mut after).await.unwrap();
            assert_eq!(&after, b"SSH-2.0-x", "after {garbage} bytes");
        }
    }

    #[tokio::test]
    async fn bytes_without_end_are_a_violation() {
        let (ours, mut theirs) = tokio::io::duplex(BUFFER);
        let guest = tokio::spawn(async move {
            let mut sent = 0_u64;
            while theirs.write_all(&[b'x'; BUFFER]).await.is_ok() {
                sent += BUFFER as u64;
            }
            sent
        });
        let error = synchronize(ours).await.unwrap_err();
        assert!(
            matches!(error, GuestError::Violation(Violation::NoBeginning { .. })),
            "{error}"
        );
        assert!(guest.await.unwrap() <= LEFT_OVER + 4 * BUFFER as u64);
    }

    #[tokio::test]
    async fn a_closed_link_is_lost() {
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert!(matches!(synchronize(ours).await, Err(GuestError::Lost)));
    }
}
