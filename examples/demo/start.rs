//! Starting the server as `mcp.json` says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use rmcp::transport::TokioChildProcess;
use serde::Deserialize;

use super::show::Style;

/// The file that every MCP client has, in the usual shape.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct McpJson {
    mcp_servers: std::collections::BTreeMap<String, ServerEntry>,
}

#[derive(Deserialize)]
struct ServerEntry {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: std::collections::BTreeMap<String, String>,
}

/// Where the program is that `mcp.json` names: beside this demo, so that what was built together is tried
/// together, else wherever PATH has it.
fn program(command: &str) -> anyhow::Result<PathBuf> {
    if command.contains('/') {
        return Ok(command.into());
    }
    let demo = std::env::current_exe().context("finding this demo's own path")?;
    let beside = demo.ancestors().nth(2).map(|target| target.join(command));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(command));
    beside
        .into_iter()
        .chain(in_path)
        .find(|program| program.is_file())
        .with_context(|| {
            format!("`{command}` is neither built nor in PATH: run `make build` first")
        })
}

/// Stops the sandbox of `workspace`, which stays when its client leaves.
pub(crate) fn stop(workspace: &Path) -> anyhow::Result<()> {
    let status = std::process::Command::new(program("snowglobe")?)
        .arg("stop")
        .current_dir(workspace)
        .env_remove("SNOWGLOBE_WORKSPACE")
        .env_remove("SNOWGLOBE_NAME")
        .status()
        .context("stopping the sandbox")?;
    anyhow::ensure!(status.success(), "`snowglobe stop` failed");
    Ok(())
}

/// Starts it in `workspace`, what it has to say going to `log`.
pub(crate) fn start(
    workspace: &Path,
    log: &Path,
    style: Style,
) -> anyhow::Result<TokioChildProcess> {
    let config = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp.json"),
    };
    let text = std::fs::read_to_string(&config)
        .with_context(|| format!("reading {}", config.display()))?;
    let mut parsed: McpJson = serde_json::from_str(&text)
        .with_context(|| format!("understanding {}", config.display()))?;
    let entry = parsed
        .mcp_servers
        .remove("snowglobe")
        .with_context(|| format!("{} has no server `snowglobe`", config.display()))?;
    let program = program(&entry.command)?;
    style.output(&format!(
        "{} {}\nin {}",
        program.display(),
        entry.args.join(" "),
        workspace.display()
    ));
    let mut command = tokio::process::Command::new(program);
    command
        .args(&entry.args)
        .envs(&entry.env)
        .current_dir(workspace);
    // This session has a workspace, a name and a beginning of its own.
    for variable in ["WORKSPACE", "WORKSPACE_MODE", "NAME", "SNAPSHOT"] {
        command.env_remove(format!("SNOWGLOBE_{variable}"));
    }
    let (child, _) = TokioChildProcess::builder(command)
        .stderr(Stdio::from(File::create(log)?))
        .spawn()
        .context("starting the server")?;
    Ok(child)
}
