//! Starts a process in namespaces of its own.
//!
//! The standard library starts a process in its parent's namespaces only, and a PID namespace holds only processes that
//! are made in it. So this module makes a process by `clone`: it is the first of its PID namespace (it sees and
//! signals no other process), it is in a user namespace unless it needs root's rights on files, and it has mounts, a
//! network, IPC and host names of its own.
//!
//! Invariants:
//! - the kernel kills a child when the thread that made it ends, so children are made on the main thread only;
//! - a child has the descriptors in [`Inherited`] and no others, no environment, and `/` as its directory;
//! - a child has a lower priority than the user's other processes ([`NICE`]);
//! - a child's command line, which every user of the host can read, names no file ([`super::order`]).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::UnshareFlags;
use serde::Serialize;

use super::calls::{Calls, Filters};
use super::child::Child;
use super::namespaces::{self, Confinement, IdMaps};
use super::{fence, order};

/// The nice value of a child.
const NICE: i32 = 5;

/// Looks a program's name without a directory up in `PATH`, as a shell does.
fn look_up(program: &Path) -> std::borrow::Cow<'_, Path> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if program.as_os_str().as_bytes().contains(&b'/') {
        return program.into();
    }
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .map_or(program.into(), Into::into)
}

/// The program of a child.
pub(crate) enum Program<'a> {
    /// This program again.
    Itself,
    /// A program of the host.
    At(&'a Path),
}

/// What a child inherits.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// A Landlock fence.
    pub(crate) fence: Option<OwnedFd>,
    /// The system calls that it may make, from its start on; one is the call that starts a program.
    pub(crate) calls: Option<Calls>,
    /// Its working directory, if not the root.
    pub(crate) directory: Option<OwnedFd>,
    /// Its descriptors 3, 4, …
    pub(crate) fds: Vec<OwnedFd>,
    /// Its standard input, if not empty.
    pub(crate) input: Option<OwnedFd>,
}

/// A started child.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process.
    pub(crate) child: Child,
    /// Its standard error, read without blocking.
    pub(crate) messages: OwnedFd,
    /// The namespaces that it does not have, and why.
    pub(crate) missing_fences: Vec<String>,
}

/// Starts a program. Where the kernel refuses the namespaces, the program starts without them, and
/// [`Started::missing_fences`] says so.
pub(crate) fn spawn(
    program: &Program<'_>,
    args: &[impl AsRef<OsStr>],
    confinement: Confinement,
    inherited: Inherited,
) -> io::Result<Started> {
    let mut prepared = Prepared::new(program, args, confinement, inherited)?;
    match prepared.start() {
        Err(SpawnError::Namespaces(why)) => {
            prepared.in_namespaces = false;
            let mut started = prepared.start().map_err(SpawnError::into_io)?;
            let without = format!("namespaces: the kernel refuses them ({why})");
            started.missing_fences.insert(0, without);
            Ok(started)
        }
        started => started.map_err(SpawnError::into_io),
    }
}

/// Starts this program again in a role, with an order on its standard input ([`order::read`]).
pub(crate) fn spawn_self(
    role: &str,
    order: &impl Serialize,
    confinement: Confinement,
    inherited: Inherited,
) -> io::Result<Started> {
    let inherited = Inherited {
        input: Some(order::to_input(order)?),
        ..inherited
    };
    spawn(&Program::Itself, &[role], confinement, inherited)
}

/// Why a child was not started.
enum SpawnError {
    /// The kernel refuses the namespaces; a start without them may work.
    Namespaces(io::Error),
    Other(io::Error),
}

