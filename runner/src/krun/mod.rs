//! The engine `krun`: libkrun in a process of its own, which is this program again, as `krun`.
//!
//! A process, not a thread, because libkrun ends the whole process with its guest, and because only a process can be
//! shut off ([`machine`]). Its descriptors are 3, the console, and the three standard ones.
//!
//! The guest link is a vsock port, which libkrun offers on a socket of its own making, in a directory that is made
//! for it beside the link's path, or where that would be too long for a socket, in /tmp; the link's path itself is a
//! symbolic link to there. The machine is ready once that
//! socket is there: then the guest's kernel has found the device.
//!
//! libkrun can't put a new layer on a disk while the guest runs. So a disk is frozen by copying its newest layer
//! while the whole process is stopped: what the guest has flushed is in the file by then.

mod calls;
mod ffi;
mod machine;

use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::fs::inotify;
use rustix::process::{Pid, Signal, WaitIdOptions};
use serde::{Deserialize, Serialize};
use snowglobe_runner::VmSpec;
use snowglobe_runner::socket::MAX_PATH;

use crate::engine::{Engine, Frozen, Notice, StartError};
use crate::process::{self, Confinement};

pub(crate) use machine::run;

/// The argument by which this program becomes a machine.
pub(crate) const ARGUMENT: &str = "krun";

/// The name of the socket that libkrun makes.
const SOCKET: &str = "link";

/// The console's number in the machine's process.
const CONSOLE_FD: i32 = 3;

/// What the machine's process is told, as its second argument.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    spec: VmSpec,
    /// The runner's process id.
    runner: i32,
    /// Where the link's socket is to be made.
    socket: PathBuf,
}

/// The directory in which libkrun makes the socket: beside the link's path, or with a name made of that path where it
/// would be too long.
pub(crate) fn socket_directory(link: &Path) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    name.push(".d");
    let beside = PathBuf::from(name);
    if beside.join(SOCKET).as_os_str().len() <= MAX_PATH {
        return beside;
    }
    let mut hasher = DefaultHasher::new();
    link.hash(&mut hasher);
    Path::new("/tmp").join(format!("snowglobe-{:016x}.d", hasher.finish()))
}

/// The socket behind the link's path.
pub(crate) fn socket(link: &Path) -> PathBuf {
    socket_directory(link).join(SOCKET)
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Krun {
    child: Child,
    console: UnixStream,
    messages: ChildStderr,
    /// Watches the socket's directory, until the machine is ready; then says that a copy is made.
    control: OwnedFd,
    phase: Phase,
    top: Option<PathBuf>,
}

#[derive(Debug)]
enum Phase {
    /// The socket isn't there yet.
    Starting,
    Running,
    /// A copy of the newest layer is being made; the thread that makes it ends with what came of it.
    Copying(std::thread::JoinHandle<Result<(), String>>),
}

const STAGE: &str = "krun";

impl Krun {
    /// Starts the machine. The link's path must be free.
    pub(crate) fn start(spec: &VmSpec) -> Result<Self, StartError> {
        let directory = socket_directory(&spec.link_socket);
        let control = link(&spec.link_socket, &directory).map_err(StartError::io(
            "guest link",
            format!("make {}", directory.display()),
        ))?;
        let order = Order {
            spec: spec.clone(),
            runner: rustix::process::getpid().as_raw_nonzero().get(),
            socket: socket(&spec.link_socket),
        };
        let order = serde_json::to_string(&order)
            .map_err(|error| StartError::new(STAGE, format!("tell the machine: {error}")))?;
        let failed = |what: &'static str| StartError::io(STAGE, what);
        let (console, theirs) = UnixStream::pair().map_err(failed("make the console"))?;
        console
            .set_nonblocking(true)
            .map_err(failed("prepare the console"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args([ARGUMENT, &order])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // It shuts itself off from the host, further than can be done before it runs.
        let spawned = process::spawn(command, Confinement::None, None, vec![theirs.into()]);
        let (mut child, _) = spawned.map_err(failed("start its process"))?;
        let messages = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("its standard error is missing"))
            .and_then(|messages| {
                rustix::io::ioctl_fionbio(&messages, true)?;
                Ok(messages)
            });
        match messages {
            Ok(messages) => Ok(Self {
                child,
                console,
                messages,
                control,
                phase: Phase::Starting,
                top: spec
                    .disks
                    .first()
                    .filter(|disk| !disk.read_only)
                    .map(|disk| disk.path.clone()),
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(failed("watch its process")(error))
            }
        }
    }

    /// Whether the socket is there; takes the news of its directory.
    fn socket_made(&self) -> io::Result<bool> {
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

/// Makes the directory for the socket, and the link to where it will be; gives what says when it is.
fn link(path: &Path, directory: &Path) -> io::Result<OwnedFd> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(directory)?;
    let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&news, directory, inotify::WatchFlags::CREATE)?;
    std::os::unix::fs::symlink(directory.join(SOCKET), path)?;
    Ok(news)
}

impl Engine for Krun {
    fn name(&self) -> &'static str {
        "krun"
    }

    fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn console(&self) -> BorrowedFd<'_> {
        self.console.as_fd()
    }

    fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    fn notices(&mut self) -> io::Result<Vec<Notice>> {
        Ok(match self.phase {
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
        let machine = Pid::from_child(&self.child);
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
    let mut target = fs::File::options().write(true).create_new(true).open(to)?;
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
