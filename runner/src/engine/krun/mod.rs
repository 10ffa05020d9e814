//! The engine `krun`: libkrun in a process of its own, which is this program again, as `krun`.
//!
//! A process, not a thread, because libkrun ends the whole process with its guest, and because only a process can be
//! shut off ([`machine`]). Its descriptors are the console, the socket by which it hands over a
//! directory, and the three standard ones.
//!
//! The guest link is a vsock port, which libkrun offers on a socket of its own making. A guest that breaks out of libkrun
//! can write where that socket is, so that is a tiny file system of the machine's own, and nothing of the host's: the
//! machine hands its directory over, and the link's path is a symbolic link to there, through the runner's descriptor. The
//! machine is ready once the socket is there: then the guest's kernel has found the device.
//!
//! libkrun can't put a new layer on a disk while the guest runs. So a disk is frozen by copying its newest layer
//! while the whole process is stopped: what the guest has flushed is in the file by then.

mod ffi;
mod machine;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::{Pid, Signal, WaitIdOptions};
use serde::{Deserialize, Serialize};
use snowglobe_runner::VmSpec;

use crate::confine::spawn::{self, Child, Confinement, Given, Program};
use crate::engine::{Engine, Frozen, Notice, StartError};
use crate::share;

pub(crate) use machine::run;

/// The argument by which this program becomes a machine.
pub(crate) const ARGUMENT: &str = "krun";

/// The name of the socket that libkrun makes.
const SOCKET: &str = "link";

/// Where the machine has it.
const SOCKET_DIRECTORY: &str = "/snowglobe-link";

/// The console's number in the machine's process.
const CONSOLE_FD: i32 = 3;

/// The number there of the socket by which the machine hands over its directory.
const HAND_OVER_FD: i32 = 4;

/// What the machine's process is told, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    spec: VmSpec,
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Krun {
    child: Child,
    console: UnixStream,
    messages: OwnedFd,
    lacks: Vec<String>,
    /// Says that the socket's directory is handed over, then what becomes of that, and once the machine is ready, that
    /// a copy is made.
    control: OwnedFd,
    /// Says nothing. While the machine only runs it is listened to instead, since the end of what `control` had to say
    /// would be heard again and again.
    silence: OwnedFd,
    /// The socket's directory.
    directory: Option<OwnedFd>,
    link: PathBuf,
    phase: Phase,
    top: Option<PathBuf>,
    max_layer_bytes: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// The socket's directory is not known yet.
    Preparing,
    /// The socket isn't there yet.
    Starting,
    Running,
    /// A copy of the newest layer is being made; the thread that makes it ends with what came of it.
    Copying(std::thread::JoinHandle<Result<(), String>>),
}

const STAGE: &str = "krun";

/// How often the host's disk is looked at where it has plenty of room, and where not.
const SELDOM: Duration = Duration::from_secs(2);
const OFTEN: Duration = Duration::from_millis(100);

/// The room on a file system, in bytes.
#[derive(Debug, Clone, Copy)]
struct Room {
    free: u64,
    all: u64,
}

/// How often the newest layer is looked at where it may still grow by so much, or nothing where it may not grow. A guest
/// writes no more beyond its bound than it can in that time. Pure.
fn look_at_layer(left: u64) -> Option<Duration> {
    match left {
        0 => None,
        left if left > 4 << 30 => Some(SELDOM),
        _ => Some(OFTEN),
    }
}

impl Room {
    /// Whether so little is left that what the guest writes next may not fit.
    fn is_short(self) -> bool {
        self.free < (self.all / 20).min(256 << 20)
    }

    /// Whether a guest takes long to fill it.
    fn is_plenty(self) -> bool {
        self.free > 16 << 30
    }
}

