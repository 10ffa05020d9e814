//! What the runner does to processes: to itself at the start, and to every child before it runs.
//!
//! Invariants: the runner is a session of its own, so a terminal's ^C does not reach it; no file of its parent's
//! but the three standard ones is open in it; neither it nor a child can gain privileges or leave a core file.
//! Every child gives way to what the user does meanwhile ([`NICE`]).
//! A child is killed by the kernel when the runner goes, however that happens. The kernel sends that signal when
//! the *thread* that made the child ends: children are made on the main thread only.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

/// The most descriptors that are handed on.
const MOST_HANDED_ON: usize = 16;

/// Prepares this process; to be called first of all, with no other thread running. Gives the first `descriptors` that
/// it was handed on beside the standard ones.
pub(crate) fn prepare(descriptors: usize) -> io::Result<Vec<OwnedFd>> {
    if descriptors > MOST_HANDED_ON {
        return Err(io::Error::other("it is handed on too many descriptors"));
    }
    let first = 3 + descriptors as libc::c_uint;
    // SAFETY: nothing in this process owns a descriptor from 3 on yet; they were left open by the parent.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
    let mut handed_on = Vec::new();
    for number in (3..).take(descriptors) {
        // SAFETY: a number that is open is the parent's to hand on, and nothing here owns it; one that is not is
        // refused by the call, and nothing is made of it.
        unsafe {
            let shut = libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
            if shut != 0 {
                return Err(io::Error::last_os_error());
            }
            handed_on.push(OwnedFd::from_raw_fd(number));
        }
    }
    // Refused only to the leader of a process group, which a shell makes of its jobs; then there is one already.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    Ok(handed_on)
}

/// How far a child stands back when there is more to do than processors to do it.
const NICE: i32 = 5;

/// The namespaces a child gets, beside that of users.
pub(crate) const ISOLATED: UnshareFlags = UnshareFlags::NEWNET
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUTS);

/// Which files a user namespace needs written, once one is inside it.
struct IdMaps {
    uid: String,
    gid: String,
}

impl IdMaps {
    /// Maps this process's ids to `inside`; `None`: to the same numbers.
    fn to(inside: Option<u32>) -> Self {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Self {
            uid: format!("{} {uid} 1", inside.unwrap_or(uid)),
            gid: format!("{} {gid} 1", inside.unwrap_or(gid)),
        }
    }

    /// No allocation happens in here: it also runs between fork and exec.
    fn write(&self) -> io::Result<()> {
        let put = |path: &std::ffi::CStr, text: &str| -> io::Result<()> {
            let file = rustix::fs::open(
                path,
                rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            rustix::io::write(&file, text.as_bytes())?;
            Ok(())
        };
        put(c"/proc/self/setgroups", "deny")?;
        put(c"/proc/self/uid_map", &self.uid)?;
        put(c"/proc/self/gid_map", &self.gid)
    }
}

/// Moves this process, which must have one thread only, into a user namespace in which its ids are the same
/// and every other is unknown, and into the namespaces of `flags`.
pub(crate) fn enter_user_namespace(flags: UnshareFlags) -> io::Result<()> {
    enter_namespaces(&IdMaps::to(None), flags)
}

/// The same, but there its ids are `id`.
pub(crate) fn enter_user_namespace_as(id: u32, flags: UnshareFlags) -> io::Result<()> {
    enter_namespaces(&IdMaps::to(Some(id)), flags)
}

fn enter_namespaces(maps: &IdMaps, flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no namespace flag shares or unshares file descriptors, which is what could break other code.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | flags)? };
    maps.write()
}

/// How far a child is shut off from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// In a user namespace of its own, as nobody there: it has no capability anywhere, and files outside are open to
    /// it as to the user who runs the runner. It has no network.
    UserNamespace,
    /// As root with no capability but that of opening files whoever owns them, and without a network: for a root
    /// whose files are in directories that only capabilities open.
    RootOpensFiles,
    /// As the runner itself.
    None,
}

/// The id that a child has inside its user namespace: one without capabilities, so not 0.
const NOBODY: u32 = 65534;

/// Makes sure that `command` dies with this process, that it is confined as `confinement` says and by `fence`, and that
/// it has the descriptors of `fds` as its numbers 3, 4, … and no other; then starts it. Where the kernel refuses the
/// namespaces it starts without them, and gives the refusal.
pub(crate) fn spawn(
    mut command: Command,
    confinement: Confinement,
    fence: Option<OwnedFd>,
    fds: Vec<OwnedFd>,
) -> io::Result<(Child, Option<io::Error>)> {
    let parent = rustix::process::getpid();
    let maps = IdMaps::to(Some(NOBODY));
    let confined = Arc::new(AtomicBool::new(confinement != Confinement::None));
    let mappings = fds
        .into_iter()
        .zip(3..)
        .map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    command.env_clear().current_dir("/");
    let enabled = confined.clone();
    // SAFETY: the closure makes system calls only and does not allocate; what it reads was made before the fork.
    unsafe {
        command.pre_exec(move || {
            if enabled.load(Ordering::Relaxed) {
                match confinement {
                    Confinement::UserNamespace => {
                        rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | ISOLATED)?;
                        maps.write()?;
                    }
                    Confinement::RootOpensFiles => {
                        rustix::thread::unshare_unsafe(ISOLATED)?;
                        drop_bounding_set()?;
                    }
                    Confinement::None => {}
                }
            }
            // After the change of credentials, which would clear it.
            die_with(parent)?;
            let _ = rustix::process::nice(NICE);
            match &fence {
                Some(fence) => restrict_self(fence),
                None => Ok(()),
            }
        });
    }
    match command.spawn() {
        Ok(child) => Ok((child, None)),
        Err(refusal)
            if confinement != Confinement::None && refusal.kind() != io::ErrorKind::NotFound =>
        {
            confined.store(false, Ordering::Relaxed);
            command.spawn().map(|child| (child, Some(refusal)))
        }
        Err(error) => Err(error),
    }
}

/// Enters a Landlock fence. No allocation happens in here: it runs between fork and exec.
fn restrict_self(fence: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the call takes a descriptor, which is open, and no pointer.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fence.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel kill this process when the thread that made it ends.
pub(crate) fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have gone in between; nobody would send the signal then.
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(rustix::io::Errno::SRCH.into())
    }
}

/// Takes every capability but DAC_OVERRIDE from what an exec can give.
fn drop_bounding_set() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability == CapabilitySet::DAC_OVERRIDE {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no capability of that number, and none above.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A descriptor that can be read from once `child` has ended.
pub(crate) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(
        Pid::from_child(child),
        PidfdFlags::empty(),
    )?)
}

/// How a process ended, in words that follow its name.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => {
            let hint = if signal == libc::SIGKILL {
                "; the host may have run out of memory"
            } else {
                ""
            };
            format!("was killed by {}{hint}", signal_name(signal))
        }
        (None, None) => "ended".into(),
    }
}

/// A signal's name.
pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Lets this process open as many files as it may; gives how many. Each file of a share that the guest knows takes one.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        },
    )?;
    Ok(most)
}

/// Hands the libraries' warnings to the runner, by standard error, as said by `who`.
pub(crate) fn hand_on_warnings(who: &'static str) {
    let _ = log::set_boxed_logger(Box::new(Complaints(who)))
        .map(|()| log::set_max_level(log::LevelFilter::Warn));
}

struct Complaints(&'static str);

impl log::Log for Complaints {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", self.0, record.args());
        }
    }

    fn flush(&self) {}
}
