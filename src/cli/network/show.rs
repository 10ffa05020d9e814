//! `snowglobe network show`.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::super::Done;
use super::super::json::AsJson;
use super::current;
use crate::config::Config;
use crate::network::live::Status;
use crate::network::settings::{Settings, Stated};
use crate::shown;
use crate::text::{grouped, size};

/// The result for programs.
#[derive(Debug, Serialize)]
struct Result<'a> {
    /// Whether a sandbox runs; else this is what one would start with.
    running: bool,
    #[serde(flatten)]
    status: &'a Status,
}

pub(super) async fn run(config: &Config, json: AsJson) -> Done {
    let (running, status) = current(config).await?;
    let running = running.is_some();
    let status = &status;
    if json.print(&Result { running, status })? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = shown::out();
    for (name, value) in facts(&status.settings) {
        writeln!(out, "{name:<9} {}", shown::line(&value))?;
    }
    match running {
        true => writeln!(out, "{:<9} {}", "counted", counted(status))?,
        false => say!(
            "no sandbox runs for {}; this is what one starts with",
            config.sandbox.project_dir.display()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings, line by line.
fn facts(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut facts = vec![("mode", settings.mode.to_string())];
    let mut rules = |name: &'static str, list: &[Stated]| {
        let width = list.iter().map(|stated| stated.rule.chars().count());
        let width = width.max().unwrap_or(0).min(40);
        for stated in list {
            facts.push((name, format!("{:<width$}  {}", stated.rule, stated.origin)));
        }
    };
    rules("allow", &settings.allow);
    rules("deny", &settings.deny);
    for (name, to) in &settings.hosts {
        facts.push(("host", format!("{name} is {to}")));
    }
    for (name, secret) in &settings.secrets {
        facts.push((
            "secret",
            format!(
                "{name}, from {}, in {} to {}",
                secret.from,
                secret.header,
                secret.hosts.join(", ")
            ),
        ));
    }
    if settings.trust_host_ca {
        facts.push((
            "trust",
            "the authorities that this host trusts, too".to_owned(),
        ));
    }
    facts
}

fn counted(status: &Status) -> String {
    let counts = &status.counts;
    format!(
        "{} connections, {} of them open; {} refused; {} sent, {} received",
        grouped(counts.made),
        grouped(counts.open),
        grouped(counts.refused),
        size(counts.bytes_up),
        size(counts.bytes_down)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::settings::{Change, Secret, SecretSource};

    #[test]
    fn rules_come_with_their_origin_and_secrets_without_their_value() {
        let change = Change {
            allow: vec!["packages".into(), "example.org".into()],
            deny: vec!["upload.pypi.org".into()],
        };
        let mut settings = Settings::default().changed(&change, "--allow").unwrap();
        settings.hosts.insert("db.local".into(), "127.0.0.1".into());
        let secret = Secret {
            from: SecretSource::Env("MY_TOKEN".into()),
            hosts: vec!["api.github.com".into()],
            header: "Authorization".into(),
        };
        settings.secrets.insert("GITHUB_TOKEN".into(), secret);
        let lines: Vec<String> = facts(&settings)
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "mode list",
                "allow packages     --allow",
                "allow example.org  --allow",
                "deny upload.pypi.org  --allow",
                "host db.local is 127.0.0.1",
                "secret GITHUB_TOKEN, from the variable MY_TOKEN, in Authorization to api.github.com",
            ]
        );
    }
}
