//! `snowglobe start`: starts the project's sandbox and boots its machine.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::json::AsJson;
use super::ls::{self, Row};
use super::{Done, attach, load_to_share, progress};
use crate::config::{Config, Raw};
use crate::rundir::Running;

/// Start this project's sandbox and boot its machine, unless it runs.
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// The result for programs: what `status` says, and what was done.
#[derive(Debug, Serialize)]
struct Result {
    #[serde(flatten)]
    row: Row,
    ran_already: bool,
}

impl Start {
    pub(super) async fn run(self) -> Done {
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let (running, started) = boot(&config, &flags).await?;
        let directory = running.info.workspace.display();
        match started {
            false => say!("the sandbox of {directory} runs already"),
            true => say!("started the sandbox of {directory}; {}", stay(&config)),
        }
        if self.json.wanted() {
            self.json.print(&Result {
                row: ls::row(&running).await,
                ran_already: !started,
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts the sandbox unless it runs, and boots its machine; gives whether this started it.
pub(super) async fn boot(config: &Config, flags: &Raw) -> anyhow::Result<(Running, bool)> {
    let (steps, shown) = progress::show();
    let booted = attach::interruptible(attach::booted(config, flags, &steps)).await;
    shown.finish();
    let attach::Booted {
        running,
        started,
        told,
    } = booted?;
    attach::tell(&told);
    Ok((running, started))
}

/// How long a sandbox that was just started stays.
pub(super) fn stay(config: &Config) -> String {
    let stop = "it stays until `snowglobe stop`";
    config.sandbox.idle_stop.map_or(stop.to_owned(), |idle| {
        let idle = crate::text::time(idle.as_secs());
        format!("{stop}, or until nothing has used it for {idle}")
    })
}
