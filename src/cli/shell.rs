//! `snowglobe shell`: the sandbox's login shell on this terminal.

use std::io::{IsTerminal, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use clap::Args;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::attach::{self, Attached, Host};
use super::{Done, load_to_share, progress};
use crate::config::Raw;
use crate::guest::Output;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::sandbox::{Exec, Limit, Program, PtySize, Stdin};
use crate::{client, shown};

/// Open a shell in this project's sandbox, which is started if it does not run, and stays.
#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Log in as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Open it in a new sandbox, which is removed after the shell
    #[arg(long, alias = "fresh")]
    rm: bool,
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
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let (cols, rows) = crossterm::terminal::size().unwrap_or((80, 24));
        let request = Exec {
            user: attach::user(self.root),
            cwd: attach::directory(&config),
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
        let attached = match self.rm {
            true => attach::own(config, &steps).await,
            false => attach::kept(&config, &flags, &steps).await,
        };
        shown.finish();
        let mut attached = attached?;
        attached.tell_lacks();
        crossterm::terminal::enable_raw_mode()?;
        let raw = RawMode;
        let input = Input(Arc::new(Mutex::new(tokio::io::stdin())));
        let ran = loop {
            let ran = attached
                .guest
                .run(
                    request.clone(),
                    input.clone(),
                    &mut show,
                    &CancellationToken::new(),
                    Some(resizes()?),
                )
                .await;
            // Another machine took the place of the shell's, or its machine ended: the shell goes on in the new one.
            match (&ran, &attached.host) {
                (Err(error), Host::Kept(running)) if error.is_lost() && running.lives() => {
                    attached = reattached(running).await?;
                }
                _ => break ran,
            }
        };
        drop(raw);
        if ran.is_err() && matches!(&attached.host, Host::Kept(running) if !running.lives()) {
            say!("the sandbox was stopped");
        }
        attached.close().await;
        Ok(ExitCode::from(ran?.ended()?.outcome.exit_status()))
    }
}

fn show(output: Output) {
    let (Output::Stdout(data) | Output::Stderr(data)) = output;
    let mut out = std::io::stdout().lock();
    // A terminal that is gone ends the shell by SIGHUP.
    drop(out.write_all(&data).and_then(|()| out.flush()));
}

/// Says on the raw terminal what became of the shell's machine, and connects to the new one.
async fn reattached(running: &Running) -> anyhow::Result<Attached> {
    let status = client::status(running).await?;
    let what = match status.last_end {
        Some(what) => format!("the sandbox was {what}"),
        None => "the connection to the sandbox broke".to_owned(),
    };
    let told = format!(
        "\r\n[{}; this is a new shell in it]\r\n",
        shown::line(&what)
    );
    show(Output::Stdout(told.into()));
    client::boot(running, false, &Progress::none()).await?;
    Ok(Attached::to(running.clone(), client::join(running).await?))
}

/// Standard input, which one shell after the other reads. A read that waits for the terminal goes on for the next.
#[derive(Clone)]
struct Input(Arc<Mutex<tokio::io::Stdin>>);

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut stdin = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *stdin).poll_read(context, buffer)
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
