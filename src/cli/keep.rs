//! `snowglobe keep`: the process that keeps a sandbox. Other subcommands start it; see [`crate::client`].

use std::io::Read;
use std::process::ExitCode;

use clap::Args;

use super::{Done, signals};
use crate::client::Started;
use crate::config::{Config, Raw, Sources};
use crate::keeper::Keeper;
use crate::shown::{self, Stream};

/// Keep a sandbox for other programs of this user. The flags come on standard input, as JSON.
#[derive(Debug, Args)]
pub(super) struct Keep {}

impl Keep {
    pub(super) async fn run(self) -> Done {
        // It fails only for a leader of a process group, which has left the terminal's session already.
        rustix::process::setsid().ok();
        let keeper = match keeper().await {
            Ok(keeper) => keeper,
            Err(error) => {
                say(&Started::Failed(crate::describe(error.as_ref())))?;
                return Err(error);
            }
        };
        say(&Started::Listening(keeper.id().to_string()))?;
        // The client waits for nothing more, and must not wait for this process's end.
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(null)?;
        keeper.run(signals::terminated()).await;
        Ok(ExitCode::SUCCESS)
    }
}

async fn keeper() -> anyhow::Result<Keeper> {
    let mut order = Vec::new();
    std::io::stdin().read_to_end(&mut order)?;
    let flags: Raw = serde_json::from_slice(&order)?;
    let config = Config::load(Sources::of_process(flags)?)?;
    config.check_workspace()?;
    Ok(Keeper::new(config).await?)
}

fn say(started: &Started) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(started)?;
    line.push(b'\n');
    Ok(shown::raw(Stream::Output, &line)?)
}
