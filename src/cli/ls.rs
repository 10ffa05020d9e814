//! `snowglobe ls` and `snowglobe status`: which sandboxes run. Looking changes nothing.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::json::AsJson;
use super::{Done, load};
use crate::config::{Raw, Setting, value_of};
use crate::control::{MachineStatus, Status};
use crate::network::rules::Mode;
use crate::network::settings::in_words;
use crate::rundir::{self, Running};
use crate::text::{size, time};
use crate::{client, shown};

/// List the sandboxes that run.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Show this project's sandbox: whether it runs, since when, on what, and what uses it.
#[derive(Debug, Args)]
pub(super) struct ShowStatus {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// A sandbox that runs.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: String,
    name: String,
    directory: String,
    pid: u32,
    started: jiff::Timestamp,
    image: String,
    cpus: Option<u64>,
    memory_mib: Option<u64>,
    snapshot: Option<String>,
    workspace_mode: Option<String>,
    /// The directory of its repository, if that is shared beside it.
    repository: Option<String>,
    /// What keeps git from working there as on this machine.
    git_trouble: Option<String>,
    /// How much of the network the sandbox reaches: `off`, `list` or `open`.
    network: String,
    /// What of it, in words.
    network_rules: String,
    /// Whether it stays when its client leaves.
    kept: bool,
    /// None for one that is its client's alone, and for one that does not answer.
    status: Option<Status>,
    /// Why the status is missing.
    problem: Option<String>,
}

/// How a sandbox is.
pub(super) async fn row(running: &Running) -> Row {
    let kept = running.is_kept();
    let (status, problem) = match kept {
        true => match client::status(running).await {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(format!("failed to {}", crate::describe(&error)))),
        },
        false => (None, None),
    };
    let info = &running.info;
    let setting = |name: &str| value_of(&info.settings, name);
    let text = |name| {
        setting(name)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    Row {
        id: running.id.to_string(),
        name: info.name.clone(),
        directory: info.workspace.display().to_string(),
        pid: info.pid,
        started: info.started,
        image: info.image.clone(),
        cpus: setting("cpus").and_then(serde_json::Value::as_u64),
        memory_mib: setting("memory_mib").and_then(serde_json::Value::as_u64),
        snapshot: text("snapshot"),
        workspace_mode: text("workspace_mode"),
        repository: info
            .repository
            .as_ref()
            .map(|path| path.display().to_string()),
        git_trouble: info.git_trouble.clone(),
        network: text("network.mode").unwrap_or_else(|| Mode::Off.to_string()),
        network_rules: network_rules(&info.settings),
        kept,
        status,
        problem,
    }
}

/// What of the network is open, in words.
fn network_rules(settings: &[Setting]) -> String {
    let rules = |key: &str| -> Vec<&str> {
        let rules = value_of(settings, key).and_then(|value| value.as_array());
        let texts = rules.into_iter().flatten();
        texts.filter_map(|rule| rule.as_str()).collect()
    };
    let mode = value_of(settings, "network.mode").and_then(|mode| mode.as_str());
    let mode = mode.and_then(|mode| mode.parse().ok()).unwrap_or(Mode::Off);
    in_words(mode, &rules("network.allow"), &rules("network.deny"))
}

impl Row {
    fn state(&self) -> &'static str {
        match &self.status {
            Some(status) => match status.machine {
                MachineStatus::Running { .. } => "running",
                MachineStatus::Changing => "booting",
                MachineStatus::Stopping => "stopping",
                MachineStatus::Off => "off",
            },
            None if self.kept => "no answer",
            None => "private",
        }
    }

    fn age(&self) -> String {
        time(seconds_since(self.started))
    }

    fn memory(&self) -> String {
        self.memory_mib
            .map_or_else(|| "-".to_owned(), |mib| size(mib << 20))
    }
}

fn seconds_since(then: jiff::Timestamp) -> u64 {
    u64::try_from(jiff::Timestamp::now().duration_since(then).as_secs()).unwrap_or(0)
}

