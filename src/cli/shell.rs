//! `snowglobe shell`: the sandbox's login shell on this terminal.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Done, attach, load_to_share, progress};
use crate::config::Raw;
use crate::guest::Output;
use crate::sandbox::{Exec, Limit, Program, PtySize, Stdin};

/// Open a shell in the running sandbox of this workspace, or in a new one that is removed after the shell.
#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Log in as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Always boot a new sandbox
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Restores the terminal when it is dropped.
struct RawMode;

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = crossterm::terminal::disable_raw_mode() {
            tracing::warn!(%error, "the terminal could not be restored; run `reset`");
        }
    }
}

impl Shell {
    pub(super) async fn run(self) -> Done {
        anyhow::ensure!(
            std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
            "open a shell: standard input and output are no terminal; use `snowglobe exec` in scripts"
        );
        let config = load_to_share(*self.config)?;
        let (cols, rows) = crossterm::terminal::size().unwrap_or((80, 24));
        let request = Exec {
            user: attach::user(self.root),
            stdin: Stdin::Input,
            limit: Limit::Never,
            pty: Some(PtySize {
                term: std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".into()),
                cols,
                rows,
            }),
            ..Exec::new(Program::LoginShell)
        }
        .request(&config.sandbox);
        let (steps, shown) = progress::show();
        let attached = attach::guest(config, self.fresh, &steps).await;
        shown.finish();
        let attached = attached?;
        attached.tell_lacks();
        crossterm::terminal::enable_raw_mode()?;
        let raw = RawMode;
        let resizes = resizes()?;
        let mut show = |output| {
            let (Output::Stdout(data) | Output::Stderr(data)) = output;
            let mut out = std::io::stdout().lock();
            // A terminal that is gone ends the shell by SIGHUP.
            drop(out.write_all(&data).and_then(|()| out.flush()));
        };
        let ran = attached
            .guest
            .run(
                request,
                tokio::io::stdin(),
                &mut show,
                &CancellationToken::new(),
                Some(resizes),
            )
            .await;
        drop(raw);
        attached.close().await;
        Ok(ExitCode::from(ran?.ended()?.outcome.exit_status()))
    }
}

/// The sizes of the terminal, whenever it changes.
fn resizes() -> std::io::Result<tokio::sync::mpsc::Receiver<(u16, u16)>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut changes = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if let Ok(size) = crossterm::terminal::size()
                && sender.send(size).await.is_err()
            {
                break;
            }
        }
    });
    Ok(receiver)
}
