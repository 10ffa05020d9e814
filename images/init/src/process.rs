//! Starting one command: its program, its streams, and the means to end it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use rustix::pty::OpenptFlags;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::enter::{ARG0, Entry, plain};
use crate::guest::Guest;
use crate::nonblocking::Nonblocking;
use crate::shell_line;
use crate::users::Account;
use crate::wire::{Command, ErrorKind, ExecRequest, PtySize, WireError};

/// A longer shell line does not fit a program's argument (128 KiB on Linux) and goes through a file.
const LONGEST_ARGUMENT: usize = 100 << 10;

/// A command that runs.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(crate) stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) exit: oneshot::Receiver<ExitStatus>,
    terminal: Option<OwnedFd>,
    failed: PathBuf,
    script: Option<PathBuf>,
}

fn error(kind: ErrorKind, message: impl Into<String>) -> WireError {
    WireError {
        kind,
        message: message.into(),
    }
}

fn not_started(what: &str, e: &io::Error) -> WireError {
    error(
        ErrorKind::NotStarted,
        format!("start the command: {what}: {}", plain(e)),
    )
}

/// The image's shell: bash if it has it.
fn shell() -> Result<&'static str, WireError> {
    ["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"].into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
        error(
            ErrorKind::NotStarted,
            "start the command: this image has no shell (no /bin/bash, no /bin/sh); files can be read and written",
        )
    })
}

fn environment(
    guest: &Guest,
    account: &Account,
    request: &ExecRequest,
) -> Result<BTreeMap<String, String>, WireError> {
    let mut env = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("TERM".to_owned(), "dumb".to_owned()),
    ]);
    env.extend(guest.env.iter().cloned());
    // An image's own words for these are about the user it was made for.
    for (name, value) in [
        ("HOME", account.home.to_string_lossy().as_ref()),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", &account.shell),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    if let Some(pty) = &request.pty {
        env.insert("TERM".to_owned(), pty.term.clone());
    }
    for (name, value) in &request.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(error(
                ErrorKind::InvalidRequest,
                format!(
                    "set the environment variable {name:?}: a name is not empty and has no `=`, and neither name nor value has a NUL"
                ),
            ));
        }
        env.insert(name.clone(), value.clone());
    }
    Ok(env)
}

struct Line {
    argv: Vec<String>,
    direct: Option<Vec<String>>,
    arg0: Option<String>,
    script: Option<PathBuf>,
}

fn line(
    guest: &Guest,
    account: &Account,
    number: u64,
    env: &BTreeMap<String, String>,
    command: &Command,
) -> Result<Line, WireError> {
    let nul = || {
        error(
            ErrorKind::InvalidRequest,
            "start the command: it contains a NUL character",
        )
    };
    let plain_line = |argv| Line {
        argv,
        direct: None,
        arg0: None,
        script: None,
    };
    match command {
        Command::Shell(text) if text.contains('\0') => Err(nul()),
        Command::Argv(argv) if argv.iter().any(|a| a.contains('\0')) => Err(nul()),
        Command::Argv(argv) if argv.is_empty() => Err(error(
            ErrorKind::InvalidRequest,
            "start the command: it is empty",
        )),
        Command::Argv(argv) => Ok(plain_line(argv.clone())),
        Command::LoginShell => {
            let name = account.shell.rsplit('/').next().unwrap_or("sh");
            Ok(Line {
                arg0: Some(format!("-{name}")),
                ..plain_line(vec![account.shell.clone()])
            })
        }
        Command::Shell(text) if text.len() <= LONGEST_ARGUMENT => {
            let simple = !env.keys().any(|name| shell_line::matters(name));
            Ok(Line {
                direct: simple.then(|| shell_line::words(text)).flatten(),
                ..plain_line(vec![shell()?.into(), "-c".into(), text.clone()])
            })
        }
        Command::Shell(text) => {
            let path = guest.shared.join(format!("command-{number}.sh"));
            std::fs::write(&path, text)
                .map_err(|e| not_started("its text could not be kept", &e))?;
            Ok(Line {
                script: Some(path.clone()),
                ..plain_line(vec![shell()?.into(), path.to_string_lossy().into_owned()])
            })
        }
    }
}

/// The streams of a command, before it runs: our ends, and its own.
struct Streams {
    terminal: Option<OwnedFd>,
    stdio: [Stdio; 3],
}

