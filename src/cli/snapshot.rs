//! `snowglobe snapshot`: what is kept can be listed and deleted any time; saving and restoring act on the sandbox that
//! runs for this workspace, through its own MCP server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use rmcp::ServiceExt;
use rmcp::model::CallToolRequestParams;

use super::{Done, load};
use crate::client;
use crate::config::{Config, Raw};
use crate::disk::Store;
use crate::image::human_bytes;
use crate::names::SnapshotName;
use crate::shown;

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
    /// List what is saved
    #[command(alias = "ls")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Put the running sandbox back to what was saved
    Restore {
        /// The snapshot's name
        name: SnapshotName,
    },
    /// Delete what was saved
    #[command(alias = "rm")]
    Delete {
        /// The snapshot's name
        name: SnapshotName,
    },
}

impl Snapshot {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let store = Store::open(&config.host.dirs.data, &config.sandbox.name)?;
        match self.action {
            Action::List { json } => list(&store, json)?,
            Action::Delete { name } => {
                let gone = store.delete(&name)?;
                say!("deleted {name} ({})", human_bytes(gone.bytes));
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
    writeln!(out, "{:<24} {:>10}  {:<20}  IMAGE", "NAME", "SIZE", "SAVED")?;
    for record in records {
        let (name, size) = (record.name.as_str(), human_bytes(record.bytes));
        writeln!(
            out,
            "{name:<24} {size:>10}  {:<20}  {}",
            record.created.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            shown::line(&record.base.image)
        )?;
    }
    Ok(())
}

/// Has the running sandbox do it, and shows what it says.
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
    let _ = client.cancel().await;
    let text = text.join("\n");
    if result.is_error == Some(true) {
        // It speaks as an error already.
        anyhow::bail!("{}", text.trim_start_matches("failed to "));
    }
    tell!("{text}");
    Ok(())
}
