//! `snowglobe stop`: stops sandboxes that run.

use std::process::ExitCode;

use clap::Args;

use super::json::AsJson;
use super::{Done, load};
use crate::config::Raw;
use crate::rundir::{self, Running};
use crate::{client, shown};

/// Stop this project's sandbox. Its commands get two seconds to end; its snapshots and the workspace stay.
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Stop every sandbox of yours that runs
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

impl Stop {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let running: Vec<Running> = match self.all {
            true => rundir::running(&config.host.dirs.runtime)?,
            false => client::find(&config)?.into_iter().collect(),
        };
        if running.is_empty() {
            match self.all {
                true => say!("no sandbox runs"),
                false => say!(
                    "no sandbox runs for {}; `snowglobe ls` lists those that run",
                    config.sandbox.project_dir.display()
                ),
            }
        }
        let stopped = futures_util::future::join_all(running.iter().map(client::stop)).await;
        let (mut failed, mut results) = (false, Vec::new());
        for (running, stopped) in running.iter().zip(stopped) {
            let problem = stopped
                .err()
                .map(|error| format!("failed to {}", crate::describe(&error)));
            let directory = running.info.workspace.display();
            match &problem {
                None => say!("stopped the sandbox of {directory}"),
                Some(problem) => shown::complain(format_args!("{}", shown::line(problem))),
            }
            failed |= problem.is_some();
            results.push(serde_json::json!({
                "id": running.id.to_string(),
                "name": running.info.name,
                "directory": directory.to_string(),
                "stopped": problem.is_none(),
                "problem": problem,
            }));
        }
        self.json.print(&results)?;
        Ok(match failed {
            true => ExitCode::from(super::OURS),
            false => ExitCode::SUCCESS,
        })
    }
}
