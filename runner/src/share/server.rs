//! The process that serves a share.

use std::io;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use virtiofsd::server::Server;

use super::control;
use super::guard::Guard;
use super::judge::Judge;
use super::link::{self, Output};
use super::order::Order;
use super::room::Room;
use super::sandbox::{self, Inside};
use super::tree::Tree;
use super::watch::{self, Watch};
use crate::confine::{order, process};
use crate::role;

/// The number at which this process inherits the listening socket.
const LISTENER_FD: i32 = 3;
/// The number at which it inherits its connection to the runner.
const CONTROL_FD: i32 = 4;

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
    let listener = unsafe { UnixListener::from_raw_fd(LISTENER_FD) };
    // SAFETY: as above, for the connection.
    let runner = unsafe { UnixStream::from_raw_fd(CONTROL_FD) };
    process::print_warnings(role::SHARE);
    process::exit_on_panic();
    let open_files = process::raise_open_files()?;
    // The guest's kernel has taken its own umask off already.
    rustix::process::umask(Mode::empty());
    let source = watch::source();
    let Inside { root, own_files } = sandbox::enter()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let source = source.and_then(|source| watch::try_out(source, root.as_fd()));
    if let Err(why) = &source {
        complain!("{}: changes are not reported: {why}", role::SHARE);
    }
    let room = Room::new(root.try_clone()?);
    let judge = Judge::new(&order.share, root.try_clone()?, room)?;
    let judge = Arc::new(judge);
    control::start(runner, judge.clone())?;
    let (stream, _) = listener.accept()?;
    drop(listener);
    let output = Arc::new(Output::new(stream.try_clone()?));
    let mut watch = None;
    let guest_id = order.share.guest_id;
    let tree = Tree::new(root, own_files, guest_id, open_files, |known| {
        let source = source.ok()?;
        let started = Watch::start(source, known.clone(), output.clone(), unwatched);
        watch.insert(started).as_ref().ok().cloned()
    })?;
    let reported = watch.transpose()?.is_some();
    tree.close_unused();
    let server = Server::new(Guard::new(tree, guest_id, judge));
    Ok(link::serve(stream, server, &output, reported)?)
}

/// The guest believes what it was told, and nothing would correct it: the machine must end.
fn unwatched(error: io::Error) {
    complain!("{}: watch the directory: {error}", role::SHARE);
    std::process::exit(1);
}