impl SpawnError {
    fn into_io(self) -> io::Error {
        match self {
            Self::Namespaces(error) | Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for SpawnError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

impl From<rustix::io::Errno> for SpawnError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Other(error.into())
    }
}

/// The first byte of a report: what a child writes to the runner before it becomes its program.
mod report {
    /// A step in the namespaces failed.
    pub(super) const NAMESPACES: u8 = b'n';
    /// It has no `/proc` of its own; it continues without one.
    pub(super) const NO_PROC: u8 = b'p';
    /// The kernel refuses its system call filter; it continues without one.
    pub(super) const NO_FILTER: u8 = b'f';
    /// The parent has ended, the kernel refuses a fence, or the program can't be run.
    pub(super) const OTHER: u8 = b'o';
}

/// All that a child needs, made before `clone`: the child must not allocate.
struct Prepared {
    /// The program as a descriptor; `None` where it is at `path`.
    exe: Option<OwnedFd>,
    path: CString,
    args: Vec<CString>,
    confinement: Confinement,
    in_namespaces: bool,
    id_maps: Option<IdMaps>,
    fence: Option<OwnedFd>,
    filters: Option<Filters>,
    directory: Option<OwnedFd>,
    null: OwnedFd,
    input: Option<OwnedFd>,
    fds: Vec<OwnedFd>,
    parent: OwnedFd,
}

impl Prepared {
    fn new(
        program: &Program<'_>,
        args: &[impl AsRef<OsStr>],
        confinement: Confinement,
        inherited: Inherited,
    ) -> io::Result<Self> {
        let Inherited {
            fence,
            calls,
            directory,
            fds,
            input,
        } = inherited;
        // Above the numbers that the child's own descriptors get.
        let first = 3 + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX);
        let move_up = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first);
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let exe = match program {
            Program::Itself => Some(move_up(File::open("/proc/self/exe")?.as_fd())?),
            Program::At(_) => None,
        };
        let path = match program {
            Program::Itself => CString::default(),
            Program::At(path) => text(look_up(path).as_os_str())?,
        };
        let name = match program {
            Program::Itself => c"snowglobe-runner".to_owned(),
            Program::At(_) => path.clone(),
        };
        let args = std::iter::once(Ok(name)).chain(args.iter().map(|arg| text(arg.as_ref())));
        let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        Ok(Self {
            exe,
            args: args.collect::<Result<_, _>>()?,
            path,
            confinement,
            in_namespaces: true,
            id_maps: confinement.id_maps(),
            fence: fence.map(|fence| move_up(fence.as_fd())).transpose()?,
            filters: calls
                .map(|calls| calls.filters())
                .transpose()
                .map_err(io::Error::other)?,
            directory: directory
                .map(|directory| move_up(directory.as_fd()))
                .transpose()?,
            null: move_up(
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?
                    .as_fd(),
            )?,
            input: input.map(|input| move_up(input.as_fd())).transpose()?,
            fds: fds
                .iter()
                .map(|fd| move_up(fd.as_fd()))
                .collect::<Result<_, _>>()?,
            parent: move_up(parent.as_fd())?,
        })
    }

    fn start(&mut self) -> Result<Started, SpawnError> {
        let first = 3 + RawFd::try_from(self.fds.len()).unwrap_or(RawFd::MAX);
        let pipe = || -> rustix::io::Result<_> {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            Ok((read, rustix::io::fcntl_dupfd_cloexec(&write, first)?))
        };
        let (report, to_report) = pipe()?;
        let (messages, to_messages) = pipe()?;
        let mut args: Vec<_> = self.args.iter().map(|arg| arg.as_ptr()).collect();
        args.push(std::ptr::null());
        let flags = if self.in_namespaces {
            self.confinement.flags()
        } else {
            0
        };
        // SAFETY: without CLONE_VM and without a stack this is a fork. Until the child becomes its program or ends, it
        // only makes system calls, on memory that was allocated before.
        let made = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(flags | libc::SIGCHLD),
                0,
                0,
                0,
                0,
            )
        };
        let pid = match made {
            0 => self.child(&args, to_messages.as_raw_fd(), &to_report),
            pid => i32::try_from(pid).ok().and_then(Pid::from_raw),
        };
        let Some(pid) = pid.filter(|_| made > 0) else {
            let error = io::Error::last_os_error();
            return Err(match self.in_namespaces {
                true => SpawnError::Namespaces(error),
                false => SpawnError::Other(error),
            });
        };
        drop((to_report, to_messages));
        let mut child = Child::new(pid);
        match self.read_report(report.into()) {
            Ok(missing_fences) => {
                rustix::io::ioctl_fionbio(&messages, true)?;
                Ok(Started {
                    child,
                    messages,
                    missing_fences,
                })
            }
            Err(error) => {
                child.end();
                Err(error)
            }
        }
    }

    /// Reads the child's reports until it becomes its program; gives the missing fences.
    fn read_report(&self, mut report: File) -> Result<Vec<String>, SpawnError> {
        let mut reports = Vec::new();
        report.read_to_end(&mut reports)?;
        let mut missing_fences = Vec::new();
        for piece in reports.chunks_exact(5) {
            let number = i32::from_ne_bytes([piece[1], piece[2], piece[3], piece[4]]);
            let error = io::Error::from_raw_os_error(number);
            match piece[0] {
                report::NAMESPACES if self.in_namespaces => {
                    return Err(SpawnError::Namespaces(error));
                }
                report::NO_PROC => {
                    missing_fences.push(namespaces::without_own_proc(&error));
                }
                report::NO_FILTER => {
                    missing_fences.push(format!("a filter of system calls: {error}"));
                }
                _ => return Err(SpawnError::Other(error)),
            }
        }
        Ok(missing_fences)
    }

    /// In the child: all that it does until it becomes its program. Allocates nothing.
    fn child(&mut self, args: &[*const libc::c_char], messages: RawFd, report: &OwnedFd) -> ! {
        let say = |kind: u8, error: rustix::io::Errno| {
            let [a, b, c, d] = error.raw_os_error().to_ne_bytes();
            rustix::io::write(report, &[kind, a, b, c, d]).ok();
        };
        if self.in_namespaces
            && let Err(error) = self.enter_namespaces(|error| say(report::NO_PROC, error))
        {
            say(report::NAMESPACES, error);
        } else {
            match self.confine(messages) {
                Ok(()) => {
                    if let Some(Err(error)) = self.filters.as_mut().map(Filters::install) {
                        say(report::NO_FILTER, error);
                    }
                    say(report::OTHER, self.execute(args));
                }
                Err(error) => say(report::OTHER, error),
            }
        }
        // SAFETY: ends this process at once, without running exit handlers of the parent.
        unsafe { libc::_exit(127) }
    }

    /// In the child: prepares the namespaces.
    fn enter_namespaces(&self, no_proc: impl Fn(rustix::io::Errno)) -> rustix::io::Result<()> {
        if let Some(maps) = &self.id_maps {
            maps.write()?;
        }
        self.enter_directory()?;
        // SAFETY: the call unshares mounts only; what could break other code is to unshare descriptors.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
        match self.confinement {
            Confinement::Unprivileged | Confinement::RootOpensFiles => {
                if let Err(error) = namespaces::mount_own_proc() {
                    no_proc(error);
                    namespaces::hide_proc().ok();
                }
                match self.confinement {
                    Confinement::RootOpensFiles => namespaces::drop_bounding_set(),
                    _ => Ok(()),
                }
            }
            Confinement::SelfInUserNamespace(_) => namespaces::keep_capabilities(),
            Confinement::SelfAsRoot => Ok(()),
        }
    }

    fn enter_directory(&self) -> rustix::io::Result<()> {
        match &self.directory {
            Some(directory) => rustix::process::fchdir(directory),
            None => rustix::process::chdir(c"/"),
        }
    }

    fn confine(&self, messages: RawFd) -> rustix::io::Result<()> {
        let last = || rustix::io::Errno::from_io_error(&io::Error::last_os_error());
        let null = self.null.as_raw_fd();
        let input = self.input.as_ref().map_or(null, |input| input.as_raw_fd());
        let numbers = [input, null, messages];
        let fds = self.fds.iter().map(|fd| fd.as_raw_fd());
        for (theirs, ours) in (0..).zip(numbers.into_iter().chain(fds)) {
            // SAFETY: both are descriptor numbers, and the child's program does not use what had the lower one.
            if unsafe { libc::dup2(ours, theirs) } < 0 {
                return Err(last().unwrap_or(rustix::io::Errno::BADF));
            }
        }
        // SAFETY: the calls restore what a program expects: no signal is blocked, and a broken pipe ends it.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        if !self.in_namespaces {
            self.enter_directory()?;
        }
        // After the change of credentials, which clears the death signal.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the parent ended before that call, the kernel sends no signal.
        let mut parent = [PollFd::new(&self.parent, PollFlags::IN)];
        if rustix::event::poll(&mut parent, Some(&Timespec::default()))? > 0 {
            return Err(rustix::io::Errno::SRCH);
        }
        rustix::process::nice(NICE).ok();
        match &self.fence {
            Some(fence) => fence::enter_descriptor(fence),
            None => Ok(()),
        }
    }

    /// In the child: becomes the program; returns only on failure.
    fn execute(&self, args: &[*const libc::c_char]) -> rustix::io::Errno {
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        let (args, environment) = (args.as_ptr(), environment.as_ptr());
        // SAFETY: the strings end in a zero byte, the lists in a null pointer, and all live until the call is over.
        unsafe {
            match &self.exe {
                Some(exe) => libc::syscall(
                    libc::SYS_execveat,
                    exe.as_raw_fd(),
                    c"".as_ptr(),
                    args,
                    environment,
                    libc::AT_EMPTY_PATH,
                ),
                // The one call to start programs that QEMU's filters allow.
                None => libc::syscall(libc::SYS_execve, self.path.as_ptr(), args, environment),
            }
        };
        rustix::io::Errno::from_io_error(&io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::NOEXEC)
    }
}
