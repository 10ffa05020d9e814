//! The sockets of the guest link and of the streams beside it.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use snowglobe_runner::{VmSpec, socket};

use crate::error::StartError;
use crate::removal::Removal;

/// The sockets on which a VM's ports are reached.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) link: UnixListener,
    pub(crate) streams: Option<UnixListener>,
}

impl Sockets {
    /// Listens on each of them, and has them removed at the end.
    pub(super) fn listen(spec: &VmSpec, removal: &mut Removal) -> Result<Self, StartError> {
        let mut listen_on = |path: &Path| {
            let listener = listen(path)?;
            // Only now: before, the socket may be another VM's.
            removal.add(path);
            Ok(listener)
        };
        Ok(Self {
            link: listen_on(&spec.link_socket)?,
            streams: match &spec.streams {
                Some(port) => Some(listen_on(&port.socket)?),
                None => None,
            },
        })
    }

    /// Removes them again, for an engine that makes its own: listening has shown that the paths can be used.
    pub(super) fn free(self, spec: &VmSpec) -> Result<(), StartError> {
        free(self.link, &spec.link_socket)?;
        match (self.streams, &spec.streams) {
            (Some(listener), Some(port)) => free(listener, &port.socket),
            _ => Ok(()),
        }
    }
}

/// Listens on a socket. A socket that a killed runner left behind is replaced, one in use is not.
fn listen(path: &Path) -> Result<UnixListener, StartError> {
    let bind = || socket::bind(path);
    let bound = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match socket::connect(path) {
            Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).and_then(|()| bind())
            }
            _ => Err(io::Error::new(
                error.kind(),
                "it is there already; another VM may use it",
            )),
        },
        bound => bound,
    };
    bound.map_err(StartError::io(
        "guest link",
        format!("listen on {}", path.display()),
    ))
}

fn free(link: UnixListener, path: &Path) -> Result<(), StartError> {
    drop(link);
    std::fs::remove_file(path).map_err(StartError::io(
        "guest link",
        format!("free {}", path.display()),
    ))
}
