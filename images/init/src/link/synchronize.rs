//! Synchronizing the stream, as [`crate::wire`] describes it.

use std::io::{self, Cursor};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::SYNC_PREFIX;

/// The longest line of a host. A longer piece without a line end is left over from a broken connection.
const LONGEST_LINE: usize = 256;

/// Answers synchronizing lines until a session begins with these bytes, and gives the stream from that point on. Gives `None` when
/// the host closes the stream. Drops everything else, since it is left over from a broken connection.
pub async fn synchronize<S>(
    mut stream: S,
    beginning: &[u8],
) -> io::Result<Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut held: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            // The client's identification line ends with a newline, too, so it can't be missed here.
            if held.starts_with(beginning) {
                break;
            }
            let line: Vec<u8> = held.drain(..=end).collect();
            let sync = line
                .windows(SYNC_PREFIX.len())
                .rposition(|part| part == SYNC_PREFIX.as_bytes());
            if let Some(at) = sync {
                stream.write_all(&line[at..]).await?;
                stream.flush().await?;
            }
        }
        if held.starts_with(beginning) {
            let (reader, writer) = tokio::io::split(stream);
            return Ok(Some(tokio::io::join(
                Cursor::new(held).chain(reader),
                writer,
            )));
        }
        if held.len() > LONGEST_LINE {
            held.drain(..held.len() - LONGEST_LINE);
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(None),
            read => held.extend_from_slice(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leftovers_are_dropped_and_every_nonce_answered() {
        let (mut host, guest) = tokio::io::duplex(4096);
        let served = tokio::spawn(synchronize(guest, b"SSH-"));
        host.write_all(b"\x01\xff garbage without end")
            .await
            .unwrap();
        host.write_all(b"SNOWGLOBE-SYNC 1\nSNOWGLOBE-SYNC 2\nSSH-2.0-x\r\nmore")
            .await
            .unwrap();
        let mut answer = vec![0; 34];
        host.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"SNOWGLOBE-SYNC 1\nSNOWGLOBE-SYNC 2\n");
        let mut stream = served.await.unwrap().unwrap().unwrap();
        let mut first = vec![0; 15];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, b"SSH-2.0-x\r\nmore");
    }

    #[tokio::test]
    async fn an_ssh_line_in_pieces_is_one() {
        let (mut host, guest) = tokio::io::duplex(4096);
        let served = tokio::spawn(synchronize(guest, b"SSH-"));
        for byte in b"SSH-2.0-x\n" {
            host.write_all(&[*byte]).await.unwrap();
        }
        assert!(served.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_host_that_leaves_ends_it() {
        let (host, guest) = tokio::io::duplex(4096);
        drop(host);
        assert!(synchronize(guest, b"SSH-").await.unwrap().is_none());
    }
}
