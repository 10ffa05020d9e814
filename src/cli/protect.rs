//! `snowglobe protect`: the rules about files of the workspace that the sandbox may not change.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use snowglobe_runner::protection::{Effect, Protection, TABLE};

use super::json::AsJson;
use super::{Done, load, saved};
use crate::client;
use crate::config::{Config, Raw, save_effects};
use crate::shown;
use crate::text::unknown_key;
use crate::workspace::Effects;

/// Show and change which files of the workspace are protected from this project's sandbox.
#[derive(Debug, Args)]
pub(super) struct Protect {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show each rule, what becomes of a change to its files, and why; and which files are hidden
    Show,
    /// Let the sandbox change the files of these rules: in the one that runs, at once, and with --save from now on
    Allow(Rules),
    /// Refuse such changes, and ask you whether to allow them
    Ask(Rules),
    /// Refuse such changes
    Deny(Rules),
}

/// Rules to change.
#[derive(Debug, Args)]
struct Rules {
    /// Rules, such as vscode (`snowglobe protect show` lists them)
    #[arg(required = true, value_name = "RULE", value_parser = known)]
    rules: Vec<String>,
    /// Also put it into your configuration, for all sandboxes that start from now on
    #[arg(long)]
    save: bool,
}

fn known(rule: &str) -> Result<String, String> {
    match TABLE.iter().any(|row| row.id == rule) {
        true => Ok(rule.to_owned()),
        false => Err(unknown_key(rule, TABLE.iter().map(|row| row.id))),
    }
}

impl Protect {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let (effect, rules) = match self.action {
            Action::Show => return show(&config, self.json).await,
            Action::Allow(rules) => (Effect::Allow, rules),
            Action::Ask(rules) => (Effect::Ask, rules),
            Action::Deny(rules) => (Effect::Deny, rules),
        };
        change(&config, effect, rules, self.json).await
    }
}

/// A rule as programs get it.
#[derive(Debug, Serialize)]
struct Rule {
    rule: &'static str,
    effect: Effect,
    why: &'static str,
}

/// The result for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    /// Whether a sandbox runs; else this is what one would start with.
    running: bool,
    rules: Vec<Rule>,
    hide: &'a [String],
    read_only: bool,
}

fn rules(effects: &BTreeMap<String, Effect>) -> Vec<Rule> {
    let rule = |row: &snowglobe_runner::protection::Row| Rule {
        rule: row.id,
        effect: effects.get(row.id).copied().unwrap_or(row.default),
        why: row.why,
    };
    TABLE.iter().map(rule).collect()
}

async fn show(config: &Config, json: AsJson) -> Done {
    let running = client::find(config)?;
    let protection: Protection = match &running {
        Some(running) => client::protection(running, None).await?,
        None => config.sandbox.protection.clone(),
    };
    let rules = rules(&protection.rules);
    let shown = Shown {
        running: running.is_some(),
        rules,
        hide: &protection.hide,
        read_only: protection.read_only,
    };
    if json.print(&shown)? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = shown::out();
    if shown.read_only {
        writeln!(
            out,
            "all of the workspace is read-only (workspace_read_only)"
        )?;
    }
    for pattern in shown.hide {
        writeln!(out, "{:<16} hidden", shown::line(pattern))?;
    }
    for Rule { rule, effect, why } in &shown.rules {
        writeln!(out, "{rule:<16} {:<6} {why}", effect.as_str())?;
    }
    if !shown.running {
        say!(
            "no sandbox runs for {}; this is what one starts with",
            config.sandbox.project_dir.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(config: &Config, effect: Effect, rules: Rules, json: AsJson) -> Done {
    let named = rules.rules.join(" ");
    let effects: Effects = rules.rules.into_iter().map(|rule| (rule, effect)).collect();
    let running = client::find(config)?;
    let directory = config.sandbox.project_dir.display();
    if running.is_none() && !rules.save {
        anyhow::bail!(
            "change what is protected: no sandbox runs for {directory}; pass --save to put it into your configuration, or \
             start one with `snowglobe start`, and then run `snowglobe protect {} {named}` again",
            effect.as_str()
        );
    }
    let now = match &running {
        Some(running) => {
            let now = client::protection(running, Some(effects.clone())).await?;
            say!(
                "the sandbox of {directory} now has: {named}: {}",
                effect.as_str()
            );
            Some(now)
        }
        None => None,
    };
    let saved = saved(rules.save, now.is_some(), |file| {
        save_effects(file, &effects)
    })?;
    json.print(&json!({
        "applied": now.is_some(),
        "saved": saved,
        "protect": now.map(|now| now.rules),
    }))?;
    Ok(ExitCode::SUCCESS)
}
