//! Where HTTP is served: at an address, or at a unix socket that only its owner can open.
//!
//! The socket comes into being in a directory of its own that nobody else can enter, gets mode 0600 there and is then
//! renamed to its place: so nobody else can ever connect, whatever the umask. One that a dead server left is replaced.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use axum::serve::Listener;
use snowglobe_runner::socket;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::mcp::transport::peers::Peer;

/// How many connections the system may hold for us. Of one that finds no room the client hears nothing, and tries again
/// after a second.
const WAITING: u32 = 4096;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A unix socket, to be made.
    Unix(PathBuf),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("expected unix:PATH, where the socket is to be".to_owned()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        let address = text.parse().map(Self::Tcp);
        address
            .map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:8808, or unix:PATH".to_owned())
    }
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl At {
    /// The address, where it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether nobody but users of this machine can reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A stream of either kind.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// Something that listens.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, Placed),
}

impl Bound {
    pub(crate) async fn to(at: &At) -> io::Result<Self> {
        match at {
            At::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4(),
                    SocketAddr::V6(_) => TcpSocket::new_v6(),
                }?;
                // As with every server: an address is free as soon as the one before has ended.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(WAITING)?))
            }
            At::Unix(path) => {
                let (listener, placed) = place(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?, placed))
            }
        }
    }

    /// Where it listens: the port that the system chose, where none was asked for.
    pub(crate) fn at(&self) -> io::Result<At> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(At::Tcp),
            Self::Unix(_, placed) => Ok(At::Unix(placed.path.clone())),
        }
    }

    /// The next connection. Where the system has no room it waits and tries again.
    pub(crate) async fn accept(&mut self) -> (Stream, Peer) {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = Listener::accept(listener).await;
                // An answer's head and body are two writes: the second must not wait until the first is acknowledged.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection stays slow");
                }
                (Either::Left(stream), address.ip().into())
            }
            Self::Unix(listener, _) => loop {
                let (stream, _) = Listener::accept(listener).await;
                let own = rustix::process::geteuid().as_raw();
                match stream.peer_cred() {
                    Ok(of) if of.uid() == own || of.uid() == 0 => {
                        break (Either::Right(stream), Peer::User(of.uid()));
                    }
                    // Its mode was widened: that lets nobody else in.
                    _ => tracing::warn!("another user's connection to the socket was closed"),
                }
            },
        }
    }
}

/// A socket in its place; it goes with this, unless another took its place.
pub(crate) struct Placed {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Placed {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn place(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, Placed)> {
    let path = std::path::absolute(path)?;
    match path.symlink_metadata() {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::other("something else than a socket is there"));
        }
        Ok(_) if socket::connect(&path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "a server listens there",
            ));
        }
        _ => {}
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let hidden = tempfile::Builder::new()
        .prefix(".snowglobe-")
        .tempdir_in(parent)?;
    let made = hidden.path().join("s");
    let listener = socket::bind(&made)?;
    std::fs::set_permissions(&made, PermissionsExt::from_mode(0o600))?;
    let identity = identity(&made)?;
    std::fs::rename(&made, &path)?;
    Ok((listener, Placed { path, identity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_socket() {
        assert_eq!(
            "127.0.0.1:80".parse(),
            Ok(At::Tcp(([127, 0, 0, 1], 80).into()))
        );
        assert_eq!("unix:a/b c".parse(), Ok(At::Unix("a/b c".into())));
        for wrong in ["", "unix:", "localhost", "127.0.0.1", "/tmp/socket"] {
            let error = wrong.parse::<At>().unwrap_err();
            assert!(error.contains("unix:PATH"), "{error}");
        }
        assert!(At::Tcp(([127, 0, 0, 9], 1).into()).is_local());
        assert!(!At::Tcp(([0, 0, 0, 0], 1).into()).is_local());
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_from_the_start_and_goes_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("mcp.sock");
        let at = At::Unix(path.clone());
        assert!(Bound::to(&at).await.is_err(), "there is no such directory");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut bound = Bound::to(&at).await.unwrap();
        assert_eq!(bound.at().unwrap(), at);
        let meta = path.symlink_metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let client = socket::connect(&path).unwrap();
        let (_, peer) = bound.accept().await;
        assert_eq!(peer, Peer::User(rustix::process::geteuid().as_raw()));
        drop(client);
        assert!(Bound::to(&at).await.is_err(), "somebody listens there");
        drop(bound);
        assert!(!path.exists());
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 0);
        // What a server left that was killed is replaced; anything else is not.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("left")).unwrap());
        let left = Bound::to(&At::Unix(dir.path().join("left"))).await.unwrap();
        drop(left);
        std::fs::write(dir.path().join("file"), "mine").unwrap();
        assert!(Bound::to(&At::Unix(dir.path().join("file"))).await.is_err());
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
    }
}
