//! What the benchmarks share: a directory to run in, the program and a client of its server, the raw guest link, and times.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each benchmark uses its own part"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rmcp::ServiceExt;
use rmcp::model::CallToolRequestParams;
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::TokioChildProcess;
use serde_json::{Value, json};
use snowglobe::guest::{self, Guest, Identity};
use snowglobe::rundir;

pub type Client = RunningService<RoleClient, ()>;

/// The program that was built with the benchmarks.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name("../snowglobe").canonicalize()?)
}

/// A workspace and a runtime directory, removed on drop.
pub struct Place {
    pub workspace: PathBuf,
    pub runtime: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (workspace, runtime) = (dir.path().join("workspace"), dir.path().join("runtime"));
        std::fs::create_dir(&workspace)?;
        Ok(Self {
            workspace,
            runtime,
            _dir: dir,
        })
    }

    /// The program, to be run here.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<std::process::Command> {
        let mut command = std::process::Command::new(program()?);
        command
            .args(arguments)
            .current_dir(&self.workspace)
            .env("SNOWGLOBE_RUNTIME_DIR", &self.runtime);
        Ok(command)
    }

    /// Connects to a server with a sandbox of its own; gives the server's process, too.
    pub async fn serve(&self, variables: &[(&str, &str)]) -> anyhow::Result<(Client, u32)> {
        let mut command = tokio::process::Command::from(self.command(&["serve", "--rm"])?);
        command.envs(variables.iter().copied());
        let (process, _) = TokioChildProcess::builder(command)
            .stderr(Stdio::null())
            .spawn()?;
        let pid = process.id().context("the server runs")?;
        Ok((().serve(process).await?, pid))
    }

    /// Connects to the guest of the sandbox that runs here, as `snowglobe exec` does.
    pub async fn join(&self, user: &str) -> anyhow::Result<Guest> {
        let running = rundir::running(&self.runtime)?.into_iter().next();
        let running = running.context("the sandbox runs")?;
        let known = running.read("known_hosts")?;
        let host_key = known.trim().split_once(' ').context("a known host")?.1;
        let identity = Identity::decode(&running.read("control_ed25519")?, host_key)?;
        let stream = guest::connect(&running.ssh_socket()).await?;
        Ok(Guest::login(stream, &identity, user).await?)
    }
}

/// The structured result of a call that must work.
pub async fn call(client: &Client, tool: &'static str, arguments: Value) -> anyhow::Result<Value> {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let result = client
        .call_tool(CallToolRequestParams::new(tool).with_arguments(arguments))
        .await?;
    ensure!(
        result.is_error != Some(true),
        "{tool}: {:?}",
        result.content
    );
    result.structured_content.context("a structured result")
}

/// Standard output of a command that must exit with 0.
pub async fn exec(client: &Client, command: &str, user: &str) -> anyhow::Result<String> {
    let result = call(client, "exec", json!({"command": command, "user": user})).await?;
    ensure!(result["exit_code"] == 0, "{command}: {result}");
    Ok(result["stdout"].as_str().unwrap_or_default().to_owned())
}

/// Directories of the tree that [`repository`] makes, and files in each.
const TREE: (usize, usize) = (100, 100);

/// Makes a repository of 10,000 committed files; `script` is at `.git/measure` in it.
pub fn repository(tree: &Path, script: &str) -> anyhow::Result<()> {
    for dir in 0..TREE.0 {
        let path = tree.join(format!("d{dir}"));
        std::fs::create_dir(&path)?;
        for file in 0..TREE.1 {
            let text = format!("line {dir} {file}\n").repeat(60);
            std::fs::write(path.join(format!("f{file}.txt")), text)?;
        }
    }
    // Git reads a file again that is as young as its index.
    std::thread::sleep(Duration::from_secs(2));
    let commit =
        "git init -q && git add -A && git -c user.name=a -c user.email=a@b commit -qm tree";
    let made = std::process::Command::new("sh")
        .args(["-c", commit])
        .current_dir(tree)
        .status()?;
    ensure!(made.success(), "the repository was not made");
    Ok(std::fs::write(tree.join(".git/measure"), script)?)
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// The lines of a script that build a crate of 40 modules, if the guest has cargo. The names of what is measured begin with
/// `prefix`.
pub fn cargo_builds(prefix: &str) -> String {
    CARGO_BUILDS.replace("PREFIX", prefix)
}

const CARGO_BUILDS: &str = r##"
if ! command -v cargo >/dev/null; then exit 0; fi
mkdir -p crate/src
printf '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >crate/Cargo.toml
for i in $(seq 40); do
    echo "#[derive(Debug, Clone, PartialEq)] pub struct S$i(pub String, pub u64);
impl S$i { pub fn f(&self, n: u64) -> Vec<S$i> { (0..n).map(|x| S$i(format!(\"{x} {:?}\", self), x)).collect() } }" >crate/src/m$i.rs
    echo "mod m$i;" >>crate/src/main.rs
done
echo 'fn main() { println!("{:?}", m1::S1(String::new(), 1).f(2)); }' >>crate/src/main.rs
build() { cargo build --offline --manifest-path crate/Cargo.toml; }
measure "PREFIXcargo build, first" build
echo 'pub fn more() {}' >>crate/src/m1.rs
measure "PREFIXcargo build, a change" build
measure "PREFIXcargo build, no change" build
rm -rf crate
"##;
