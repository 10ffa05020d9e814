//! Listens for HTTP: on an address, or on a unix socket that only its owner can open.
//!
//! The socket is created in a new directory that no other user can enter, gets mode 0600 there, and is then renamed to its
//! path. So no other user can connect at any moment, whatever the umask. A socket that a dead server left is refile.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use snowglobe_runner::socket;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::blocking::blocking_here;
use crate::mcp::transport::peers::Peer;

/// How many connections the system may hold that are not yet accepted. A connection beyond these gets no answer, and its
/// client tries again after a second.
const BACKLOG: u32 = 4096;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A unix socket, which is created.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("expected unix:PATH, the path of the new socket".to_owned()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        let address = text.parse().map(Self::Tcp);
        address
            .map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:8808, or unix:PATH".to_owned())
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// The address, unless it is a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only users of this machine can reach it.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A stream of either kind.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) async fn bind(at: &ListenAddress) -> io::Result<Self> {
        match at {
            ListenAddress::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4(),
                    SocketAddr::V6(_) => TcpSocket::new_v6(),
                }?;
                // Otherwise the address stays in use for a while after an earlier server has ended.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            ListenAddress::Unix(path) => {
                let (listener, file) = create(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?, file))
            }
        }
    }

    /// The address, with the port that the system chose if none was asked for.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, file) => Ok(ListenAddress::Unix(file.path.clone())),
        }
    }

    /// The next connection. If the system has no resources for it, waits and tries again.
    pub(super) async fn accept(&mut self) -> (Stream, Peer) {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = axum::serve::Listener::accept(listener).await;
                // The head and the body of an answer are two writes: the second must not wait for an acknowledgement of
                // the first.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "the option TCP_NODELAY could not be set");
                }
                (Either::Left(stream), address.ip().into())
            }
            Self::Unix(listener, _) => loop {
                let (stream, _) = axum::serve::Listener::accept(listener).await;
                let own = rustix::process::geteuid().as_raw();
                match stream.peer_cred() {
                    Ok(of) if of.uid() == own || of.uid() == 0 => {
                        break (Either::Right(stream), Peer::User(of.uid()));
                    }
                    // The file's mode was changed; other users are refused all the same.
                    _ => tracing::warn!("another user's connection to the socket was closed"),
                }
            },
        }
    }
}

/// The file of a unix socket. It is removed with this value, unless another file has replaced it.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let removed = blocking_here(|| match identity(&self.path) {
            Ok(there) if there == self.identity => std::fs::remove_file(&self.path),
            _ => Ok(()),
        });
        if let Err(error) = removed {
            tracing::debug!(%error, "the socket could not be removed");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn create(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    let path = std::path::absolute(path)?;
    match path.symlink_metadata() {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::other("a file that is no socket is there"));
        }
        Ok(_) if socket::connect(&path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another server listens there",
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
    Ok((listener, SocketFile { path, identity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        assert_eq!(
            "127.0.0.1:80".parse(),
            Ok(ListenAddress::Tcp(([127, 0, 0, 1], 80).into()))
        );
        assert_eq!(
            "unix:a/b c".parse(),
            Ok(ListenAddress::Unix("a/b c".into()))
        );
        for wrong in ["", "unix:", "localhost", "127.0.0.1", "/tmp/socket"] {
            let error = wrong.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("unix:PATH"), "{error}");
        }
        assert!(ListenAddress::Tcp(([127, 0, 0, 9], 1).into()).is_local());
        assert!(!ListenAddress::Tcp(([0, 0, 0, 0], 1).into()).is_local());
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_from_the_start_and_is_removed_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("mcp.sock");
        let at = ListenAddress::Unix(path.clone());
        assert!(
            Listener::bind(&at).await.is_err(),
            "there is no such directory"
        );
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut bound = Listener::bind(&at).await.unwrap();
        assert_eq!(bound.address().unwrap(), at);
        let meta = path.symlink_metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let client = socket::connect(&path).unwrap();
        let (_, peer) = bound.accept().await;
        assert_eq!(peer, Peer::User(rustix::process::geteuid().as_raw()));
        drop(client);
        assert!(Listener::bind(&at).await.is_err(), "a server listens there");
        drop(bound);
        assert!(!path.exists());
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 0);
        // What a server left that was killed is refile; anything else is not.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("left")).unwrap());
        let left = Listener::bind(&ListenAddress::Unix(dir.path().join("left")))
            .await
            .unwrap();
        drop(left);
        std::fs::write(dir.path().join("file"), "mine").unwrap();
        assert!(
            Listener::bind(&ListenAddress::Unix(dir.path().join("file")))
                .await
                .is_err()
        );
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
    }
}
