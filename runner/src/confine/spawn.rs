//! Starting a process in namespaces of its own.
//!
//! The standard library starts processes in the namespaces of their parent only, and a PID namespace takes in just
//! those that are made in it. So this makes a process by `clone` itself: it is the first of its PID namespace (there
//! is nobody else to see or to signal), in a user namespace unless it needs root's rights on files, and has mounts,
//! a network, IPC and names of its own.
//!
//! Invariants: a child is killed by the kernel when the thread that made it ends, however that happens, so children
//! are made on the main thread only; it has no descriptor but those it is given, no environment, `/` as its
//! directory; it gives way to what the user does meanwhile ([`NICE`]). Its command line, which every user of the host can
//! read, names no file: a child that is this program again reads its order from standard input ([`order`]).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How far a child stands back when there is more to do than processors to do it.
const NICE: i32 = 5;

/// The namespaces that a child is made in, beside that of users. That of mounts comes once it is in its directory: it
/// takes the working directory along, where a descriptor would stay behind.
const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// The id of a program of others inside its user namespace: one without capabilities, so not 0.
const NOBODY: u32 = 65534;

/// How far a child is shut off from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// In a user namespace of its own, as nobody there: it has no capability anywhere, and files outside are open to
    /// it as to the user who runs the runner.
    Nobody,
    /// As root with no capability but that of opening files whoever owns them: for a root whose files are in
    /// directories that only capabilities open.
    RootOpensFiles,
    /// This program again, which shuts itself off further: in a user namespace of its own, as that id, with every
    /// capability there.
    Itself(u32),
    /// The same as root, who has to open what belongs to others.
    RootItself,
}

impl Confinement {
    fn flags(self) -> i32 {
        match self {
            Self::Nobody | Self::Itself(_) => libc::CLONE_NEWUSER | NAMESPACES,
            Self::RootOpensFiles | Self::RootItself => NAMESPACES,
        }
    }

    fn maps(self) -> Option<IdMaps> {
        match self {
            Self::Nobody => Some(IdMaps::to(NOBODY)),
            Self::Itself(id) => Some(IdMaps::to(id)),
            Self::RootOpensFiles | Self::RootItself => None,
        }
    }
}

/// What a user namespace needs written, once one is inside it.
struct IdMaps {
    uid: String,
    gid: String,
}

impl IdMaps {
    /// Maps this process's ids to `inside`.
    fn to(inside: u32) -> Self {
        Self {
            uid: format!("{inside} {} 1", rustix::process::geteuid().as_raw()),
            gid: format!("{inside} {} 1", rustix::process::getegid().as_raw()),
        }
    }

    fn write(&self) -> rustix::io::Result<()> {
        let put = |path: &std::ffi::CStr, text: &str| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty())?;
            rustix::io::write(&file, text.as_bytes()).map(drop)
        };
        put(c"/proc/self/setgroups", "deny")?;
        put(c"/proc/self/uid_map", &self.uid)?;
        put(c"/proc/self/gid_map", &self.gid)
    }
}

/// A name without a directory is looked for where programs are, as a shell does.
fn found(program: &Path) -> std::borrow::Cow<'_, Path> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if program.as_os_str().as_bytes().contains(&b'/') {
        return program.into();
    }
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .map_or(program.into(), Into::into)
}

/// What is to run.
pub(crate) enum Program<'a> {
    /// This program again.
    Itself,
    /// One of the host's.
    At(&'a Path),
}

/// A child process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    /// Its number, outside of its namespace.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its number, outside of its namespace.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that can be read from once it has ended.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_open(self.pid, PidfdFlags::empty())?)
    }

    /// Kills it, if it hasn't ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.status {
            // Its number may be another's by now.
            Some(_) => Ok(()),
            None => Ok(rustix::process::kill_process(self.pid, Signal::KILL)?),
        }
    }

    /// How it ended, if it did.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(WaitOptions::NOHANG)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.reap(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    fn reap(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            match rustix::process::waitpid(Some(self.pid), options) {
                Ok(ended) => {
                    self.status = ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.status)
    }
}

/// What a program is given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// A fence of Landlock's.
    pub(crate) fence: Option<OwnedFd>,
    /// Where it begins, if not at the root; also in its mount namespace.
    pub(crate) directory: Option<OwnedFd>,
    /// Its descriptors 3, 4, …; it has no other.
    pub(crate) fds: Vec<OwnedFd>,
    /// Its standard input, if that is not to be empty.
    pub(crate) input: Option<OwnedFd>,
}

/// What a child that is this program again is to do, as its standard input. A file in memory, so that nobody has to
/// write on while it reads.
pub(crate) fn order_input(order: &impl Serialize) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("order", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&mut file, order)?;
    file.rewind()?;
    Ok(file.into())
}

