//! The engine `krun`: libkrun in a process of its own, which is this program again, as `krun`.
//!
//! It is a process, not a thread, because libkrun ends the whole process with its guest, and because only a process can
//! be confined ([`machine`]). It inherits the console and a socket on which it sends a directory.
//!
//! The guest link is a vsock port, for which libkrun makes a socket. A guest that breaks out of libkrun can write to that
//! socket's directory, so the directory is a tiny file system of the machine's own, and not on the host's disk: the
//! machine sends the directory to the runner, and the link's path is a symbolic link through the runner's descriptor. The
//! machine is ready once the socket exists: then the guest's kernel has found the device.
//!
//! libkrun can't add a layer to a disk while the guest runs. So a freeze copies the newest layer while the whole process
//! is stopped: what the guest has flushed is in the file by then.

mod disk;
mod ffi;
pub(crate) mod machine;
mod order;

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::Signal;
use snowglobe_runner::VmSpec;

use self::disk::{OFTEN, Room, SELDOM, check_interval, copy, while_stopped};
use self::order::{Order, SOCKET, STREAMS};
use super::{Engine, Frozen, Notice, Process, newest_layers, socket_pair};
use crate::confine::namespaces::Confinement;
use crate::confine::spawn::{self, Inherited};
use crate::error::StartError;
use crate::role;
use crate::share::Socket;

/// A running machine.
#[derive(Debug)]
pub(crate) struct Krun {
    process: Process,
    /// Readable when there is news: first the socket's directory, then changes in it; later the end of a copy.
    control: OwnedFd,
    /// Never readable. It replaces `control` while the machine runs: a `control` at its end would always be readable.
    never_readable: OwnedFd,
    /// The socket's directory.
    directory: Option<OwnedFd>,
    link: PathBuf,
    streams: Option<PathBuf>,
    phase: Phase,
    /// The newest layer of each disk that the guest may write.
    tops: Vec<Option<PathBuf>>,
    max_layer_bytes: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// The socket's directory is not known yet.
    Preparing,
    /// The socket does not exist yet.
    Starting,
    Running,
    /// A thread copies the newest layer.
    Copying(std::thread::JoinHandle<Result<(), String>>),
}

const STAGE: &str = "krun";

