//! The standard streams of a command: pipes, or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;

use crate::system::users::Account;
use crate::wire::{PtySize, Stdin};

/// Init's ends of a command's streams.
pub(crate) enum Ours {
    Terminal(OwnedFd),
    Pipes {
        stdin: Option<io::PipeWriter>,
        stdout: io::PipeReader,
        stderr: io::PipeReader,
    },
}

/// The streams of a command before it runs: init's ends and the command's.
pub(crate) struct Streams {
    pub(crate) ours: Ours,
    pub(crate) stdio: [Stdio; 3],
}

/// Lets programs open their pipes again by names like `/dev/stdout`, also as another user, after `su` or `sudo`. Only a
/// process that holds the pipe, or may inspect such a process, can reach it.
fn open_to_all(pipe: impl AsFd, account: &Account) -> io::Result<()> {
    let user = &account.credentials;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::fs::fchown(&pipe, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(&pipe, Mode::from_raw_mode(0o666))?)
}

/// Pipes; `/dev/null` as standard input if the request has none.
pub(crate) fn pipes(stdin: Stdin, account: &Account) -> io::Result<Streams> {
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    open_to_all(&stdout, account)?;
    open_to_all(&stderr, account)?;
    let (their_stdin, stdin) = match stdin {
        Stdin::Null => (Stdio::null(), None),
        Stdin::Input | Stdin::Open => {
            let (theirs, ours) = io::pipe()?;
            open_to_all(&ours, account)?;
            (theirs.into(), Some(ours))
        }
    };
    Ok(Streams {
        ours: Ours::Pipes {
            stdin,
            stdout,
            stderr,
        },
        stdio: [their_stdin, their_stdout.into(), their_stderr.into()],
    })
}

/// A new terminal.
pub(crate) fn terminal(pty: &PtySize, account: &Account) -> io::Result<Streams> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    resize(&master, pty.cols, pty.rows)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&path, flags, Mode::empty())?;
    let uid = Uid::from_raw(account.credentials.uid);
    rustix::fs::fchown(&slave, Some(uid), None)?;
    let stdio = [
        slave.try_clone()?.into(),
        slave.try_clone()?.into(),
        slave.into(),
    ];
    Ok(Streams {
        ours: Ours::Terminal(master),
        stdio,
    })
}

/// Changes a terminal's size.
pub(crate) fn resize(terminal: &OwnedFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_col: cols,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
