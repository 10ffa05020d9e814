//! `snowglobe changes`, `diff`, `apply`, `discard` and `sync`: the review of a copied workspace.

mod patch;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use clap::Args;

use super::confirm::Yes;
use super::ending::Interrupted;
use super::json::AsJson;
use super::{Done, load_to_share, progress, signals, start};
use crate::client;
use crate::config::Raw;
use crate::control::{Answer, Review};
use crate::review::report::{Changes, Done as Reviewed, Selection};
use crate::rundir::Running;
use crate::shown;

/// The exit status of an apply or a sync that conflicts kept from its end.
const CONFLICTS: u8 = 1;

/// List what the sandbox changed in its copy of the workspace, and fetch its commits.
#[derive(Debug, Args)]
pub(super) struct ShowChanges {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Show the changes of the sandbox's copy of the workspace as a unified diff.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// Files and directories; all changes without any
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Apply changes of the sandbox's copy to this directory: all that are selected, or nothing.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// Files, directories, or single hunks of a file (src/main.rs:1,3); without any, all that `changes` does not flag
    #[arg(value_name = "PATH[:HUNK,…]", conflicts_with = "undo")]
    paths: Vec<String>,
    /// Leave these files and directories
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    except: Vec<String>,
    /// Also apply what is flagged
    #[arg(long, conflicts_with = "undo")]
    flagged: bool,
    /// Ask about each hunk
    #[arg(short, long, conflicts_with_all = ["undo", "paths", "except"])]
    patch: bool,
    /// Leave what conflicts with changes of the host, instead of applying nothing
    #[arg(long)]
    skip_conflicts: bool,
    /// Undo what was applied last
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Take changes back in the sandbox: its files are again as they were copied or applied last.
#[derive(Debug, Args)]
pub(super) struct Discard {
    /// Files, directories, or single hunks of a file (src/main.rs:1,3)
    #[arg(value_name = "PATH[:HUNK,…]", required_unless_present = "all")]
    paths: Vec<String>,
    /// Take all changes back
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Bring what changed in this directory into the sandbox's copy of it.
#[derive(Debug, Args)]
pub(super) struct Sync {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// The sandbox of this project, started if it does not run.
async fn running(flags: Raw) -> anyhow::Result<Running> {
    let config = load_to_share(flags.clone())?;
    Ok(start::boot(&config, &flags).await?.0)
}

async fn ask(running: &Running, review: Review) -> anyhow::Result<Answer> {
    let (steps, shown) = progress::show();
    // Since the sandbox was joined, a signal no longer ends this program at once.
    let answer = tokio::select! {
        answer = client::review(running, review, &steps) => answer.map_err(anyhow::Error::from),
        signal = signals::terminated() => Err(Interrupted(signal).into()),
    };
    shown.finish();
    answer
}

async fn changes(running: &Running) -> anyhow::Result<Changes> {
    match ask(running, Review::Changes).await? {
        Answer::Changes(changes) => Ok(*changes),
        other => anyhow::bail!("understand the answer about changes: {other:?}"),
    }
}

async fn diff(running: &Running, paths: Vec<String>) -> anyhow::Result<Vec<u8>> {
    match ask(running, Review::Diff { paths }).await? {
        Answer::Diff { text } => Ok(base64::engine::general_purpose::STANDARD.decode(text)?),
        other => anyhow::bail!("understand the answer about a diff: {other:?}"),
    }
}

async fn done(running: &Running, review: Review) -> anyhow::Result<Reviewed> {
    match ask(running, review).await? {
        Answer::Reviewed(done) => Ok(done),
        other => anyhow::bail!("understand the answer about changes: {other:?}"),
    }
}

impl ShowChanges {
    pub(super) async fn run(self) -> Done {
        let changes = changes(&running(*self.config).await?).await?;
        if !self.json.print(&changes)? {
            table::print(&changes)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Diff {
    pub(super) async fn run(self) -> Done {
        let text = diff(&running(*self.config).await?, self.paths).await?;
        print_diff(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a diff: on a terminal what a terminal would obey is escaped, elsewhere the bytes are as they are.
fn print_diff(text: &[u8]) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    match std::io::stdout().is_terminal() {
        true => patch::print(&String::from_utf8_lossy(text)),
        false => Ok(shown::out().write_all(text)?),
    }
}

impl Apply {
    pub(super) async fn run(self) -> Done {
        let running = running(*self.config).await?;
        let review = match self.undo {
            true => Review::Undo {
                skip_conflicts: self.skip_conflicts,
            },
            false => {
                let mut selection = Selection {
                    paths: self.paths,
                    except: self.except,
                    flagged: self.flagged,
                    skip_conflicts: self.skip_conflicts,
                };
                if self.patch {
                    let changes = changes(&running).await?;
                    let chosen = patch::choose(&running, &changes.changes).await?;
                    if chosen.is_empty() {
                        say!("nothing is applied");
                        return Ok(ExitCode::SUCCESS);
                    }
                    selection.paths = chosen;
                }
                Review::Apply { selection }
            }
        };
        let done = done(&running, review).await?;
        if self.json.print(&done)? {
            return Ok(status(&done, self.skip_conflicts));
        }
        table::tell(&done);
        match (done.done.is_empty(), done.conflicts.is_empty(), self.undo) {
            (true, true, false) if done.left.is_empty() => say!("there is nothing to apply"),
            (false, _, false) => say!("`snowglobe apply --undo` takes this back"),
            (_, false, _) if !self.skip_conflicts => {
                say!(
                    "nothing was applied; with --skip-conflicts the rest is, and `snowglobe sync` brings the host's files in"
                );
            }
            _ => {}
        }
        Ok(status(&done, self.skip_conflicts))
    }
}

fn status(done: &Reviewed, skip_conflicts: bool) -> ExitCode {
    match done.conflicts.is_empty() || skip_conflicts {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(CONFLICTS),
    }
}

impl Discard {
    pub(super) async fn run(self) -> Done {
        let what = match self.all {
            true => "all changes of the sandbox".to_owned(),
            false => format!("the changes of the sandbox at {}", self.paths.join(", ")),
        };
        let question = format!("Take {what} back? They can't be brought back.");
        if !self.yes.confirmed(&question, "discard changes")? {
            return Ok(ExitCode::SUCCESS);
        }
        let running = running(*self.config).await?;
        let selection = Selection {
            paths: self.paths,
            ..Selection::default()
        };
        let done = done(&running, Review::Discard { selection }).await?;
        if !self.json.print(&done)? {
            table::tell(&done);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Sync {
    pub(super) async fn run(self) -> Done {
        let done = done(&running(*self.config).await?, Review::Sync).await?;
        if self.json.print(&done)? {
            return Ok(status(&done, false));
        }
        table::tell(&done);
        if done.done.is_empty() && done.conflicts.is_empty() && done.left.is_empty() {
            say!("the sandbox has all of the host's files");
        }
        Ok(status(&done, false))
    }
}
