//! The process of a command: its start, its streams and its end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::context::Context;
use super::enter::{ARG0, Launch};
use super::streams::{self, Ours};
use super::supervisor::{Group, Spawned};
use super::{line_ends, shell_line};
use crate::link::nonblocking::Nonblocking;
use crate::reason::plain;
use crate::signals;
use crate::system::users::Account;
use crate::wire::{ErrorKind, ExecRequest, Outcome, Program, STOP_GRACE, WireError, Word};

/// The longest time that the kernel takes to end a killed process.
pub(crate) const LONGEST_KILL: Duration = Duration::from_secs(5);

/// The longest pause between two checks whether a command has ended.
const CHECK: Duration = Duration::from_millis(20);

/// The longest shell line, in bytes, that is passed as an argument (Linux allows 128 KiB). A longer one is put in a file.
const LONGEST_ARGUMENT: usize = 100 << 10;

/// The process of a command.
pub(crate) struct Process {
    /// The process that was started for it.
    first: Pid,
    group: Box<dyn Group>,
    pub(crate) stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(crate) stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) exit: oneshot::Receiver<ExitStatus>,
    terminal: Option<OwnedFd>,
    /// The file with the reason why the command was never started, if so.
    failed: PathBuf,
    /// The file with a long shell line.
    script: Option<PathBuf>,
}

fn not_started(what: &str, e: &io::Error) -> WireError {
    WireError::new(
        ErrorKind::NotStarted,
        format!("start the command: {what}: {}", plain(e)),
    )
}

/// The image's shell: bash if the image has it.
fn shell() -> Result<&'static str, WireError> {
    ["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"].into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
        WireError::new(
            ErrorKind::NoProgram,
            "start the command: this image has no shell (no /bin/bash, no /bin/sh); files can be read and written",
        )
    })
}

fn environment(
    context: &Context,
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
        // Python's buffered output would be missing from a running job's output, and lost if the command is killed.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    }
    env.extend(context.env.iter().cloned());
    // The image's own values are about another user.
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
            return Err(WireError::invalid(format!(
                "set the environment variable {name:?}: a name is not empty and has no `=`, and neither name nor value has a NUL"
            )));
        }
        env.insert(name.clone(), value.clone());
    }
    Ok(env)
}

/// How a [`Program`] is run.
struct Invocation {
    argv: Vec<OsString>,
    /// See [`Launch::direct`].
    direct: Option<Vec<String>>,
    /// See [`Launch::arg0`].
    arg0: Option<String>,
    /// The file with a long shell line.
    script: Option<PathBuf>,
}

impl Invocation {
    fn plain(argv: Vec<OsString>) -> Self {
        Self {
            argv,
            direct: None,
            arg0: None,
            script: None,
        }
    }
}

fn invocation(
    context: &Context,
    account: &Account,
    number: u64,
    env: &BTreeMap<String, String>,
    program: &Program,
) -> Result<Invocation, WireError> {
    let nul = || WireError::invalid("start the command: it contains a NUL character");
    match program {
        Program::Shell(line) if line.has_nul() => Err(nul()),
        Program::Argv(argv) if argv.iter().any(Word::has_nul) => Err(nul()),
        Program::Argv(argv) if argv.is_empty() => {
            Err(WireError::invalid("start the command: it is empty"))
        }
        Program::Argv(argv) => {
            let words = argv.iter().map(|word| word.as_os_str().to_owned());
            Ok(Invocation::plain(words.collect()))
        }
        Program::LoginShell => {
            let name = account.shell.rsplit('/').next().unwrap_or("sh");
            Ok(Invocation {
                arg0: Some(format!("-{name}")),
                ..Invocation::plain(vec![account.shell.clone().into()])
            })
        }
        Program::Shell(line) => shell_invocation(context, number, env, line),
    }
}

/// A shell line, as an argument of the shell or, if it is too long for one, in a file.
fn shell_invocation(
    context: &Context,
    number: u64,
    env: &BTreeMap<String, String>,
    line: &Word,
) -> Result<Invocation, WireError> {
    let shell = shell()?;
    let (line, direct) = match line {
        Word::Text(text) => {
            let text = line_ends::unix(text);
            let simple = !env.keys().any(|name| shell_line::matters(name));
            let direct = simple.then(|| shell_line::words(&text)).flatten();
            (OsString::from(text.into_owned()), direct)
        }
        Word::Bytes(_) => (line.as_os_str().to_owned(), None),
    };
    if line.len() <= LONGEST_ARGUMENT {
        return Ok(Invocation {
            direct,
            ..Invocation::plain(vec![shell.into(), "-c".into(), line])
        });
    }
    let path = context.shared.join(format!("command-{number}.sh"));
    std::fs::write(&path, line.as_encoded_bytes())
        .map_err(|e| not_started("its text could not be kept", &e))?;
    Ok(Invocation {
        script: Some(path.clone()),
        ..Invocation::plain(vec![shell.into(), path.into()])
    })
}

