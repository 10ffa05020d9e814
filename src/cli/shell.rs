//! `snowglobe shell`: the sandbox's login shell on this terminal.

use std::process::ExitCode;

use clap::Args;

use super::attach::{self, Attached, Host};
use super::session::Session;
use super::{Done, load_to_share, refused, terminal};
use crate::client;
use crate::config::Raw;
use crate::guest::GuestError;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::sandbox::{Exec, Limit, Program, Stdin};
use crate::shown::{self, Stream};

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

impl Shell {
    pub(super) async fn run(self) -> Done {
        anyhow::ensure!(
            terminal::is_there(),
            "open a shell: standard input and output are no terminal; use `snowglobe exec` in scripts"
        );
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let request = Exec {
            user: attach::user(self.root),
            cwd: attach::directory(&config),
            stdin: Stdin::Input,
            limit: Limit::Never,
            pty: Some(terminal::like_ours()),
            ..Exec::new(Program::LoginShell)
        }
        .request(&config.sandbox);
        let mut attached = attach::guest(config, &flags, self.rm).await?;
        let before = refused::before(&attached).await;
        let session = Session::begin(request, attached.timeline.clone())?;
        let ran = loop {
            let ran = session.run(&attached.guest).await;
            // Another machine took the place of the shell's, or its machine ended: the shell goes on in the new one.
            match (&ran, &attached.host) {
                (Err(error), Host::Kept(running)) if is_lost(error) && running.lives() => {
                    attached = reattached(running).await?;
                }
                _ => break ran,
            }
        };
        drop(session);
        if ran.as_ref().is_err_and(is_lost)
            && matches!(&attached.host, Host::Kept(running) if !running.lives())
        {
            say!("the sandbox was stopped");
        }
        before.tell(&attached).await;
        attached.close().await;
        Ok(ExitCode::from(ran?.outcome.exit_status()))
    }
}

/// Whether the connection to the guest broke.
fn is_lost(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(GuestError::is_lost)
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
    shown::raw(Stream::Output, told.as_bytes())?;
    client::boot(running, false, &Progress::none()).await?;
    Ok(Attached::to(running.clone(), client::join(running).await?))
}
