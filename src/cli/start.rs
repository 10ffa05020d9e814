//! `snowglobe start`: starts the project's sandbox and boots its machine.

use std::process::ExitCode;

use clap::Args;

use super::{Done, attach, load_to_share, progress};
use crate::client;
use crate::config::Raw;

/// Start this project's sandbox and boot its machine, unless it runs.
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    config: Box<Raw>,
}

impl Start {
    pub(super) async fn run(self) -> Done {
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let (steps, shown) = progress::show();
        let booted = async {
            let (running, started) = attach::start_or_join(&config, &flags, &steps).await?;
            let lacks = client::boot(&running, started, &steps).await?;
            Ok::<_, anyhow::Error>((running, started, lacks))
        };
        let booted = attach::interruptible(booted).await;
        shown.finish();
        let (running, started, lacks) = booted?;
        attach::tell_lacks(&lacks);
        let directory = running.info.workspace.display();
        match (started, config.sandbox.idle_stop) {
            (false, _) => say!("the sandbox of {directory} runs already"),
            (true, None) => {
                say!("started the sandbox of {directory}; it stays until `snowglobe stop`")
            }
            (true, Some(idle)) => say!(
                "started the sandbox of {directory}; it stays until `snowglobe stop`, or until nothing has used it for {}",
                crate::text::time(idle.as_secs())
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}
