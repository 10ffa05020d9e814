//! Shared directories, each served to the guest by a process of its own: this program again, as `share`.
//!
//! A process, not a thread, because the file server trusts the guest with more than it should: it ends the whole
//! process on a request it can't make sense of, and it changes the umask and the working directory of all threads.
//! A process can also be locked into the one directory it serves ([`sandbox`]), whatever the guest's kernel asks
//! for; [`guard`] refuses the worst of that beforehand.

mod config;
mod guard;
mod sandbox;
mod server;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use snowglobe_runner::Share;

use crate::confine::spawn::{self, Child, Confinement, Given, Program};
use crate::engine::StartError;

pub(crate) use server::serve;

/// The argument by which this program serves a share.
pub(crate) const ARGUMENT: &str = "share";

/// The stage named when a share can't be served.
pub(crate) const STAGE: &str = "workspace share";

/// What the serving process is told, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// The directory is another descriptor of the process's; its path is for messages.
    share: Share,
}

/// A process that serves a share.
#[derive(Debug)]
pub(crate) struct Server {
    /// The share's tag.
    pub(crate) tag: String,
    /// The process.
    pub(crate) child: Child,
    /// Can be read from once it has ended.
    pub(crate) ended: OwnedFd,
    /// What it complains of, read without blocking.
    pub(crate) messages: OwnedFd,
    /// Which namespaces it does not have, and why; what else it lacks is among its messages.
    pub(crate) lacks: Vec<String>,
}

/// The directory of a share: what was handed on, else what is at its path now.
pub(crate) fn directory(share: &Share, handed_on: &[OwnedFd]) -> Result<OwnedFd, StartError> {
    let opened = match share.opened.and_then(|number| handed_on.get(number)) {
        Some(directory) => directory.try_clone(),
        None => rustix::fs::open(
            &share.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Into::into),
    };
    let opened = opened.and_then(|directory| {
        let stat = rustix::fs::fstat(&directory)?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            true => Ok(directory),
            false => Err(rustix::io::Errno::NOTDIR.into()),
        }
    });
    opened.map_err(StartError::io(
        STAGE,
        format!("open {}", share.path.display()),
    ))
}

/// Starts to serve `share`, which is `directory`; gives the connection by which the engine talks to the server. The
/// engine need not wait for the server to be ready: what it says first is read then.
pub(crate) fn start(share: &Share, directory: OwnedFd) -> Result<(Server, UnixStream), StartError> {
    let failed =
        |what: &str| StartError::io(STAGE, format!("serve {}: {what}", share.path.display()));
    let (listener, connection) = connection().map_err(failed("make its socket"))?;
    let order = Order {
        share: share.clone(),
    };
    let input = spawn::order_input(&order).map_err(failed("tell its server"))?;
    // It shuts itself off from the host, further than can be done before it runs. Root stays root: in a user namespace
    // it could not open what belongs to others.
    let confinement = match rustix::process::geteuid().is_root() {
        true => Confinement::RootItself,
        false => Confinement::Itself(rustix::process::geteuid().as_raw()),
    };
    let given = Given {
        directory: Some(directory),
        input: Some(input),
        fds: vec![listener.into()],
        ..Given::default()
    };
    let started = spawn::spawn(&Program::Itself, &[ARGUMENT], confinement, given)
        .map_err(failed("start its server"))?;
    let mut child = started.child;
    match child.pidfd() {
        Ok(ended) => Ok((
            Server {
                tag: share.tag.clone(),
                child,
                ended,
                messages: started.messages,
                lacks: started.lacks,
            },
            connection,
        )),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(failed("watch its server")(error))
        }
    }
}

/// A listening socket that nobody else can reach, and the one connection to it.
fn connection() -> io::Result<(UnixListener, UnixStream)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path)?;
    Ok((listener, connection))
}
