//! What the runner's processes do to themselves at the start.
//!
//! Invariants: the runner is a session of its own, so a terminal's ^C does not reach it; no file of its parent's
//! but the three standard ones is open in it; neither it nor a child can gain privileges or leave a core file.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

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

/// How a process says on standard error that a fence does not hold: `WHO: without FENCE`.
const WITHOUT: &str = ": without ";

/// Says that a fence does not hold.
pub(crate) fn say_lack(who: &str, what: &str) {
    eprintln!("{who}{WITHOUT}{what}");
}

/// The fence that a line of a process's says that it lacks. Pure.
pub(crate) fn said_lack(line: &str) -> Option<&str> {
    let (who, what) = line.split_once(WITHOUT)?;
    matches!(who, crate::share::ARGUMENT | crate::engine::krun::ARGUMENT).then_some(what)
}

/// Has a panic of any thread end this process, after it is said: else the others wait for that thread for ever.
pub(crate) fn end_when_panicking() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::exit(101);
    }));
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
