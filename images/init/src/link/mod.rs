//! The guest's end of the link to the host: finding the device, and one stream for each connection of the host.

pub(crate) mod channel;
pub(crate) mod inbox;
pub(crate) mod nonblocking;
mod synchronize;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use nonblocking::Nonblocking;
pub use synchronize::synchronize;

/// How often to try again whether a host is connected.
const RECONNECT: Duration = Duration::from_millis(10);

/// The start of an SSH session.
pub const SSH: &[u8] = b"SSH-";

/// A stream on which a session begins.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves each host that connects to a virtio-serial port, one after the other, forever.
pub async fn serve_port<F, S>(path: &Path, beginning: &[u8], serve: F) -> io::Result<()>
where
    F: Fn(Box<dyn Stream>) -> S,
    S: Future<Output = ()>,
{
    loop {
        match synchronize(open(path).await?, beginning).await {
            Ok(Some(stream)) => serve(Box::new(stream)).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the link could not be read"),
        }
        // The port reads as ended while no host is connected, and nothing reports a new connection.
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn open(path: &Path) -> io::Result<Nonblocking> {
    loop {
        match std::fs::File::options().read(true).write(true).open(path) {
            Ok(file) => return Nonblocking::new(OwnedFd::from(file)),
            // A port can be open once at a time, and the session before has not closed it yet.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                tokio::time::sleep(RECONNECT).await
            }
            Err(e) => return Err(e),
        }
    }
}

/// Serves each host that connects to a vsock port, forever.
pub async fn serve_vsock<F, S>(port: u32, beginning: &'static [u8], serve: F) -> io::Result<()>
where
    F: Fn(Box<dyn Stream>) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send,
{
    let listener = tokio_vsock::VsockListener::bind(tokio_vsock::VsockAddr::new(
        tokio_vsock::VMADDR_CID_ANY,
        port,
    ))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let serve = serve.clone();
        tokio::spawn(async move {
            if let Ok(Some(stream)) = synchronize(stream, beginning).await {
                serve(Box::new(stream)).await;
            }
        });
    }
}

/// The device of the virtio-serial port with this name.
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
