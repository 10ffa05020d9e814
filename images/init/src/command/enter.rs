//! The first program of every command: it takes on the command's cgroup, user and directory, and then becomes the command.
//!
//! Init starts itself once more (`/proc/self/exe`, so this works in any image) under the name [`ARG0`]. The first
//! argument is a [`Launch`]; the command follows. An error before the command's own program runs is written to
//! [`Launch::failed`]. So a command that was never started is never mistaken for one that exited.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::reason::plain;
use crate::system::user_thread::{Credentials, become_user};
use crate::wire::{ErrorKind, WireError};

/// The name under which init is started for this purpose.
pub const ARG0: &str = "snowglobe-enter";

/// The exit code where the command was not started, as shells have it.
const NOT_STARTED: i32 = 127;

/// How to start a command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// The file that gets a [`WireError`] if the command can't be started.
    pub(super) failed: PathBuf,
    /// The cgroup's directory.
    pub(super) cgroup: Option<PathBuf>,
    /// The user that it runs as.
    pub(super) credentials: Credentials,
    /// Its working directory; any bytes, which JSON has no strings for.
    pub(super) cwd: OsString,
    /// Its limit on open files.
    pub(super) nofile: u64,
    /// Whether standard input is a terminal, which becomes its controlling terminal.
    pub(super) terminal: bool,
    /// The name it is started under, if not its program's.
    pub(super) arg0: Option<String>,
    /// The words of a shell line that needs no shell. They are tried before the command, which is the shell with that line.
    pub(super) direct: Option<Vec<String>>,
}

/// Becomes the command. Returns only on failure, with the exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let Some(launch) = arguments
        .first()
        .and_then(|json| serde_json::from_slice::<Launch>(json.as_encoded_bytes()).ok())
    else {
        return NOT_STARTED;
    };
    // Opened before the change of users, which would forbid it. Closed by the kernel when the command's program starts.
    let Ok(mut failed) = File::create(&launch.failed) else {
        return NOT_STARTED;
    };
    let error = enter(&launch, &arguments[1..]);
    if let Ok(text) = serde_json::to_vec(&error) {
        failed.write_all(&text).ok();
    }
    NOT_STARTED
}

fn not_started(what: &str, error: impl std::fmt::Display) -> WireError {
    WireError::new(
        ErrorKind::NotStarted,
        format!("start the command: {what}: {error}"),
    )
}

fn enter(launch: &Launch, command: &[OsString]) -> WireError {
    if let Some(cgroup) = &launch.cgroup
        && let Err(e) = fs::write(cgroup.join("cgroup.procs"), "0")
    {
        return not_started("its cgroup could not be joined", e);
    }
    if let Err(e) = rustix::process::setsid() {
        return not_started("it could not get a session of its own", e);
    }
    if launch.terminal
        && let Err(e) = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
    {
        return not_started("it could not get its terminal", e);
    }
    let limit = Rlimit {
        current: Some(launch.nofile),
        maximum: Some(launch.nofile),
    };
    if let Err(e) = rustix::process::setrlimit(Resource::Nofile, limit) {
        return not_started("its limit on open files could not be set", e);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Err(e) = become_user(&launch.credentials) {
        return not_started("it could not change to its user", e);
    }
    if let Err(e) = std::env::set_current_dir(&launch.cwd) {
        let kind = match e.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::NotADirectory => ErrorKind::WrongKind,
            _ => ErrorKind::NotFound,
        };
        let message = format!(
            "start the command in {}: {}; make the directory first, or give another cwd",
            launch.cwd.display(),
            plain(&e)
        );
        return WireError::new(kind, message);
    }
    let Some((program, arguments)) = command.split_first() else {
        return not_started("nothing to run", "the command is empty");
    };
    if let Some(words) = &launch.direct {
        without_shell(words, program);
    }
    let mut next = std::process::Command::new(program);
    next.args(arguments);
    if let Some(arg0) = &launch.arg0 {
        next.arg0(arg0);
    }
    let error = next.exec();
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NoProgram,
        _ => ErrorKind::NotExecutable,
    };
    WireError {
        kind,
        ..not_started(
            &format!("`{}` could not be run", program.display()),
            plain(&error),
        )
    }
}

/// Becomes the program that the shell would become for these words, with the same additions to the environment.
/// Returns if there is no such program or it can't be run; the shell then reports the error.
fn without_shell(words: &[String], shell: &OsStr) {
    let Some((name, arguments)) = words.split_first() else {
        return;
    };
    let (Ok(cwd), path) = (std::env::current_dir(), std::env::var("PATH")) else {
        return;
    };
    let dirs = match name.contains('/') {
        true => vec![cwd.clone()],
        false => std::env::split_paths(&path.unwrap_or_default()).collect(),
    };
    for dir in dirs {
        let program = if name.contains('/') {
            PathBuf::from(name)
        } else {
            dir.join(name)
        };
        let mut next = std::process::Command::new(&program);
        next.arg0(name).args(arguments).env("PWD", &cwd);
        if Path::new(shell).ends_with("bash") {
            next.env("SHLVL", "0").env("_", &program);
        }
        // Returns on failure only; the next directory may have the program.
        drop(next.exec());
    }
}