impl Ls {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let running = rundir::running(&config.host.dirs.runtime)?;
        let rows = futures_util::future::join_all(running.iter().map(row)).await;
        if self.json.print(&rows)? {
            return Ok(ExitCode::SUCCESS);
        }
        if rows.is_empty() {
            say!("no sandbox runs");
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = shown::out();
        let narrow = columns().is_some_and(|columns| columns < TABLE);
        if !narrow {
            writeln!(
                out,
                "{:<8}  {:<9}  {:>8}  {:<12}  {:>9}  {:<7}  {:>4}  IMAGE, DIRECTORY",
                "ID", "STATE", "AGE", "ENGINE", "MEMORY", "NETWORK", "JOBS"
            )?;
        }
        for row in rows {
            match narrow {
                true => row.write_lines(&mut out)?,
                false => row.write_row(&mut out)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How many columns a terminal needs for the table, so that a short path still fits.
const TABLE: u16 = 96;

/// The width of the terminal; none if standard output is none.
fn columns() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

impl Row {
    /// The engine, and how many jobs run; `-` for what is not known.
    fn engine_and_jobs(&self) -> (&str, String) {
        match &self.status {
            Some(Status {
                machine: MachineStatus::Running { engine, .. },
                jobs,
                ..
            }) => (
                engine,
                jobs.map_or_else(|| "-".to_owned(), |jobs| jobs.to_string()),
            ),
            _ => ("-", "-".to_owned()),
        }
    }

    fn write_row(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (engine, jobs) = self.engine_and_jobs();
        writeln!(
            out,
            "{:<8}  {:<9}  {:>8}  {engine:<12}  {:>9}  {:<7}  {jobs:>4}  {}, {}",
            self.id,
            self.state(),
            self.age(),
            self.memory(),
            self.network,
            shown::line(&self.image),
            shown::line(&self.directory),
        )
    }

    /// For a narrow terminal: short lines, and the path, which the terminal wraps.
    fn write_lines(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (engine, jobs) = self.engine_and_jobs();
        writeln!(out, "{} {}, {}", self.id, self.state(), self.age())?;
        writeln!(out, "  {}", shown::line(&self.image))?;
        writeln!(out, "  {engine}, {}", self.memory())?;
        writeln!(out, "  network {}, jobs {jobs}", self.network)?;
        writeln!(out, "  {}", shown::line(&self.directory))
    }
}

impl ShowStatus {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let Some(running) = client::find(&config)? else {
            if !self.json.print(&serde_json::Value::Null)? {
                say!(
                    "no sandbox runs for {}; `snowglobe start` starts it, and so does whatever uses it",
                    config.sandbox.project_dir.display()
                );
            }
            return Ok(ExitCode::SUCCESS);
        };
        let row = row(&running).await;
        if self.json.print(&row)? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = shown::out();
        for (name, value) in row.facts() {
            writeln!(out, "{name:<10} {}", shown::line(&value))?;
        }
        for differs in client::check(&config, &running).unwrap_or_default() {
            say!("{}", client::outdated(&differs));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Row {
    /// What a person wants to know, line by line.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("sandbox", format!("{} ({})", self.name, self.id)),
            ("directory", self.directory.clone()),
            ("image", self.image.clone()),
        ];
        if let Some(snapshot) = &self.snapshot {
            facts.push(("snapshot", snapshot.clone()));
        }
        if let Some(cpus) = self.cpus {
            facts.push((
                "machine",
                format!("{cpus} cpus, {} of memory", self.memory()),
            ));
        }
        if let Some(mode) = &self.workspace_mode {
            facts.push(("workspace", mode.clone()));
        }
        if let Some(repository) = &self.repository {
            facts.push(("repository", format!("{repository}, shared, too")));
        }
        if let Some(trouble) = &self.git_trouble {
            facts.push(("git", trouble.clone()));
        }
        facts.push(("network", self.network_rules.clone()));
        facts.push(("process", format!("{}, for {}", self.pid, self.age())));
        match &self.status {
            Some(status) => facts.extend(of_status(status)),
            None => facts.push((
                "state",
                self.problem
                    .clone()
                    .unwrap_or_else(|| self.state().to_owned()),
            )),
        }
        facts
    }
}

fn of_status(status: &Status) -> Vec<(&'static str, String)> {
    let state = match &status.machine {
        MachineStatus::Running { engine, since } => {
            format!("running on {engine} for {}", time(seconds_since(*since)))
        }
        MachineStatus::Changing => "booting".to_owned(),
        MachineStatus::Stopping => "stopping".to_owned(),
        MachineStatus::Off => "off; it boots when it is used".to_owned(),
    };
    let mut facts = vec![("state", state)];
    if let Some(end) = &status.last_end {
        facts.push(("before", end.clone()));
    }
    let jobs = match status.jobs {
        Some(jobs) => jobs.to_string(),
        None => "unknown: the guest does not answer".to_owned(),
    };
    facts.push(("jobs", jobs));
    facts.push(("clients", status.clients.to_string()));
    if let Some(seconds) = status.stops_in_s {
        facts.push(("stops", format!("in {}, unless it is used", time(seconds))));
    }
    facts
}
