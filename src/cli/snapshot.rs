//! `snowglobe snapshot`: lists and deletes saved snapshots; saves and restores in the running sandbox of this workspace,
//! through its MCP server.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation,
    ProgressNotificationParam,
};
use rmcp::service::{NotificationContext, RoleClient};
use rmcp::{ClientHandler, ServiceExt};
use serde_json::{Value, json};

use super::json::AsJson;
use super::{Done, attach, each, load, load_to_share, progress, start};
use crate::client;
use crate::config::Raw;
use crate::disk::{Record, Store};
use crate::names::SnapshotName;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::shown;
use crate::text::{moment, size};
use crate::time::millis;
use crate::timeline::{COMMAND_LINE, Event, SnapshotChange};

/// Save, list, restore and delete snapshots of this workspace's sandbox.
#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    json: AsJson,
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
    List,
    /// Restore a saved disk in the running sandbox; if none runs, start it from there
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
        let (as_json, flags) = (self.json, *self.config);
        let config = load(flags.clone())?;
        let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
        match self.action {
            Action::List => list(&store, as_json)?,
            Action::Delete { names } => {
                let mut gone = Vec::new();
                let deleted = each(&names, |name| {
                    let record = store.delete(name)?;
                    if let Some(timeline) = attach::timeline(&config) {
                        let (name, change) = (name.to_string(), SnapshotChange::Deleted);
                        timeline.add(Event::Snapshot { name, change });
                    }
                    say!("deleted {name} ({})", size(record.bytes));
                    gone.push(json!({"name": name, "bytes": record.bytes}));
                    Ok(())
                });
                as_json.print(&gone)?;
                deleted?;
            }
            Action::Save { name, force } => {
                let running = client::find(&config)?.ok_or_else(|| {
                    let directory = config.sandbox.project_dir.display();
                    anyhow::anyhow!(
                        "save the snapshot `{name}`: no sandbox runs for {directory}; start one first"
                    )
                })?;
                call(&running, "save", &name, force, as_json).await?;
            }
            Action::Restore { name } => {
                // A wrong name is told at once, whether or not a sandbox runs; a wrong directory of sandboxes even before.
                let running = client::find(&config)?;
                store.get(&name)?;
                match running {
                    Some(running) => call(&running, "restore", &name, false, as_json).await?,
                    None => start_from(&store, flags, &name, as_json).await?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(store: &Store, as_json: AsJson) -> anyhow::Result<()> {
    use std::io::Write;
    let records = store.list()?;
    if as_json.print(&records.iter().map(row).collect::<Vec<_>>())? {
        return Ok(());
    }
    if records.is_empty() {
        say!("no snapshots yet");
        return Ok(());
    }
    let mut out = shown::out();
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

fn row(record: &Record) -> Value {
    json!({
        "name": record.name,
        "bytes": record.bytes,
        "created": record.created,
        "image": record.base.image,
    })
}

/// Starts the sandbox from a snapshot; restores that if another process starts the sandbox meanwhile.
async fn start_from(
    store: &Store,
    flags: Raw,
    name: &SnapshotName,
    as_json: AsJson,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let flags = Raw {
        snapshot: Some(name.to_string()),
        ..flags
    };
    let config = load_to_share(flags.clone())?;
    let (running, started) = start::boot(&config, &flags).await?;
    if !started {
        return call(&running, "restore", name, false, as_json).await;
    }
    let directory = running.info.workspace.display();
    say!(
        "started the sandbox of {directory} from `{name}`; {}",
        start::stay(&config)
    );
    if as_json.wanted() {
        let rows: Vec<_> = store.list()?.iter().map(row).collect();
        let took = millis(began.elapsed());
        as_json.print(
            &json!({"action": "restore", "name": name, "snapshots": rows, "took_ms": took}),
        )?;
    }
    Ok(())
}

/// Passes the server's progress on.
struct Steps(Progress);

impl ClientHandler for Steps {
    fn get_info(&self) -> ClientConfig {
        let name = Implementation::new(COMMAND_LINE, env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), name)
    }

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
    running: &Running,
    action: &str,
    name: &SnapshotName,
    replace: bool,
    as_json: AsJson,
) -> anyhow::Result<()> {
    let stream = client::connect(&running.mcp_socket()).await?;
    let (steps, shown) = progress::show();
    let client = Steps(steps).serve(stream).await?;
    let arguments = json!({"action": action, "name": name, "replace": replace})
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
    match &result.structured_content {
        Some(result) if as_json.print(result)? => {}
        _ => tell!("{text}"),
    }
    Ok(())
}
