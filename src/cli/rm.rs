//! `snowglobe rm`: removes the data of sandboxes.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::confirm::Yes;
use super::json::AsJson;
use super::{Done, load, stock};
use crate::agent::session;
use crate::blocking::blocking_here;
use crate::config::{Config, Raw};
use crate::control::{Answer, Review};
use crate::inventory::{Conversations, Sandbox};
use crate::names::SandboxName;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::text::{nearest, size};
use crate::{client, shown};

/// How long a sandbox that is to be removed may take to list its changes.
const ASKING: Duration = Duration::from_secs(20);

/// Remove a sandbox's data: its snapshots, layers, logs and SSH hosts. The workspace and the images stay.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Whose, as `snowglobe data` lists them; this project's without a name
    names: Vec<SandboxName>,
    /// Remove the agent's conversations about their directories, too
    #[arg(long)]
    sessions: bool,
    /// Stop sandboxes that run
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

impl Rm {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let mut names = match self.names.is_empty() {
            true => vec![config.sandbox.name.clone()],
            false => self.names,
        };
        names.sort();
        names.dedup();
        let mut found = blocking_here(|| stock::look(&config))?;
        if self.force {
            for sandbox in &mut found.sandboxes {
                if sandbox.running && names.iter().any(|name| sandbox.name == name.as_str()) {
                    sandbox.unapplied_changes = unapplied(&config, sandbox).await;
                }
            }
        }
        let all = &found.sandboxes;
        let doomed: Vec<&Sandbox> = names
            .iter()
            .map(|name| known(all, name))
            .collect::<anyhow::Result<_>>()?;
        let runs = doomed.iter().find(|sandbox| sandbox.running);
        if let Some(sandbox) = runs.filter(|_| !self.force) {
            anyhow::bail!(
                "remove the data of {}: it runs; `snowglobe stop` there stops it, and so does --force",
                sandbox.name
            );
        }
        let about = |of: &&Conversations| {
            let directory = of.directory.as_ref();
            directory.is_some_and(|path| doomed.iter().any(|one| one.directories.contains(path)))
        };
        let conversations: Vec<&Conversations> = found.conversations.iter().filter(about).collect();
        let (spoken, stay): (Vec<_>, Vec<_>) =
            conversations.into_iter().partition(|_| self.sessions);
        if let Some(of) = spoken.iter().find(|of| of.open) {
            anyhow::bail!(
                "remove {}: end the agent that has one open first",
                shown::line(&stock::conversations(of))
            );
        }
        if !self.yes.given() {
            for of in &spoken {
                shown::complain(format_args!(
                    "{} would go: {}",
                    size(of.bytes),
                    shown::line(&stock::conversations(of))
                ));
            }
            for sandbox in &doomed {
                shown::complain(format_args!(
                    "{} would go: {}",
                    size(sandbox.bytes),
                    shown::line(&stock::described(sandbox))
                ));
            }
        }
        if !self.yes.confirmed("Remove this for good?", "remove it")? {
            say!("nothing is removed");
            return Ok(ExitCode::FAILURE);
        }
        for (name, sandbox) in names.iter().zip(&doomed) {
            remove(&config, name, self.force, false).await?;
            say!(
                "removed {} ({})",
                shown::line(&stock::described(sandbox)),
                size(sandbox.bytes)
            );
        }
        for of in spoken {
            blocking_here(|| session::remove(&of.kept))?;
            say!("removed {}", shown::line(&stock::conversations(of)));
        }
        for of in stay {
            say!(
                "{} stay; --sessions removes them, too",
                shown::line(&stock::conversations(of))
            );
        }
        self.json.print(&doomed)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// How many changes of the copy of a sandbox that runs were not applied, if it says so soon. Its commits are fetched.
async fn unapplied(config: &Config, sandbox: &Sandbox) -> Option<u64> {
    let running = client::running(config).ok()?;
    let running = running
        .into_iter()
        .find(|running| running.info.name == sandbox.name)?;
    sandbox.workspace_copy.then_some(())?;
    let progress = Progress::none();
    let asked = client::review(&running, Review::Changes, &progress);
    match tokio::time::timeout(ASKING, asked).await.ok()?.ok()? {
        Answer::Changes(changes) => u64::try_from(changes.changes.len()).ok(),
        _ => None,
    }
}

fn known<'a>(all: &'a [Sandbox], name: &SandboxName) -> anyhow::Result<&'a Sandbox> {
    if let Some(found) = all.iter().find(|sandbox| sandbox.name == name.as_str()) {
        return Ok(found);
    }
    let meant = match nearest(
        name.as_str(),
        all.iter().map(|sandbox| sandbox.name.as_str()),
    ) {
        Some(meant) => format!("did you mean {meant}? "),
        None => String::new(),
    };
    anyhow::bail!(
        "find data of the sandbox {name}: there is none; {meant}`snowglobe data` lists all"
    )
}

/// Removes the data of a sandbox; with `force`, stops it first. With `orphan`, only if its directories are gone.
pub(super) async fn remove(
    config: &Config,
    name: &SandboxName,
    force: bool,
    orphan: bool,
) -> anyhow::Result<()> {
    let data = &config.host.dirs.data;
    let starting = client::alone(data, name, &Progress::none()).await?;
    let running: Vec<Running> = client::running(config)?
        .into_iter()
        .filter(|running| running.info.name == name.as_str())
        .collect();
    if force {
        for running in &running {
            client::stop(running).await?;
        }
    }
    let removed = match running.is_empty() || force {
        true => blocking_here(|| client::remove_data(data, name, starting, orphan))?,
        false => false,
    };
    anyhow::ensure!(
        removed,
        "remove the data of {name}: it is in use now; stop what uses it first"
    );
    Ok(())
}