/// Starts a command. After an error no process of it runs.
pub(crate) fn start(context: &Context, request: &ExecRequest) -> Result<Process, WireError> {
    let account = context.account(request.user);
    let number = context.number();
    let cwd = match request.cwd.as_deref() {
        None | Some("") => context.workdir.clone(),
        Some(cwd) => context.places(request.user).find(cwd, &mut Vec::new())?,
    };
    let env = environment(context, &account, request)?;
    let invocation = invocation(context, &account, number, &env, &request.command)?;
    let group = context
        .supervisor
        .group(number)
        .map_err(|e| not_started("its cgroup could not be made", &e))?;
    let failed = context.private.join(format!("failed-{number}"));
    let launch = Launch {
        failed: failed.clone(),
        cgroup: group.cgroup().map(Path::to_owned),
        credentials: account.credentials.clone(),
        cwd: cwd.into(),
        nofile: context.nofile,
        terminal: request.pty.is_some(),
        arg0: invocation.arg0,
        direct: invocation.direct,
    };
    let launch = serde_json::to_string(&launch)
        .map_err(|e| not_started("its description could not be written", &e.into()))?;
    let streams = match &request.pty {
        Some(pty) => streams::terminal(pty, &account)
            .map_err(|e| not_started("its terminal could not be made", &e))?,
        None => streams::pipes(request.stdin, &account)
            .map_err(|e| not_started("its pipes could not be made", &e))?,
    };
    let [stdin, stdout, stderr] = streams.stdio;
    let mut program = Command::new(&context.enter);
    program
        .arg0(ARG0)
        .arg(launch)
        .args(&invocation.argv)
        .env_clear()
        .envs(env)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    let spawned = context
        .supervisor
        .spawn(&mut program)
        .map_err(|e| not_started("no process could be made", &e))?;
    // Init's copies of the command's ends must be closed, or end of file is never seen.
    drop(program);
    connect(spawned, streams.ours, group, failed, invocation.script)
        .map_err(|e| not_started("its streams could not be used", &e))
}

fn connect(
    spawned: Spawned,
    ours: Ours,
    group: Box<dyn Group>,
    failed: PathBuf,
    script: Option<PathBuf>,
) -> io::Result<Process> {
    let mut process = Process {
        first: spawned.pid,
        group,
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
    /// Why it was never started, if so. Known once it has exited.
    pub(crate) fn start_error(&self) -> Option<WireError> {
        let text = std::fs::read(&self.failed).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Ends the command and everything that it started: by a signal that programs can handle, and after [`STOP_GRACE`] by
    /// killing. Returns whether anything had to be killed.
    pub(crate) async fn stop(&mut self) -> bool {
        self.ask_to_end();
        let deadline = Instant::now() + STOP_GRACE;
        let mut pause = Duration::from_millis(1);
        while self.populated() && Instant::now() < deadline {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CHECK);
        }
        let killed = self.populated();
        self.kill();
        // A process that hangs in a system call ends later; do not wait for it.
        tokio::time::timeout(LONGEST_KILL, &mut self.exit)
            .await
            .ok();
        killed
    }

    fn ask_to_end(&self) {
        // Closing a terminal sends SIGHUP; interactive shells ignore SIGTERM.
        let signal = match self.terminal {
            Some(_) => Signal::HUP,
            None => Signal::TERM,
        };
        self.group.signal(self.first, signal);
    }

    /// Whether any of its processes is left.
    pub(crate) fn populated(&self) -> bool {
        self.group.populated(self.first)
    }

    /// Kills the command and everything that it started.
    pub(crate) fn kill(&self) {
        self.group.kill(self.first);
    }

    /// Sends its process group a signal. A command that has ended ignores it.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process_group(self.first, signal).ok();
    }

    /// Changes the size of its terminal. A command that has ended ignores it.
    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            streams::resize(terminal, cols, rows).ok();
        }
    }

    /// The outcome of a command that ended by itself.
    pub(crate) fn outcome(&self, status: Option<ExitStatus>) -> Outcome {
        let failed = !status.is_some_and(|status| status.success());
        if failed && self.group.out_of_memory() {
            return Outcome::OutOfMemory;
        }
        let exited = status.and_then(|status| status.code());
        if let Some(code) = exited.and_then(|code| u8::try_from(code).ok()) {
            return Outcome::Exited { code };
        }
        let signal = status.and_then(|status| status.signal());
        Outcome::Signaled {
            signal: signal.map_or_else(|| "KILL".into(), signals::name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        std::fs::remove_file(&self.failed).ok();
        if let Some(script) = &self.script {
            std::fs::remove_file(script).ok();
        }
    }
}
