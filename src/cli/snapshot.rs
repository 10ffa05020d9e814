//! `snowglobe snapshot`: lists and deletes saved snapshots; saves and restores in the running sandbox of this workspace,
//! through its MCP server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use rmcp::model::{CallToolRequestParams, ProgressNotificationParam};
use rmcp::service::{NotificationContext, RoleClient};
use rmcp::{ClientHandler, ServiceExt};

use super::{Done, each, load, progress};
use crate::client;
use crate::config::{Config, Raw};
use crate::disk::Store;
use crate::names::SnapshotName;
use crate::progress::Progress;
use crate::shown;
use crate::text::{moment, size};

/// Save, list, restore and delete snapshots of this workspace's sandbox.
#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Save the running sandbox's disk
    Save {
        /// 1 to 64 of A-Z a-z 0-9 . _ -
        name: SnapshotName,
        /// Replace a snapshot of that name, once the new one is saved
        #[arg(long)]
        force: bool,
    },
    /// List the saved snapshots
    #[command(alias = "ls")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore a saved disk in the running sandbox
    Restore {
        /// The snapshot's name
        name: SnapshotName,
    },
    /// Delete saved snapshots
    #[command(alias = "rm")]
    Delete {
        /// The snapshots' names
        #[arg(required = true)]
        names: Vec<SnapshotName>,
    },
}

impl Snapshot {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
        match self.action {
            Action::List { json } => list(&store, json)?,
            Action::Delete { names } => each(&names, |name| {
                let gone = store.delete(name)?;
                say!("deleted {name} ({})", size(gone.bytes));
                Ok(())
            })?,
            Action::Save { name, force } => call(&config, "save", &name, force).await?,
            Action::Restore { name } => {
                // A wrong name is told at once, whether or not a sandbox runs; a wrong directory of sandboxes even before.
                client::find(&config)?;
                store.get(&name)?;
                call(&config, "restore", &name, false).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    use std::io::Write;
    let records = store.list()?;
    let mut out = shown::out();
    if json {
        let rows: Vec<_> = records
            .iter()
            .map(|r| serde_json::json!({"name": r.name, "bytes": r.bytes, "created": r.created, "image": r.base.image}))
            .collect();
        writeln!(out, "{}", shown::json(&rows)?)?;
        return Ok(());
    }
    if records.is_empty() {
        say!("no snapshots yet");
        return Ok(());
    }
    writeln!(out, "{:<24} {:>12}  {:<20}  IMAGE", "NAME", "SIZE", "SAVED")?;
    for record in records {
        let (name, size) = (record.name.as_str(), size(record.bytes));
        writeln!(
            out,
            "{name:<24} {size:>12}  {:<20}  {}",
            moment(record.created),
            shown::line(&record.base.image)
        )?;
    }
    Ok(())
}

/// Passes the server's progress on.
struct Steps(Progress);

impl ClientHandler for Steps {
    async fn on_progress(
        &self,
        told: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        if let Some(message) = told.message {
            self.0.say(message);
        }
    }
}

/// Calls the tool `snapshot` of the running sandbox, and prints the result.
async fn call(
    config: &Config,
    action: &str,
    name: &SnapshotName,
    replace: bool,
) -> anyhow::Result<()> {
    let running = client::find(config)?.ok_or_else(|| {
        anyhow::anyhow!(
            "{action} the snapshot `{name}`: no sandbox runs for {}; start one first",
            config.sandbox.project_dir.display()
        )
    })?;
    let stream = client::connect(&running.mcp_socket()).await?;
    let (steps, shown) = progress::show();
    let client = Steps(steps).serve(stream).await?;
    let arguments = serde_json::json!({"action": action, "name": name, "replace": replace})
        .as_object()
        .cloned()
        .unwrap_or_default();
    let result = client
        .call_tool(CallToolRequestParams::new("snapshot").with_arguments(arguments))
        .await?;
    let text: Vec<String> = result
        .content
        .iter()
        .filter_map(|part| Some(part.as_text()?.text.clone()))
        .collect();
    // The result is there already, so the end of the connection may fail.
    drop(client.cancel().await);
    shown.finish();
    let text = text.join("\n");
    if result.is_error == Some(true) {
        // The text is an error message already.
        anyhow::bail!("{}", text.trim_start_matches("failed to "));
    }
    tell!("{text}");
    Ok(())
}
