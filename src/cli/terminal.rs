//! This process's terminal: its size, its raw mode, its changes of size.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::PtySize;

/// The terminal's type if `TERM` names none.
const TERM: &str = "xterm-256color";

/// The size of a terminal that does not know its own.
const SIZE: (u16, u16) = (80, 24);

/// Whether standard input and output are a terminal, which a shell or a front end needs.
pub(super) fn is_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Whether a person is at the terminal: what they type and what they see are one.
pub(super) fn is_interactive() -> bool {
    is_there() && std::io::stderr().is_terminal()
}

/// The guest's terminal: of the size and type of this process's.
pub(super) fn like_ours() -> PtySize {
    let (cols, rows) = size().unwrap_or(SIZE);
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    PtySize {
        term: term.unwrap_or_else(|| TERM.into()),
        cols,
        rows,
    }
}

/// Some terminals, such as serial lines, state a size of zero.
fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Raw mode: each key goes to the guest, ctrl-C, too. Ends when it is dropped.
pub(super) struct RawMode(());

impl RawMode {
    pub(super) fn enter() -> std::io::Result<Self> {
        crossterm::terminal::enable_raw_mode()?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = crossterm::terminal::disable_raw_mode() {
            tracing::debug!(%error, "the terminal could not be restored; run `reset`");
        }
    }
}

/// The sizes of the terminal, whenever it changes.
pub(super) fn resizes() -> std::io::Result<tokio::sync::mpsc::Receiver<(u16, u16)>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut changes = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        // The size may have changed while the sandbox booted.
        loop {
            if let Some(size) = size()
                && sender.send(size).await.is_err()
            {
                break;
            }
            if changes.recv().await.is_none() {
                break;
            }
        }
    });
    Ok(receiver)
}
