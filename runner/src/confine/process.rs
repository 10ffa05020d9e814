//! What a process of the runner's sets for itself at its start.
//!
//! Invariants: the runner is the leader of a session, so a terminal's ^C does not reach it; it has the standard
//! descriptors and those that its parent passes on, and no others; neither it nor a child can gain privileges or leave
//! a core file.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

/// The maximum number of descriptors that the parent passes on.
const MAX_PASSED: usize = 16;

/// Prepares this process. Call it first, while no other thread runs. Gives the `descriptors` that the parent passed on,
/// from 3 on.
pub(crate) fn prepare(descriptors: usize) -> io::Result<Vec<OwnedFd>> {
    if descriptors > MAX_PASSED {
        return Err(io::Error::other(
            "the parent passes on too many descriptors",
        ));
    }
    let first = 3 + libc::c_uint::try_from(descriptors).map_err(io::Error::other)?;
    // SAFETY: nothing in this process owns a descriptor above the standard ones yet.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
    let mut passed = Vec::new();
    for number in (3..).take(descriptors) {
        // SAFETY: nothing here owns the number yet. The call fails for a number that is not open, before it becomes an
        // `OwnedFd`.
        unsafe {
            let shut = libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
            if shut != 0 {
                return Err(io::Error::last_os_error());
            }
            passed.push(OwnedFd::from_raw_fd(number));
        }
    }
    // It fails only for the leader of a process group, such as a shell's job: it has a group of its own already.
    rustix::process::setsid().ok();
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    Ok(passed)
}

/// Raises this process's limit of open files to its hard limit; gives it. A share keeps files open as far as it allows.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(1 << 20);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(maximum),
            maximum: limit.maximum,
        },
    )?;
    Ok(maximum)
}

/// Makes a panic of any thread end this process, after the message: other threads would wait for that thread for ever.
pub(crate) fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(101);
    }));
}

/// Writes the libraries' warnings to standard error, which the runner reads, after the role of this process.
pub(crate) fn print_warnings(role: &'static str) {
    if log::set_boxed_logger(Box::new(Warnings(role))).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

struct Warnings(&'static str);

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            complain!("{}: {}", self.0, record.args());
        }
    }

    fn flush(&self) {}
}