impl Krun {
    /// Starts the machine. Nothing may exist at the link's path.
    pub(crate) fn start(spec: &VmSpec, shares: Vec<Socket>) -> Result<Self, StartError> {
        let failed = |what: &'static str| StartError::io(STAGE, what);
        let (control, hand_over) = socket_pair().map_err(failed("make a socket"))?;
        let order = Order { spec: spec.clone() };
        let never_readable = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| failed("make an event")(error.into()))?;
        let (console, theirs) = socket_pair().map_err(failed("make the console"))?;
        let mut fds = vec![OwnedFd::from(theirs), hand_over.into()];
        fds.extend(shares.into_iter().map(Socket::into_descriptor));
        let started = spawn::spawn_self(
            role::KRUN,
            &order,
            Confinement::SelfInUserNamespace(rustix::process::geteuid().as_raw()),
            Inherited {
                fds,
                ..Inherited::default()
            },
        )
        .map_err(failed("start its process"))?;
        Ok(Self {
            process: Process::new(started, console),
            control: control.into(),
            never_readable,
            directory: None,
            link: spec.link_socket.clone(),
            streams: spec.streams.as_ref().map(|port| port.socket.clone()),
            phase: Phase::Preparing,
            tops: newest_layers(spec),
            max_layer_bytes: spec.max_layer_bytes,
        })
    }

    /// How many more bytes the largest of the newest layers may take, where they have a bound.
    fn growth_left(&self) -> Option<u64> {
        let most = self.max_layer_bytes?;
        let tops = self.tops.iter().flatten();
        let sizes = tops.filter_map(|top| Some(fs::metadata(top).ok()?.len()));
        Some(most.saturating_sub(sizes.max()?))
    }

    /// The least room on a file system of the newest layers.
    fn room(&self) -> Option<Room> {
        let stats = self.tops.iter().flatten().map(rustix::fs::statvfs);
        let rooms = stats.filter_map(Result::ok).map(|stat| Room {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            all: stat.f_blocks.saturating_mul(stat.f_frsize),
        });
        rooms.min_by_key(|room| room.free)
    }

    /// Receives the socket's directory; gives whether it has come.
    fn receive_directory(&mut self) -> io::Result<bool> {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = rustix::net::recvmsg(
            &self.control,
            &mut [io::IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut descriptors_sent = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let Some(directory) = descriptors_sent.next() else {
            // The machine has ended, which is handled elsewhere.
            return Ok(false);
        };
        let runner = rustix::process::getpid().as_raw_nonzero();
        let within = PathBuf::from(format!("/proc/{runner}/fd/{}", directory.as_raw_fd()));
        let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&news, &within, inotify::WatchFlags::CREATE)?;
        std::os::unix::fs::symlink(within.join(SOCKET), &self.link)?;
        if let Some(streams) = &self.streams {
            std::os::unix::fs::symlink(within.join(STREAMS), streams)?;
        }
        self.control = news;
        self.directory = Some(directory);
        Ok(true)
    }

    /// Whether the socket exists; reads the changes in its directory.
    fn socket_made(&self) -> io::Result<bool> {
        if let Some(directory) = &self.directory
            && rustix::fs::statat(directory, SOCKET, rustix::fs::AtFlags::empty()).is_ok()
        {
            return Ok(true);
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        let mut news = inotify::Reader::new(&self.control, &mut buffer);
        loop {
            match news.next() {
                Ok(event)
                    if event
                        .file_name()
                        .is_some_and(|name| name.to_bytes() == SOCKET.as_bytes()) =>
                {
                    return Ok(true);
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The result of the copy, once it has ended.
    fn copied(&mut self) -> io::Result<Option<Notice>> {
        let mut byte = [0];
        match rustix::io::read(&self.control, &mut byte) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Copying(copy) => {
                let result = copy
                    .join()
                    .unwrap_or_else(|_| Err("the thread that copied it panicked".into()));
                Ok(Some(Notice::Frozen(result.map(|()| Frozen::Copy))))
            }
            other => {
                self.phase = other;
                Ok(None)
            }
        }
    }
}

impl Engine for Krun {
    fn name(&self) -> &'static str {
        "krun"
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    fn control(&self) -> BorrowedFd<'_> {
        match self.phase {
            Phase::Running => self.never_readable.as_fd(),
            Phase::Preparing | Phase::Starting | Phase::Copying(_) => self.control.as_fd(),
        }
    }

    fn notices(&mut self) -> io::Result<Vec<Notice>> {
        if matches!(self.phase, Phase::Preparing) && self.receive_directory()? {
            self.phase = Phase::Starting;
        }
        Ok(match self.phase {
            Phase::Preparing => None,
            Phase::Starting => {
                let ready = self.socket_made()?;
                if ready {
                    self.phase = Phase::Running;
                }
                ready.then_some(Notice::Ready)
            }
            Phase::Copying(_) => self.copied()?,
            Phase::Running => None,
        }
        .into_iter()
        .collect())
    }

    fn freeze_disk(&mut self, disk: usize, layer: &Path) -> Result<(), String> {
        let (Phase::Running, Some(Some(top))) = (&self.phase, self.tops.get(disk)) else {
            return Err("the VM is still starting, or another copy is being made".into());
        };
        let (ours, mut theirs) =
            socket_pair().map_err(|error| format!("make a socket: {error}"))?;
        let machine = self.process.child.pid();
        let (top, layer) = (top.clone(), layer.to_owned());
        // On a thread of its own: this can take long, and the console and the parent must not wait.
        let copy = std::thread::spawn(move || {
            let copied = while_stopped(machine, || copy(&top, &layer))
                .map_err(|error| format!("copy {}: {error}", top.display()));
            // It fails only if the runner has stopped waiting.
            theirs.write_all(&[0]).ok();
            copied
        });
        self.control = ours.into();
        self.phase = Phase::Copying(copy);
        Ok(())
    }

    fn merge_disk(&mut self, _disk: usize, _onto: &Path) -> Result<(), String> {
        Err("libkrun copies a disk to freeze it, so there is nothing to merge".into())
    }

    fn freeze_limit(&self) -> Option<Duration> {
        None
    }

    /// libkrun passes a failed write to the guest, which then loses its file system. So the machine is stopped before the
    /// host's disk is full, where that can be seen. libkrun does not bound the layer either, so its size is checked.
    fn check_disk(&mut self) -> io::Result<(Option<Notice>, Option<Duration>)> {
        let growth = match self.growth_left().map(check_interval) {
            None => SELDOM,
            Some(Some(again)) => again,
            Some(None) => return Ok((Some(Notice::Full), None)),
        };
        let Some(room) = self.room() else {
            return Ok((None, Some(growth)));
        };
        let again = Some(match room.is_plenty() {
            true => growth,
            false => OFTEN,
        });
        if !room.is_short() || !matches!(self.phase, Phase::Running) {
            return Ok((None, again));
        }
        rustix::process::kill_process(self.process.child.pid(), Signal::STOP)?;
        let reason = format!(
            "the host's disk is almost full ({} MiB are left)",
            room.free >> 20
        );
        Ok((Some(Notice::Stalled(reason)), again))
    }

    fn try_resume(&mut self) -> io::Result<bool> {
        let room = self.room().is_none_or(|room| !room.is_short());
        if room {
            rustix::process::kill_process(self.process.child.pid(), Signal::CONT)?;
        }
        Ok(room)
    }

    fn guest_ended_it(&self) -> bool {
        // Its process ends without an error only when the guest ends it.
        true
    }

    fn explain(&self, messages: &[String]) -> StartError {
        let said = messages
            .iter()
            .rev()
            .filter_map(|line| line.strip_prefix("krun: "))
            .find(|line| !line.trim().is_empty());
        let Some(said) = said else {
            return StartError::new(STAGE, "the machine ended without a message");
        };
        let hint =
            if said.contains("VmFd") || said.contains("/dev/kvm") || said.contains("KvmContext") {
                "; `snowglobe doctor` says whether this host's KVM can be used"
            } else {
                ""
            };
        StartError::new(STAGE, format!("{said}{hint}"))
    }
}
