//! Shared directories. A process of its own serves each to the guest: this program again, as [`role::SHARE`].
//!
//! ```text
//! guest's kernel -- /dev/fuse -- init ==== stream ==== link --> queue --> guard --> tree --> the directory
//!                                            ^------- notes -------- watch <-- fanotify <-------'
//! ```
//!
//! The stream carries messages of the FUSE protocol. The guest believes what it is told for an hour, since [`watch`] tells it
//! what others change; so most of what its programs do needs no message at all.
//!
//! It is a process, not a thread, because it can be confined to the one directory that it serves ([`sandbox`]), whatever
//! the guest's kernel requests; [`guard`] refuses the most harmful requests before that.

mod control;
mod descriptors;
mod guard;
mod judge;
mod known;
mod link;
mod made;
mod message;
mod nodes;
mod note;
mod order;
mod queue;
mod refusals;
mod room;
mod sandbox;
pub(crate) mod server;
mod tree;
mod watch;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{Mode, OFlags};
use snowglobe_runner::Share;

use self::control::Control;
use self::order::Order;
use crate::confine::child::Child;
use crate::confine::namespaces::Confinement;
use crate::confine::spawn::{self, Inherited};
use crate::error::StartError;
use crate::role;

/// The stage named when a share can't be served.
pub(crate) const STAGE: &str = "workspace share";

/// A process that serves a share.
#[derive(Debug)]
pub(crate) struct Server {
    /// The share's tag.
    pub(crate) tag: String,
    /// The process.
    pub(crate) child: Child,
    /// Where it is asked.
    pub(crate) control: Control,
    /// Becomes readable when the process ends.
    pub(crate) ended: OwnedFd,
    /// Its standard error, read without blocking.
    pub(crate) messages: OwnedFd,
    /// The namespaces that it does not have, and why; it reports other missing fences in its messages.
    pub(crate) missing_fences: Vec<String>,
}

/// The directory of a share: a descriptor that the parent passed on, else the directory at its path.
pub(crate) fn directory(share: &Share, passed: &[OwnedFd]) -> Result<OwnedFd, StartError> {
    let opened = match share.opened.and_then(|number| passed.get(number)) {
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

/// The socket of a server, which has no path any more. It takes one connection, whenever that is made.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    fn new() -> io::Result<(UnixListener, Self)> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok((listener, Self(socket)))
    }

    /// Connects to it.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// The descriptor, for a process that connects to it by the path of its descriptor.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}

/// Whether changes in the working directory can be reported.
pub(crate) fn try_watch() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(".", flags, Mode::empty())?;
    watch::try_out(watch::source()?, directory.as_fd()).map(drop)
}

/// Starts a server for `share`, which is `directory`; gives the socket for the engine, which may connect and write before the
/// server is ready.
pub(crate) fn start(share: &Share, directory: OwnedFd) -> Result<(Server, Socket), StartError> {
    let failed =
        |what: &str| StartError::io(STAGE, format!("serve {}: {what}", share.path.display()));
    let (listener, socket) = Socket::new().map_err(failed("make its socket"))?;
    let (control, theirs) = Control::new().map_err(failed("connect to its server"))?;
    let order = Order {
        share: share.clone(),
    };
    // Root stays root: in a user namespace it could not open the files of other users.
    let confinement = match rustix::process::geteuid().is_root() {
        true => Confinement::SelfAsRoot,
        false => Confinement::SelfInUserNamespace(rustix::process::geteuid().as_raw()),
    };
    let inherited = Inherited {
        directory: Some(directory),
        fds: vec![listener.into(), theirs.into()],
        ..Inherited::default()
    };
    let started = spawn::spawn_self(role::SHARE, &order, confinement, inherited)
        .map_err(failed("start its server"))?;
    let mut child = started.child;
    match child.pidfd() {
        Ok(ended) => Ok((
            Server {
                tag: share.tag.clone(),
                child,
                control,
                ended,
                messages: started.messages,
                missing_fences: started.missing_fences,
            },
            socket,
        )),
        Err(error) => {
            child.end();
            Err(failed("watch its server")(error))
        }
    }
}
