//! `snowglobe snapshot`: lists and deletes saved snapshots; saves and restores in the running sandbox of this workspace,
//! through its MCP server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use rmcp::ServiceExt;
use rmcp::model::CallToolRequestParams;

use super::{Done, load};
use crate::client;
use crate::config::{Config, Raw};
use crate::disk::Store;
use crate::names::SnapshotName;
use crate::shown;
use crate::text::size;

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
    /// Delete a saved snapshot
    #[command(alias = "rm")]
    Delete {
        /// The snapshot's name
        name: SnapshotName,
    },
}

impl Snapshot {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
        match self.action {
            Action::List { json } => list(&store, json)?,
            Action::Delete { name } => {
                let gone = store.delete(&name)?;
                say!("deleted {name} ({})", size(gone.bytes));
            }
            Action::Save { name } => call(&config, "save", &name).await?,
            Action::Restore { name } => call(&config, "restore", &name).await?,
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
            record.created.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            shown::line(&record.base.image)
        )?;
    }
    Ok(())
}

/// Calls the tool `snapshot` of the running sandbox, and prints the result.
async fn call(config: &Config, action: &str, name: &SnapshotName) -> anyhow::Result<()> {
    let running = client::find(config)?.ok_or_else(|| {
        anyhow::anyhow!(
            "{action} the snapshot `{name}`: no sandbox runs for {}; start one first",
            config.sandbox.project_dir.display()
        )
    })?;
    let stream = client::connect(&running.mcp_socket()).await?;
    let client = ().serve(stream).await?;
    let arguments = serde_json::json!({"action": action, "name": name})
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
    let text = text.join("\n");
    if result.is_error == Some(true) {
        // The text is an error message already.
        anyhow::bail!("{}", text.trim_start_matches("failed to "));
    }
    tell!("{text}");
    Ok(())
}