impl Krun {
    /// Starts the machine. The link's path must be free.
    pub(crate) fn start(spec: &VmSpec, handed_on: &[OwnedFd]) -> Result<Self, StartError> {
        let failed = |what: &'static str| StartError::io(STAGE, what);
        let (control, hand_over) = UnixStream::pair()
            .and_then(|(ours, theirs)| {
                ours.set_nonblocking(true)?;
                Ok((ours, theirs))
            })
            .map_err(failed("make a socket"))?;
        let order = Order { spec: spec.clone() };
        let input = spawn::order_input(&order).map_err(failed("tell the machine"))?;
        let silence = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| failed("make an event")(error.into()))?;
        let (console, theirs) = UnixStream::pair().map_err(failed("make the console"))?;
        console
            .set_nonblocking(true)
            .map_err(failed("prepare the console"))?;
        // It shuts itself off from the host, further than can be done before it runs. There the runner's user is the
        // share's guest id, and there is no other. It begins in the first share.
        let guest_id = spec.shares.first().map_or(0, |share| share.guest_id);
        let directory = match spec.shares.first() {
            Some(first) => Some(share::directory(first, handed_on)?),
            None => None,
        };
        let started = spawn::spawn(
            &Program::Itself,
            &[ARGUMENT],
            Confinement::Itself(guest_id),
            Given {
                directory,
                input: Some(input),
                fds: vec![theirs.into(), hand_over.into()],
                ..Given::default()
            },
        )
        .map_err(failed("start its process"))?;
        Ok(Self {
            child: started.child,
            console,
            messages: started.messages,
            lacks: started.lacks,
            control: control.into(),
            silence,
            directory: None,
            link: spec.link_socket.clone(),
            phase: Phase::Preparing,
            top: spec
                .disks
                .first()
                .filter(|disk| !disk.read_only)
                .map(|disk| disk.path.clone()),
            max_layer_bytes: spec.max_layer_bytes,
        })
    }

    /// By how much the newest layer may grow, where that has a bound. The kernel's own bound on files would be the
    /// workspace's, too, which the same process writes.
    fn growth_left(&self) -> Option<u64> {
        let (top, most) = (self.top.as_ref()?, self.max_layer_bytes?);
        Some(most.saturating_sub(fs::metadata(top).ok()?.len()))
    }

    /// The room where the newest layer is.
    fn room(&self) -> Option<Room> {
        let stat = rustix::fs::statvfs(self.top.as_ref()?).ok()?;
        Some(Room {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            all: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// Takes the socket's directory, once it is handed over; gives whether it was.
    fn take_directory(&mut self) -> io::Result<bool> {
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
        let mut handed_over = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let Some(directory) = handed_over.next() else {
            // The machine has ended, which is noticed elsewhere.
            return Ok(false);
        };
        let runner = rustix::process::getpid().as_raw_nonzero();
        let within = PathBuf::from(format!("/proc/{runner}/fd/{}", directory.as_raw_fd()));
        let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&news, &within, inotify::WatchFlags::CREATE)?;
        std::os::unix::fs::symlink(within.join(SOCKET), &self.link)?;
        self.control = news;
        self.directory = Some(directory);
        Ok(true)
    }

    /// Whether the socket is there; takes the news of its directory.
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

    /// What came of the copy, once it is made.
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

    fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn lacks(&self) -> &[String] {
        &self.lacks
    }

    fn console(&self) -> BorrowedFd<'_> {
        self.console.as_fd()
    }

    fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    fn control(&self) -> BorrowedFd<'_> {
        match self.phase {
            Phase::Running => self.silence.as_fd(),
            Phase::Preparing | Phase::Starting | Phase::Copying(_) => self.control.as_fd(),
        }
    }

    fn notices(&mut self) -> io::Result<Vec<Notice>> {
        if matches!(self.phase, Phase::Preparing) && self.take_directory()? {
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

    fn freeze_disk(&mut self, layer: &Path) -> Result<(), String> {
        let (Phase::Running, Some(top)) = (&self.phase, &self.top) else {
            return Err("the VM is still starting, or another copy is being made".into());
        };
        let (ours, mut theirs) = UnixStream::pair()
            .and_then(|(ours, theirs)| {
                ours.set_nonblocking(true)?;
                Ok((ours, theirs))
            })
            .map_err(|error| format!("make a socket: {error}"))?;
        let machine = self.child.pid();
        let (top, layer) = (top.clone(), layer.to_owned());
        // This can take long, and the console and the parent want to be heard meanwhile.
        let copy = std::thread::spawn(move || {
            let copied = while_stopped(machine, || copy(&top, &layer))
                .map_err(|error| format!("copy {}: {error}", top.display()));
            // Who does not hear it is gone.
            let _ = theirs.write_all(&[0]);
            copied
        });
        self.control = ours.into();
        self.phase = Phase::Copying(copy);
        Ok(())
    }

    fn freeze_limit(&self) -> Option<Duration> {
        None
    }

    /// libkrun hands a failed write to the guest, whose file system is lost with it. So the machine is stopped before
    /// the host's disk is full, if that can be seen. And it bounds no file, so the layer is looked at.
    fn look(&mut self) -> io::Result<(Option<Notice>, Option<Duration>)> {
        let growth = match self.growth_left().map(look_at_layer) {
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
        rustix::process::kill_process(self.child.pid(), Signal::STOP)?;
        let reason = format!(
            "the host's disk is almost full ({} MiB are left)",
            room.free >> 20
        );
        Ok((Some(Notice::Stalled(reason)), again))
    }

    fn try_again(&mut self) -> io::Result<bool> {
        let room = self.room().is_none_or(|room| !room.is_short());
        if room {
            rustix::process::kill_process(self.child.pid(), Signal::CONT)?;
        }
        Ok(room)
    }

    fn guest_ended_it(&self) -> bool {
        // It ends without an error only when the guest does.
        true
    }

    fn explain(&self, messages: &[String]) -> StartError {
        let said = messages
            .iter()
            .rev()
            .filter_map(|line| line.strip_prefix("krun: "))
            .find(|line| !line.trim().is_empty());
        let Some(said) = said else {
            return StartError::new(STAGE, "the machine ended without a word");
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

/// Does something while no thread of the process runs.
fn while_stopped<T>(process: Pid, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    rustix::process::kill_process(process, Signal::STOP)?;
    let done = stopped(process).and_then(|()| work());
    rustix::process::kill_process(process, Signal::CONT)?;
    done
}

/// Waits until the process stands still.
fn stopped(process: Pid) -> io::Result<()> {
    // What it is said to have ended with is left to who waits for its end.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(rustix::process::WaitId::Pid(process), options)? {
        Some(status) if status.stopped() => Ok(()),
        _ => Err(io::Error::other("the VM ended")),
    }
}

/// Copies a file to a new one, sharing its blocks where the file system can.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = fs::File::open(from)?;
    let mut target = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    // In the kernel, without the detour through this process.
    let copied = io::copy(&mut (&mut source).take(length), &mut target)?;
    if copied != length {
        return Err(io::Error::other("it became shorter meanwhile"));
    }
    Ok(())
}
