//! The guest's end of the link: finding the device, synchronizing, and one SSH session after the other.

pub(crate) mod inbox;
pub(crate) mod nonblocking;

use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::link::nonblocking::Nonblocking;
use crate::server::guest::Guest;
use crate::wire::SYNC_PREFIX;

/// What an SSH session begins with.
const SSH: &[u8] = b"SSH-";

/// What is longer than this without a line's end is not the host's.
const LONGEST_LINE: usize = 256;

/// How often to look whether a host is connected again.
const RECONNECT: Duration = Duration::from_millis(10);

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub struct Rewound<S> {
    first: Cursor<Vec<u8>>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.position() < this.first.get_ref().len() as u64 {
            return Pin::new(&mut this.first).poll_read(cx, buf);
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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

/// Answers synchronizing lines until an SSH session begins; gives the stream with all that belongs to it.
/// Nothing when the host is gone. What is neither is dropped: it is left over from a connection that broke.
pub async fn synchronize<S>(mut stream: S) -> io::Result<Option<Rewound<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut held: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            // The client's own first line ends with a newline, too, so it can't be missed here.
            if held.starts_with(SSH) {
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
        if held.starts_with(SSH) {
            return Ok(Some(Rewound {
                first: Cursor::new(held),
                stream,
            }));
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

/// Serves whatever host connects to a virtio-serial port, forever.
pub async fn serve_port(path: &Path, guest: Arc<Guest>) -> io::Result<()> {
    loop {
        let port = open(path).await?;
        match synchronize(port).await {
            Ok(Some(stream)) => {
                if let Err(error) = crate::server::ssh::serve(stream, guest.clone()).await {
                    tracing::debug!(%error, "the host's connection ended");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the link could not be read"),
        }
        // The port reads as ended for as long as no host is connected, and nothing says when one is.
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn open(path: &Path) -> io::Result<Nonblocking> {
    loop {
        match std::fs::File::options().read(true).write(true).open(path) {
            Ok(file) => return Nonblocking::new(OwnedFd::from(file)),
            // A port is opened once at a time: the session before is still letting go of it.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                tokio::time::sleep(RECONNECT).await
            }
            Err(e) => return Err(e),
        }
    }
}

/// Serves whoever connects to a vsock port, forever.
pub async fn serve_vsock(port: u32, guest: Arc<Guest>) -> io::Result<()> {
    let listener = tokio_vsock::VsockListener::bind(tokio_vsock::VsockAddr::new(
        tokio_vsock::VMADDR_CID_ANY,
        port,
    ))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let guest = guest.clone();
        tokio::spawn(async move {
            if let Ok(Some(stream)) = synchronize(stream).await {
                let _ = crate::server::ssh::serve(stream, guest).await;
            }
        });
    }
}

/// The device of the virtio-serial port of that name, once it is there.
pub fn find_port(name: &str) -> io::Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")?.flatten() {
        let found = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("there is no virtio-serial port named {name}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leftovers_are_dropped_and_every_nonce_answered() {
        let (mut host, guest) = tokio::io::duplex(4096);
        let served = tokio::spawn(synchronize(guest));
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
        let served = tokio::spawn(synchronize(guest));
        for byte in b"SSH-2.0-x\n" {
            host.write_all(&[*byte]).await.unwrap();
        }
        assert!(served.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_host_that_leaves_ends_it() {
        let (host, guest) = tokio::io::duplex(4096);
        drop(host);
        assert!(synchronize(guest).await.unwrap().is_none());
    }
}
