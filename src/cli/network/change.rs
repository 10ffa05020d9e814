//! `snowglobe network allow` and `snowglobe network deny`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::super::json::AsJson;
use super::super::{Done, saved};
use super::quoted;
use crate::client;
use crate::config::{Config, save_rules};
use crate::network::check::{Question, check};
use crate::network::live::Status;
use crate::network::presets;
use crate::network::rules::Rule;
use crate::network::settings::Change;
use crate::shown;

/// Rules to add.
#[derive(Debug, Args)]
pub(super) struct Rules {
    /// Presets (packages, github), HOST[:PORT], *.NAME, addresses, or URLs such as 'GET https://example.org/data/**'
    #[arg(required = true, value_name = "RULE", value_parser = checked)]
    rules: Vec<String>,
    /// Also put them into your configuration, for all sandboxes that start from now on
    #[arg(long)]
    save: bool,
}

fn checked(text: &str) -> Result<String, String> {
    Rule::parse(text).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

/// Which list the rules are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// What may be reached.
    Allow,
    /// What may not.
    Deny,
}

impl To {
    fn verb(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    fn change(self, rules: Vec<String>) -> Change {
        match self {
            Self::Allow => Change {
                allow: rules,
                deny: Vec::new(),
            },
            Self::Deny => Change {
                allow: Vec::new(),
                deny: rules,
            },
        }
    }
}

pub(super) async fn run(config: &Config, to: To, rules: Rules, json: AsJson) -> Done {
    let words: Vec<String> = rules.rules.iter().map(|rule| quoted(rule)).collect();
    let change = to.change(rules.rules);
    let running = client::find(config)?;
    let directory = config.sandbox.project_dir.display();
    if running.is_none() && !rules.save {
        anyhow::bail!(
            "{verb} it: no sandbox runs for {directory}; pass --save to put it into your configuration, or start one with \
             `snowglobe start --{verb} {}`",
            words.join(&format!(" --{} ", to.verb())),
            verb = to.verb(),
        );
    }
    let now: Option<Status> = match &running {
        Some(running) => Some(client::network(running, Some(change.clone())).await?),
        None => None,
    };
    if let Some(status) = &now {
        say!(
            "the network of the sandbox of {directory} is now {}",
            shown::line(&status.settings.to_string())
        );
        tell_denied(status, &change);
    }
    let saved = saved(rules.save, now.is_some(), |file| save_rules(file, &change))?;
    json.print(&json!({
        "applied": now.is_some(),
        "saved": saved,
        "network": now,
    }))?;
    Ok(ExitCode::SUCCESS)
}

/// Says of what was just allowed that another rule denies it.
fn tell_denied(status: &Status, change: &Change) {
    for rule in &change.allow {
        // A preset has many hosts, some of which may well be denied.
        let (false, Ok(question)) = (presets::find(rule).is_some(), Question::parse(rule)) else {
            continue;
        };
        let answer = check(&status.settings, &question, "GET");
        if let Ok(answer) = answer
            && !answer.allowed
        {
            say!(
                "but {}:{} is {}",
                answer.host,
                answer.port,
                shown::line(&answer.why)
            );
        }
    }
}
