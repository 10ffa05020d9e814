//! The process that serves a share.

use std::os::fd::FromRawFd;
use std::process::ExitCode;
use std::sync::Arc;

use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserDaemon};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::config::config;
use super::guard::Guard;
use super::order::Order;
use super::sandbox::{self, Inside};
use crate::confine::{order, process};
use crate::role;

/// The number at which this process inherits the listening socket.
const LISTENER_FD: i32 = 3;

/// Serves until the engine closes the connection.
pub(crate) fn serve() -> ExitCode {
    let served = order::read()
        .map_err(Into::into)
        .and_then(|order: Order| try_serve(&order));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("{}: {error}", role::SHARE);
            ExitCode::FAILURE
        }
    }
}

type Error = Box<dyn std::error::Error>;

fn try_serve(order: &Order) -> Result<(), Error> {
    // SAFETY: this process inherits the listening socket at this number, and nothing else uses it.
    let mut listener = unsafe { Listener::from_raw_fd(LISTENER_FD) };
    process::print_warnings(role::SHARE);
    process::exit_on_panic();
    let open_files = process::raise_open_files()?;
    let Inside { root, own_files } = sandbox::enter()?;
    let config = config(order.share.guest_id, root, own_files.into(), open_files);
    let fs = Guard::new(PassthroughFs::new(config)?);
    let backend = VhostUserFsBackendBuilder::default().build(fs)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("share".into(), Arc::new(backend), memory)
        .map_err(|e| e.to_string())?;
    daemon.start(&mut listener).map_err(|e| e.to_string())?;
    match daemon.wait() {
        Ok(())
        | Err(BackendError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(error.to_string().into()),
    }
}
