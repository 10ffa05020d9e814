//! Starting one command: its program, its streams, and the means to end it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::command::cgroup::Cgroup;
use crate::command::enter::{ARG0, Entry, plain};
use crate::command::line_ends;
use crate::command::shell_line;
use crate::command::streams::{self, Ours};
use crate::link::nonblocking::Nonblocking;
use crate::server::guest::Guest;
use crate::system::users::Account;
use crate::wire::{Command, ErrorKind, ExecRequest, STOP_GRACE, WireError};

/// How long the kernel may take to end a process that was killed.
pub(crate) const LONGEST_KILL: Duration = Duration::from_secs(5);

/// How often at most it is looked whether a command that is to end has ended.
const LOOK: Duration = Duration::from_millis(20);

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
    if request.pty.is_none() {
        // Output that Python holds back is not there when somebody looks at a job, and lost when it is killed.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    }
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
            let text = line_ends::unix(text);
            let simple = !env.keys().any(|name| shell_line::matters(name));
            Ok(Line {
                direct: simple.then(|| shell_line::words(&text)).flatten(),
                ..plain_line(vec![shell()?.into(), "-c".into(), text.into_owned()])
            })
        }
        Command::Shell(text) => {
            let path = guest.shared.join(format!("command-{number}.sh"));
            std::fs::write(&path, line_ends::unix(text).as_bytes())
                .map_err(|e| not_started("its text could not be kept", &e))?;
            Ok(Line {
                script: Some(path.clone()),
                ..plain_line(vec![shell()?.into(), path.to_string_lossy().into_owned()])
            })
        }
    }
}

/// Starts a command; it runs when this returns, or never will.
pub(crate) fn start(guest: &Guest, request: &ExecRequest) -> Result<Process, WireError> {
    let account = guest.account(request.user);
    let number = guest.number();
    let cwd = match request.cwd.as_deref() {
        None | Some("") => guest.workdir.clone(),
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
    let streams = match &request.pty {
        Some(pty) => streams::terminal(pty, &account)
            .map_err(|e| not_started("its terminal could not be made", &e))?,
        None => streams::pipes(request.stdin, &account)
            .map_err(|e| not_started("its pipes could not be made", &e))?,
    };
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
    // Our copies of its own ends must go, or their end is never seen.
    drop(command);
    connect(spawned, streams.ours, cgroup, failed, line.script)
        .map_err(|e| not_started("its streams could not be used", &e))
}

fn connect(
    spawned: crate::command::reaper::Spawned,
    ours: Ours,
    cgroup: Option<Cgroup>,
    failed: PathBuf,
    script: Option<PathBuf>,
) -> io::Result<Process> {
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
    match ours {
        Ours::Terminal(master) => {
            process.terminal = Some(master.try_clone()?);
            let (reader, writer) = tokio::io::split(Nonblocking::new(master)?);
            process.stdin = Some(Box::new(writer));
            process.stdout = Box::new(reader);
        }
        Ours::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            if let Some(stdin) = stdin {
                process.stdin = Some(Box::new(pipe::Sender::from_owned_fd(stdin.into())?));
            }
            process.stdout = Box::new(pipe::Receiver::from_owned_fd(stdout.into())?);
            process.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(stderr.into())?));
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

    fn first(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    /// Ends everything it started: first by a signal that programs can act on, and what still runs [`STOP_GRACE`] later
    /// by force. Gives whether force was needed.
    pub(crate) async fn stop(&mut self) -> bool {
        self.ask_to_end();
        let deadline = Instant::now() + STOP_GRACE;
        let mut look = Duration::from_millis(1);
        while self.runs() && Instant::now() < deadline {
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK);
        }
        let forced = self.runs();
        self.kill();
        let _ = tokio::time::timeout(LONGEST_KILL, &mut self.exit).await;
        forced
    }

    fn ask_to_end(&self) {
        // What a terminal's closing sends; interactive shells ignore SIGTERM.
        let signal = match self.terminal {
            Some(_) => Signal::HUP,
            None => Signal::TERM,
        };
        match &self.cgroup {
            Some(cgroup) => cgroup.signal(self.first(), signal),
            None => {
                self.signal(signal);
                self.signal(Signal::CONT);
            }
        }
    }

    /// Whether any process of it is left; without a cgroup, whether its first one is, since others that have ended count
    /// among their group until somebody waits for them.
    fn runs(&self) -> bool {
        match &self.cgroup {
            Some(cgroup) => cgroup.populated(),
            None => self
                .first()
                .is_some_and(|first| rustix::process::test_kill_process(first).is_ok()),
        }
    }

    /// Kills everything it started, however far that went.
    pub(crate) fn kill(&self) {
        match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => self.signal(Signal::KILL),
        }
        // It may be so young that it has joined neither cgroup nor group.
        if let Some(pid) = self.first() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Sends its process group a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(group) = self.first() {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Changes the size of its terminal.
    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            let _ = streams::resize(terminal, cols, rows);
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
