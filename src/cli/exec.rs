//! `snowglobe exec`: one command, its streams passed through, its exit status ours.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use snowglobe_init::wire::{Command, ExecRequest, Outcome};
use tokio_util::sync::CancellationToken;

use super::{Done, attach, load, progress, serve, signal_code};
use crate::config::Raw;
use crate::guest::Output;

/// Run one command in the sandbox: in the one that runs for this workspace, or in a fresh one that goes afterwards.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Run as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Where to run it; relative to the workspace
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Kill it, with everything it started, after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Always boot a sandbox of its own
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    config: Box<Raw>,
    /// The command and its arguments; a single word is a shell line
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self) -> Done {
        let command = match <[String; 1]>::try_from(self.command) {
            Ok([line]) => Command::Shell(line),
            Err(argv) => Command::Argv(argv),
        };
        let timeout = self
            .timeout
            .map(std::time::Duration::try_from_secs_f64)
            .transpose();
        let timeout = timeout
            .map_err(|_| anyhow::anyhow!("use --timeout: expected a number of seconds above 0"))?;
        let (steps, shown) = progress::show();
        let attached = attach::guest(load(*self.config)?, self.fresh, &steps).await;
        shown.finish();
        let attached = attached?;
        let request = ExecRequest {
            command,
            cwd: self.cwd,
            env: BTreeMap::new(),
            user: attach::user(self.root),
            timeout_ms: timeout.map(|timeout| timeout.as_millis() as u64),
            spill_after: None,
            pty: None,
            detach: None,
        };
        let cancel = CancellationToken::new();
        let mut broken = false;
        let mut pass = |output| broken |= pass_on(&output).is_err();
        let report = tokio::select! {
            report = attached.guest.exec(request, tokio::io::stdin(), &mut pass, &cancel, None) => Some(report),
            () = serve::terminated() => None,
        };
        attached.close().await;
        let Some(report) = report else {
            return Ok(ExitCode::from(130));
        };
        Ok(match report?.outcome {
            Outcome::Exited { code } => ExitCode::from(code),
            Outcome::Signaled { signal } => ExitCode::from(signal_code(&signal)),
            Outcome::TimedOut => {
                eprintln!("snowglobe: the command's time was up, and it was killed");
                ExitCode::from(124)
            }
            Outcome::OutOfMemory => {
                eprintln!(
                    "snowglobe: the sandbox ran out of memory, and the command was killed; give it more with --memory-mib"
                );
                ExitCode::from(137)
            }
            Outcome::Cancelled => ExitCode::from(130),
        })
    }
}

fn pass_on(output: &Output) -> std::io::Result<()> {
    match output {
        Output::Stdout(data) => {
            let mut out = std::io::stdout().lock();
            out.write_all(data)?;
            out.flush()
        }
        Output::Stderr(data) => std::io::stderr().lock().write_all(data),
    }
}
