//! The socket of the guest link.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use snowglobe_runner::socket;

use crate::error::StartError;

/// Listens on the socket of the guest link. A socket that a killed runner left behind is replaced, one in use is not.
pub(super) fn listen(path: &Path) -> Result<UnixListener, StartError> {
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

/// Removes the socket again, for an engine that makes its own: listening has shown that the path can be used.
pub(super) fn free(link: UnixListener, path: &Path) -> Result<(), StartError> {
    drop(link);
    std::fs::remove_file(path).map_err(StartError::io(
        "guest link",
        format!("free {}", path.display()),
    ))
}
