//! `snowglobe network`: what the sandbox may reach, why, and what it did reach.

mod change;
mod check;
mod explain;
pub(super) mod log;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::json::AsJson;
use super::{Done, load};
use crate::client;
use crate::config::{Config, Raw};
use crate::network::live::{Counts, Status};
use crate::rundir::Running;
use crate::shown;

/// Show and change what this project's sandbox reaches of the network.
#[derive(Debug, Args)]
pub(super) struct Network {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the rules and where each comes from, names, secrets without their values, and what was counted
    Show,
    /// Say whether something may be reached, and which rule decides; exit with 1 if it may not
    Check {
        /// A URL, or HOST[:PORT]; without a port it is 443
        target: String,
        /// The method of the request to a URL
        #[arg(long, value_name = "METHOD", default_value = "GET")]
        method: String,
    },
    /// Allow what the rules name: in the sandbox that runs, at once, and with --save from now on
    Allow(change::Rules),
    /// Deny what the rules name, whatever else is allowed; open connections there are closed
    Deny(change::Rules),
    /// Show what the sandbox asked of the network, and what came of it; also after its end
    Log {
        /// Go on with what is added, until ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// Show only what was refused or failed
        #[arg(long)]
        refused: bool,
    },
    /// Say what a preset stands for, host by host; without one, list the presets
    Explain {
        /// A preset, such as packages
        preset: Option<String>,
    },
}

impl Network {
    pub(super) async fn run(self) -> Done {
        if let Action::Explain { preset } = &self.action {
            explain::run(preset.as_deref(), self.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        let config = load(*self.config)?;
        match self.action {
            Action::Show => show::run(&config, self.json).await,
            Action::Check { target, method } => {
                check::run(&config, &target, &method, self.json).await
            }
            Action::Allow(rules) => change::run(&config, change::To::Allow, rules, self.json).await,
            Action::Deny(rules) => change::run(&config, change::To::Deny, rules, self.json).await,
            Action::Log { follow, refused } => log::run(&config, follow, refused, self.json).await,
            Action::Explain { .. } => Ok(ExitCode::SUCCESS),
        }
    }
}

/// The network of the project's sandbox: of the one that runs, else of one that would be started.
async fn current(config: &Config) -> anyhow::Result<(Option<Running>, Status)> {
    match client::find(config)? {
        Some(running) => {
            let status = client::network(&running, None).await?;
            Ok((Some(running), status))
        }
        None => {
            let status = Status {
                settings: config.sandbox.network.shown(),
                counts: Counts::default(),
            };
            Ok((None, status))
        }
    }
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", shown::line(word).replace('\'', r"'\''")),
    }
}