fn streams(pty: Option<&PtySize>, account: &Account) -> io::Result<Streams> {
    let Some(pty) = pty else {
        return Ok(Streams {
            terminal: None,
            stdio: [Stdio::piped(), Stdio::piped(), Stdio::piped()],
        });
    };
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    resize(&master, pty.cols, pty.rows)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    let open = || {
        rustix::fs::open(
            &path,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
    };
    let slave = open()?;
    if let Some(credentials) = &account.credentials {
        rustix::fs::fchown(
            &slave,
            Some(rustix::fs::Uid::from_raw(credentials.uid)),
            None,
        )?;
    }
    let stdio = [
        slave.try_clone()?.into(),
        slave.try_clone()?.into(),
        slave.into(),
    ];
    Ok(Streams {
        terminal: Some(master),
        stdio,
    })
}

fn resize(terminal: &OwnedFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_col: cols,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Starts a command; it runs when this returns, or never will.
pub(crate) fn start(guest: &Guest, request: &ExecRequest) -> Result<Process, WireError> {
    let account = guest.account(request.user);
    let number = guest.number();
    let cwd = match request.cwd.as_deref() {
        None | Some("") => guest.workspace.clone(),
        Some(cwd) => guest.places(request.user).find(cwd, &mut Vec::new())?,
    };
    let env = environment(guest, &account, request)?;
    let line = line(guest, &account, number, &env, &request.command)?;
    if let Some(tree) = &guest.cgroups {
        tree.sweep();
    }
    let cgroup = guest
        .cgroups
        .as_ref()
        .map(|tree| tree.command(number))
        .transpose();
    let cgroup = cgroup.map_err(|e| not_started("its cgroup could not be made", &e))?;
    let failed = guest.private.join(format!("failed-{number}"));
    let entry = Entry {
        failed: failed.clone(),
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.dir.clone()),
        credentials: account.credentials.clone(),
        cwd,
        nofile: guest.nofile,
        terminal: request.pty.is_some(),
        arg0: line.arg0,
        direct: line.direct,
    };
    let streams = streams(request.pty.as_ref(), &account)
        .map_err(|e| not_started("its terminal could not be made", &e))?;
    let [stdin, stdout, stderr] = streams.stdio;
    let mut command = StdCommand::new(&guest.enter);
    std::os::unix::process::CommandExt::arg0(&mut command, ARG0);
    command
        .arg(serde_json::to_string(&entry).unwrap_or_default())
        .args(&line.argv);
    command
        .env_clear()
        .envs(env)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    let spawned = guest
        .reaper
        .spawn(&mut command)
        .map_err(|e| not_started("no process could be made", &e))?;
    // Our copies of the terminal's other side must go, or its end is never seen.
    drop(command);
    connect(spawned, streams.terminal, cgroup, failed, line.script)
        .map_err(|e| not_started("its streams could not be used", &e))
}

fn connect(
    spawned: crate::reaper::Spawned,
    terminal: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    failed: PathBuf,
    script: Option<PathBuf>,
) -> io::Result<Process> {
    let missing = || io::Error::other("a pipe is missing");
    let mut process = Process {
        pid: spawned.pid,
        cgroup,
        stdin: None,
        stdout: Box::new(tokio::io::empty()),
        stderr: None,
        exit: spawned.exit,
        terminal: None,
        failed,
        script,
    };
    match terminal {
        Some(master) => {
            process.terminal = Some(master.try_clone()?);
            let (reader, writer) = tokio::io::split(Nonblocking::new(master)?);
            process.stdin = Some(Box::new(writer));
            process.stdout = Box::new(reader);
        }
        None => {
            let stdin = OwnedFd::from(spawned.stdin.ok_or_else(missing)?);
            process.stdin = Some(Box::new(pipe::Sender::from_owned_fd(stdin)?));
            process.stdout = Box::new(pipe::Receiver::from_owned_fd(
                spawned.stdout.ok_or_else(missing)?.into(),
            )?);
            process.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(
                spawned.stderr.ok_or_else(missing)?.into(),
            )?));
        }
    }
    Ok(process)
}

impl Process {
    /// Why it was never started, if so. Asked when it has exited.
    pub(crate) fn start_error(&self) -> Option<WireError> {
        let text = std::fs::read(&self.failed).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Kills everything it started, however far that went.
    pub(crate) fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => self.signal(Signal::KILL),
        }
        // It may be so young that it has joined neither cgroup nor group.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Sends its process group a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    /// Changes the size of its terminal.
    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            let _ = resize(terminal, cols, rows);
        }
    }

    /// Whether it is known that no process of it is left.
    pub(crate) fn all_gone(&self) -> bool {
        self.cgroup
            .as_ref()
            .is_some_and(|cgroup| !cgroup.populated())
    }

    /// Whether processes of it still run.
    pub(crate) fn left_running(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::populated)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.failed);
        if let Some(script) = &self.script {
            let _ = std::fs::remove_file(script);
        }
    }
}
