//! The first program of every command: it puts itself where the command belongs and then becomes it.
//!
//! Init starts itself once more (`/proc/self/exe`, so any image will do) under the name [`ARG0`], with an [`Entry`]
//! as its first argument and the command after it. What goes wrong before the command's own program runs is
//! written to [`Entry::failed`]: so "never started" is never mistaken for an exit status.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::system::actor::{Credentials, become_user};
use crate::wire::{ErrorKind, WireError};

/// The name under which init is started for this.
pub const ARG0: &str = "snowglobe-enter";

/// Where a command belongs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The file that gets a [`WireError`] if the command can't be started.
    pub failed: PathBuf,
    /// The cgroup's directory.
    pub cgroup: Option<PathBuf>,
    /// Whose it is; absent: as init.
    pub credentials: Option<Credentials>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// Its limit on open files.
    pub nofile: Option<u64>,
    /// Whether standard input is a terminal that it is to control.
    pub terminal: bool,
    /// The name it is started under, where that is not its program's.
    pub arg0: Option<String>,
    /// The words of a shell line that needs no shell: tried before the command, which is the shell with that line.
    pub direct: Option<Vec<String>>,
}

/// Becomes the command. Returns only if that failed, with the exit code to leave with.
pub fn main(arguments: &[String]) -> i32 {
    let Some(entry) = arguments
        .first()
        .and_then(|json| serde_json::from_str::<Entry>(json).ok())
    else {
        return 127;
    };
    // Opened while that is still allowed; closed by itself when the command's program takes over.
    let Ok(mut failed) = File::create(&entry.failed) else {
        return 127;
    };
    let error = enter(&entry, &arguments[1..]);
    let _ = failed.write_all(&serde_json::to_vec(&error).unwrap_or_default());
    127
}

fn not_started(what: &str, error: impl std::fmt::Display) -> WireError {
    WireError {
        kind: ErrorKind::NotStarted,
        message: format!("start the command: {what}: {error}"),
    }
}

fn enter(entry: &Entry, command: &[String]) -> WireError {
    if let Some(cgroup) = &entry.cgroup
        && let Err(e) = fs::write(cgroup.join("cgroup.procs"), "0")
    {
        return not_started("its cgroup could not be joined", e);
    }
    if let Err(e) = rustix::process::setsid() {
        return not_started("it could not get a session of its own", e);
    }
    if entry.terminal
        && let Err(e) = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
    {
        return not_started("it could not get its terminal", e);
    }
    if let Some(limit) = entry.nofile {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        if let Err(e) = rustix::process::setrlimit(Resource::Nofile, limit) {
            return not_started("its limit on open files could not be set", e);
        }
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(credentials) = &entry.credentials
        && let Err(e) = become_user(credentials)
    {
        return not_started("its user could not be taken on", e);
    }
    if let Err(e) = std::env::set_current_dir(&entry.cwd) {
        let kind = match e.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            std::io::ErrorKind::NotADirectory => ErrorKind::WrongKind,
            _ => ErrorKind::NotFound,
        };
        let message = format!(
            "start the command in {}: {}; make the directory first, or give another cwd",
            entry.cwd.display(),
            plain(&e)
        );
        return WireError { kind, message };
    }
    let Some((program, arguments)) = command.split_first() else {
        return not_started("nothing to run", "the command is empty");
    };
    if let Some(words) = &entry.direct {
        without_shell(words, program);
    }
    let mut next = std::process::Command::new(program);
    next.args(arguments);
    if let Some(arg0) = &entry.arg0 {
        next.arg0(arg0);
    }
    let error = next.exec();
    not_started(&format!("`{program}` could not be run"), plain(&error))
}

/// Becomes the program that a shell would become for these words, with what it would add to the environment.
/// Returns where there is no such program, or it can't be run: what there is to say about that is the shell's to say.
fn without_shell(words: &[String], shell: &str) {
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
        if shell.ends_with("/bash") {
            next.env("SHLVL", "0").env("_", &program);
        }
        let _ = next.exec();
    }
}

/// An error without its number, which says nothing to a reader.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