/// In such a child: what it is to do.
pub(crate) fn order<T: DeserializeOwned>() -> serde_json::Result<T> {
    serde_json::from_reader(io::stdin().lock())
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Started {
    /// It.
    pub(crate) child: Child,
    /// Its standard error, read without blocking.
    pub(crate) messages: OwnedFd,
    /// Which of the namespaces it does not have, and why.
    pub(crate) lacks: Vec<String>,
}

/// Starts a program with what it is given, confined as `confinement` says. Where the kernel refuses the namespaces it starts without them, and that is said.
pub(crate) fn spawn(
    program: &Program<'_>,
    args: &[impl AsRef<OsStr>],
    confinement: Confinement,
    given: Given,
) -> io::Result<Started> {
    let mut prepared = Prepared::new(program, args, confinement, given)?;
    match prepared.start() {
        Err(Failed::Namespaces(why)) => {
            prepared.apart = false;
            let mut started = prepared.start().map_err(Failed::into_io)?;
            started.lacks = vec![format!("namespaces: the kernel refuses them ({why})")];
            Ok(started)
        }
        started => started.map_err(Failed::into_io),
    }
}

/// Whether this process was given namespaces of its own when it was started.
pub(crate) fn is_apart() -> bool {
    rustix::process::getpid() == Pid::INIT
}

/// Why there is no child.
enum Failed {
    /// The namespaces are refused; without them it may work.
    Namespaces(io::Error),
    Other(io::Error),
}

impl Failed {
    fn into_io(self) -> io::Error {
        match self {
            Self::Namespaces(error) | Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

impl From<rustix::io::Errno> for Failed {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Other(error.into())
    }
}

/// What a child says before it becomes the program.
mod said {
    /// The namespaces can't be used.
    pub(super) const NAMESPACES: u8 = b'n';
    /// There is no `/proc` of its own.
    pub(super) const PROC: u8 = b'p';
    /// The parent is gone, a fence is refused, or the program can't be run.
    pub(super) const OTHER: u8 = b'o';
}

/// All that a child needs, which may not allocate.
struct Prepared {
    /// The program as a descriptor, or nothing where it is at `path`.
    exe: Option<OwnedFd>,
    path: CString,
    args: Vec<CString>,
    confinement: Confinement,
    /// Whether it gets namespaces.
    apart: bool,
    maps: Option<IdMaps>,
    fence: Option<OwnedFd>,
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
        given: Given,
    ) -> io::Result<Self> {
        let Given {
            fence,
            directory,
            fds,
            input,
        } = given;
        // Out of the way of the numbers that the child is to have.
        let first = 3 + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX);
        let away = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first);
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let exe = match program {
            Program::Itself => Some(away(File::open("/proc/self/exe")?.as_fd())?),
            Program::At(_) => None,
        };
        let path = match program {
            Program::Itself => CString::default(),
            Program::At(path) => text(found(path).as_os_str())?,
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
            apart: true,
            maps: confinement.maps(),
            fence: fence.map(|fence| away(fence.as_fd())).transpose()?,
            directory: directory
                .map(|directory| away(directory.as_fd()))
                .transpose()?,
            null: away(
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?
                    .as_fd(),
            )?,
            input: input.map(|input| away(input.as_fd())).transpose()?,
            fds: fds
                .iter()
                .map(|fd| away(fd.as_fd()))
                .collect::<Result<_, _>>()?,
            parent: away(parent.as_fd())?,
        })
    }

    fn start(&self) -> Result<Started, Failed> {
        let first = 3 + RawFd::try_from(self.fds.len()).unwrap_or(RawFd::MAX);
        let pipe = || -> rustix::io::Result<_> {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            Ok((read, rustix::io::fcntl_dupfd_cloexec(&write, first)?))
        };
        let (report, to_report) = pipe()?;
        let (messages, to_messages) = pipe()?;
        let mut args: Vec<_> = self.args.iter().map(|arg| arg.as_ptr()).collect();
        args.push(std::ptr::null());
        let flags = if self.apart {
            self.confinement.flags()
        } else {
            0
        };
        // SAFETY: without CLONE_VM and without a stack this is a fork. The child makes system calls only, on what was
        // made before, until it is another program or has ended.
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
            return Err(match self.apart {
                true => Failed::Namespaces(error),
                false => Failed::Other(error),
            });
        };
        drop((to_report, to_messages));
        let mut child = Child { pid, status: None };
        match self.heard(report.into()) {
            Ok(lacks) => {
                rustix::io::ioctl_fionbio(&messages, true)?;
                Ok(Started {
                    child,
                    messages,
                    lacks,
                })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// What a child had to say until it became the program.
    fn heard(&self, mut report: File) -> Result<Vec<String>, Failed> {
        let mut heard = Vec::new();
        report.read_to_end(&mut heard)?;
        let mut lacks = Vec::new();
        for piece in heard.chunks_exact(5) {
            let number = i32::from_ne_bytes([piece[1], piece[2], piece[3], piece[4]]);
            let error = io::Error::from_raw_os_error(number);
            match piece[0] {
                said::NAMESPACES if self.apart => return Err(Failed::Namespaces(error)),
                said::PROC => lacks.push(no_own_proc(&error)),
                _ => return Err(Failed::Other(error)),
            }
        }
        Ok(lacks)
    }

    /// The child's way to the program. No allocation happens in here.
    fn child(&self, args: &[*const libc::c_char], messages: RawFd, report: &OwnedFd) -> ! {
        let say = |what: u8, error: rustix::io::Errno| {
            let [a, b, c, d] = error.raw_os_error().to_ne_bytes();
            let _ = rustix::io::write(report, &[what, a, b, c, d]);
        };
        if self.apart
            && let Err(error) = self.settle(|error| say(said::PROC, error))
        {
            say(said::NAMESPACES, error);
        } else {
            match self.confine(messages) {
                Ok(()) => say(said::OTHER, self.execute(args)),
                Err(error) => say(said::OTHER, error),
            }
        }
        // SAFETY: ends this process at once, and runs nothing of the parent's.
        unsafe { libc::_exit(127) }
    }

    /// Makes itself at home in its namespaces.
    fn settle(&self, lacks_proc: impl Fn(rustix::io::Errno)) -> rustix::io::Result<()> {
        if let Some(maps) = &self.maps {
            maps.write()?;
        }
        self.enter_directory()?;
        // SAFETY: no descriptors are shared or unshared by this, which is what could break other code.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
        match self.confinement {
            Confinement::Nobody | Confinement::RootOpensFiles => {
                if let Err(error) = own_proc() {
                    lacks_proc(error);
                    let _ = no_proc();
                }
                match self.confinement {
                    Confinement::RootOpensFiles => drop_bounding_set(),
                    _ => Ok(()),
                }
            }
            Confinement::Itself(_) => keep_capabilities(),
            Confinement::RootItself => Ok(()),
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
            // SAFETY: both are numbers of descriptors, and what had the lower one is of no use to the program.
            if unsafe { libc::dup2(ours, theirs) } < 0 {
                return Err(last().unwrap_or(rustix::io::Errno::BADF));
            }
        }
        // SAFETY: resets what a program expects to find: no signal is blocked, and a broken pipe ends it.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        if !self.apart {
            self.enter_directory()?;
        }
        // After the change of credentials, which would clear it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone in between; nobody would send the signal then.
        let mut parent = [PollFd::new(&self.parent, PollFlags::IN)];
        if rustix::event::poll(&mut parent, Some(&Timespec::default()))? > 0 {
            return Err(rustix::io::Errno::SRCH);
        }
        let _ = rustix::process::nice(NICE);
        match &self.fence {
            Some(fence) => crate::confine::fence::enter_descriptor(fence),
            None => Ok(()),
        }
    }

    /// Becomes the program; comes back only with an error.
    fn execute(&self, args: &[*const libc::c_char]) -> rustix::io::Errno {
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        let (directory, path, flags) = match &self.exe {
            Some(exe) => (exe.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH),
            None => (libc::AT_FDCWD, self.path.as_ptr(), 0),
        };
        // SAFETY: the strings end in a zero byte, the lists in a null pointer, and all live until the call is over.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                directory,
                path,
                args.as_ptr(),
                environment.as_ptr(),
                flags,
            )
        };
        rustix::io::Errno::from_io_error(&io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::NOEXEC)
    }
}

/// Keeps mounts to this process's namespace, and puts a `/proc` there that shows this PID namespace only.
pub(crate) fn own_proc() -> rustix::io::Result<()> {
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", all)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None)
}

/// Makes the working directory the root of this process's mount namespace, so that no path leads out of it.
pub(crate) fn own_root() -> rustix::io::Result<()> {
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, ".", whole)?;
    rustix::process::fchdir(&tree)?;
    // The old root ends up on top of the new one, from where it is taken.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Says that there is none.
pub(crate) fn no_own_proc(why: &io::Error) -> String {
    format!("a /proc of its own: the kernel refuses it ({why})")
}

/// Puts an empty directory over the host's `/proc`.
fn no_proc() -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    rustix::mount::mount(c"none", c"/proc", c"tmpfs", flags, c"size=4k,mode=555")
}

/// Has the program start with the capabilities that this process has in its user namespace.
fn keep_capabilities() -> rustix::io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            inheritable: had.permitted,
            ..had
        },
    )?;
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if had.permitted.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

/// Takes every capability but DAC_OVERRIDE from what an exec can give.
fn drop_bounding_set() -> rustix::io::Result<()> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability == CapabilitySet::DAC_OVERRIDE {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no capability of that number, and none above.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
