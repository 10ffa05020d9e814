//! `snowglobe log`: the timeline of a sandbox, and what it comes to.

mod words;

use std::io::Write;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::json::AsJson;
use super::{Done, follow, load};
use crate::blocking::blocking_here;
use crate::config::{Config, Raw};
use crate::disk::Store;
use crate::shown;
use crate::text::{moment, size};
use crate::timeline::{Event, Line, Reader, Summary};

/// How many snapshots and hosts the summary names.
const NAMED: usize = 5;

/// Show what was done in this project's sandbox and with it: commands, files, network, snapshots, approvals, applied changes.
///
/// The last lines say what was done, what left the sandbox, and how to take it back. With --json each event is a line, for
/// programs and to keep (`snowglobe log --json >record.jsonl`).
#[derive(Debug, Args)]
pub(super) struct Log {
    /// Go on with what is added, until ctrl-C
    #[arg(short, long, conflicts_with = "summary")]
    follow: bool,
    /// Show only the newest of these events
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "summary")]
    last: Option<usize>,
    /// Show only these events
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Show only what it comes to: what was done, what left the sandbox, how to take it back
    #[arg(long)]
    summary: bool,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Machines that booted and ended
    Machines,
    /// Commands and jobs
    Commands,
    /// Files that tools wrote, and changes that were refused
    Files,
    /// What was asked of the network, and ports
    Network,
    /// Snapshots
    Snapshots,
    /// What a person was asked, and changed rules
    Approvals,
    /// Changes of a copied workspace that were applied, undone, discarded, or brought in
    Applies,
}

impl Kind {
    /// The kind of a line; none if it counts as each.
    fn of(line: &Line) -> Option<Self> {
        let Line::Sandbox(record) = line else {
            return Some(Self::Network);
        };
        Some(match record.event {
            Event::Booted { .. } | Event::Ended { .. } => Self::Machines,
            Event::Command { .. }
            | Event::CommandEnded { .. }
            | Event::CommandDetached { .. }
            | Event::CommandLost { .. }
            | Event::JobKilled { .. }
            | Event::JobEnded { .. } => Self::Commands,
            Event::Wrote { .. }
            | Event::Edited { .. }
            | Event::Changed { .. }
            | Event::Refused { .. } => Self::Files,
            Event::Port { .. } => Self::Network,
            Event::Snapshot { .. } => Self::Snapshots,
            Event::Asked { .. } | Event::Network { .. } | Event::Protection { .. } => {
                Self::Approvals
            }
            Event::Workspace { .. } => Self::Applies,
            Event::Lost { .. } => return None,
        })
    }
}

impl Log {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
        let (timeline, network) = (store.timeline_path(), store.network_path());
        let unread = || format!("read {}", timeline.display());
        let mut reader = blocking_here(|| Reader::new(&timeline, &network)).with_context(unread)?;
        let (mut summary, mut words) = (Summary::default(), words::Words::default());
        let (mut any, mut last) = (false, self.last);
        let read = || reader.read().with_context(unread);
        let show = |mut lines: Vec<Line>| {
            any = true;
            lines.iter().for_each(|line| summary.add(line));
            lines.retain(|line| is_of(line, &self.only));
            if self.summary {
                return Ok(());
            }
            let mut texts = match self.json.wanted() {
                true => lines
                    .iter()
                    .map(shown::json_line)
                    .collect::<Result<_, _>>()?,
                false => words.texts(&lines),
            };
            // Of what was there at first, only so much is wanted.
            let last = last.take().unwrap_or(usize::MAX);
            texts.drain(..texts.len().saturating_sub(last));
            let mut out = shown::out();
            for text in texts {
                writeln!(out, "{text}")?;
            }
            Ok(out.flush()?)
        };
        let done = follow::show(self.follow, read, show).await?;
        if self.summary {
            if !self.json.print(&summary)? {
                summarize(&summary, &config, &store)?;
            }
        } else if !any && !self.follow {
            let directory = config.sandbox.project_dir.display();
            say!("no sandbox has run for {directory} yet");
        } else if !self.follow && !self.json.wanted() && self.only.is_empty() {
            writeln!(shown::out())?;
            summarize(&summary, &config, &store)?;
        }
        Ok(done)
    }
}

/// Whether a line is of one of these kinds; without any, of each.
fn is_of(line: &Line, only: &[Kind]) -> bool {
    only.is_empty() || Kind::of(line).is_none_or(|kind| only.contains(&kind))
}

/// Prints what a timeline comes to, and how to take it back.
fn summarize(summary: &Summary, config: &Config, store: &Store) -> anyhow::Result<()> {
    let mut out = shown::out();
    let mut line = |title: &str, parts: &[String], none: &str| {
        let text = match parts.is_empty() {
            true => none.to_owned(),
            false => parts.join("; "),
        };
        writeln!(out, "{title:<10} {}", shown::line(&text))
    };
    line("done", &done(summary), "nothing")?;
    line("left", &left(summary), "nothing reached another host")?;
    line(
        "undo with",
        &undo(summary, config, store)?,
        "nothing to take back",
    )?;
    Ok(())
}

fn counted(count: u64, one: &str, many: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    }
}

fn done(summary: &Summary) -> Vec<String> {
    let commands = counted(summary.commands, "command", "commands").map(|commands| {
        match counted(summary.failed, "failed", "failed") {
            Some(failed) => format!("{commands} ({failed})"),
            None => commands,
        }
    });
    let files = summary.files as u64;
    let parts = [
        commands,
        counted(files, "file changed", "files changed"),
        counted(
            summary.more_changes,
            "change of another file",
            "changes of other files",
        ),
        counted(
            summary.refused_changes,
            "change of a protected file refused",
            "changes of protected files refused",
        ),
        counted(
            summary.questions,
            "question to a person",
            "questions to a person",
        ),
    ];
    parts.into_iter().flatten().collect()
}

fn left(summary: &Summary) -> Vec<String> {
    let mut hosts: Vec<_> = summary.sent.iter().collect();
    hosts.sort_by_key(|(host, sent)| (std::cmp::Reverse(**sent), (*host).clone()));
    let mut parts: Vec<String> = hosts
        .iter()
        .take(NAMED)
        .map(|(host, sent)| format!("{} to {host}", size(**sent)))
        .collect();
    let more = hosts.len().saturating_sub(NAMED) as u64;
    parts.extend(counted(more, "more host", "more hosts"));
    parts.extend(counted(
        summary.refused_network,
        "connection refused",
        "connections refused",
    ));
    parts
}

fn undo(summary: &Summary, config: &Config, store: &Store) -> anyhow::Result<Vec<String>> {
    let mut parts = Vec::new();
    if let Some(newest) = summary.applied.last() {
        parts.push(format!(
            "`snowglobe apply --undo` ({newest} applied changes)"
        ));
    }
    if config.sandbox.workspace.copied().is_some() {
        parts.push("`snowglobe discard` (what `snowglobe changes` lists)".to_owned());
    }
    let mut snapshots = store.list()?;
    snapshots.sort_by_key(|record| std::cmp::Reverse(record.created));
    for record in snapshots.iter().take(NAMED) {
        parts.push(format!(
            "`snowglobe snapshot restore {}` (of {})",
            record.name,
            moment(record.created)
        ));
    }
    Ok(parts)
}
