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

/// Open a shell in the sandbox that runs for this workspace, or in a fresh one that goes with the shell.
#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Log in as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Always boot a sandbox of its own
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Puts the terminal back as it was.
struct RawMode;

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
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
            let _ = out.write_all(&data).and_then(|()| out.flush());
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
