//! The streams that a command gets: pipes, or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;

use crate::system::users::Account;
use crate::wire::{PtySize, Stdin};

/// Our ends of a command's streams.
pub(crate) enum Ours {
    Terminal(OwnedFd),
    Pipes {
        stdin: Option<io::PipeWriter>,
        stdout: io::PipeReader,
        stderr: io::PipeReader,
    },
}

/// The streams of a command, before it runs: our ends, and its own.
pub(crate) struct Streams {
    pub(crate) ours: Ours,
    pub(crate) stdio: [Stdio; 3],
}

/// Lets programs open a pipe that they have as a stream once more, by `/dev/stdout` and its like: whoever they are by
/// then, after `su` or `sudo`, too. Only who holds the pipe, or may look into a process that does, gets to it.
fn open_to_all(pipe: impl AsFd, account: &Account) -> io::Result<()> {
    if let Some(credentials) = &account.credentials {
        let (uid, gid) = (
            Uid::from_raw(credentials.uid),
            Gid::from_raw(credentials.gid),
        );
        rustix::fs::fchown(&pipe, Some(uid), Some(gid))?;
    }
    Ok(rustix::fs::fchmod(&pipe, Mode::from_raw_mode(0o666))?)
}

/// Pipes, and `/dev/null` for a standard input that nobody sends.
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

/// A terminal of its own.
pub(crate) fn terminal(pty: &PtySize, account: &Account) -> io::Result<Streams> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    resize(&master, pty.cols, pty.rows)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&path, flags, Mode::empty())?;
    if let Some(credentials) = &account.credentials {
        rustix::fs::fchown(&slave, Some(Uid::from_raw(credentials.uid)), None)?;
    }
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
