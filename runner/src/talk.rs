//! The streams to the parent: lines of JSON in, lines of JSON out, and warnings for the user.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};
use snowglobe_runner::{Action, Answer, Event, VmRequest};

use crate::error::StartError;

/// The maximum length of a line.
const MAX_LINE: usize = 4 << 20;

/// Standard input, read piece by piece: the runner waits for other events too.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Reads once; waits for input.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 8192];
        match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(0) => self.ended = true,
            Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if self.buffer.len() > MAX_LINE {
            return Err(io::Error::other("a line is too long"));
        }
        Ok(())
    }

    /// Removes the next complete line.
    pub(crate) fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
        Some(self.buffer.drain(..=end).collect())
    }

    /// Whether standard input has ended.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether standard input has ended without a request to stop: the parent has ended. Reads the remaining input.
    pub(crate) fn is_orphaned(&mut self) -> bool {
        let now = rustix::event::Timespec::default();
        while !self.ended {
            let mut input = [PollFd::new(self, PollFlags::IN)];
            if !matches!(rustix::event::poll(&mut input, Some(&now)), Ok(1)) || self.fill().is_err()
            {
                return false;
            }
        }
        while let Some(line) = self.line() {
            let request = serde_json::from_slice(&line);
            if matches!(
                request,
                Ok(VmRequest {
                    action: Action::Stop,
                    ..
                })
            ) {
                return false;
            }
        }
        true
    }

    /// Waits for a line; `None` at the end.
    pub(crate) fn wait_for_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.line() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.fill()?;
        }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }
}

/// Sends the parent an event. Errors are ignored: the end of standard input shows that the parent has ended.
pub(crate) fn say(event: &Event) {
    print(event);
}

/// Prints a line of JSON.
pub(crate) fn print(message: &impl serde::Serialize) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).ok();
    }
}

/// Writes a warning for the user to standard error, which the parent passes on. Errors are ignored.
pub(crate) fn warn(what: std::fmt::Arguments<'_>) {
    let line = format!("snowglobe-runner: warning: {what}\n");
    io::stderr().write_all(line.as_bytes()).ok();
}

/// Answers a request.
pub(crate) fn reply(id: u64, result: Result<Answer, String>) {
    say(&Event::Reply { id, result });
}

/// Reports a VM that did not start.
pub(crate) fn failed(error: &StartError, console: Vec<String>) -> ExitCode {
    say(&Event::Failed {
        stage: error.stage.to_owned(),
        message: error.message.clone(),
        console,
    });
    ExitCode::FAILURE
}
