//! A session with Snowglobe as an agent has it: through MCP, started from `mcp.json`.
//!
//! ```console
//! $ make demo
//! ```
//!
//! It is also an end-to-end check: an unexpected result ends it with a message and exit code 1. The
//! workspace is a fresh temporary directory. `SNOWGLOBE_*` is passed on, except for variables that would change the
//! workspace or the sandbox. An argument names another `mcp.json`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

#[path = "demo/show.rs"]
mod show;
#[path = "demo/start.rs"]
mod start;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    ProgressNotificationParam, ProtocolVersion,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient, RunningService,
};
use rmcp::{ClientHandler, Peer};
use serde_json::{Value, json};

use show::Style;

/// The time limit of one call: the first call may have to prepare the image.
const PATIENCE: Duration = Duration::from_secs(180);

const HELLO_C: &str = r#"#include <stdio.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname host;
    uname(&host);
    printf("hello from C on %s %s\n", host.sysname, host.release);
    return 0;
}
"#;

const PRIMES_PY: &str = r#"import os, sys

count = int(sys.stdin.readline())
primes = []
candidate = 2
while len(primes) < count:
    if all(candidate % prime for prime in primes):
        primes.append(candidate)
    candidate += 1
print(os.environ["LABEL"], *primes)
"#;

/// The client's side of the session: shows the progress of calls.
struct Watcher {
    style: Style,
    /// Whether a call runs: a late notification must not be printed into later output.
    busy: Arc<AtomicBool>,
}

impl ClientHandler for Watcher {
    fn get_info(&self) -> ClientConfig {
        let demo = Implementation::new("snowglobe-demo", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), demo)
    }

    async fn on_progress(
        &self,
        progress: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        if self.busy.load(Ordering::Relaxed) {
            let message = progress.message.unwrap_or_default();
            self.style
                .status(&format!("  {:5.1} s  {message}", progress.progress));
        }
    }
}

struct Demo {
    style: Style,
    peer: Peer<RoleClient>,
    busy: Arc<AtomicBool>,
    timings: Vec<(String, Duration)>,
}

/// The result of a call.
struct Answer {
    text: String,
    structured: Value,
    refused: bool,
}

impl Answer {
    fn stdout(&self) -> &str {
        self.structured["stdout"].as_str().unwrap_or_default()
    }

    fn worked(&self) -> bool {
        !self.refused && self.structured["exit_code"] == 0
    }
}

impl Demo {
    /// Calls a tool and shows its arguments, its result and its duration.
    async fn call(
        &mut self,
        what: &str,
        tool: &'static str,
        arguments: Value,
    ) -> anyhow::Result<Answer> {
        snowglobe::show!(
            "  {}",
            self.style.paint("32", &show::call(tool, &arguments))
        );
        let params = CallToolRequestParams::new(tool)
            .with_arguments(arguments.as_object().cloned().unwrap_or_default());
        let began = Instant::now();
        self.busy.store(true, Ordering::Relaxed);
        let result = tokio::time::timeout(PATIENCE, self.peer.call_tool(params)).await;
        self.busy.store(false, Ordering::Relaxed);
        let result = result
            .with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?
            .with_context(|| format!("{what}: the call failed"))?;
        let took = began.elapsed();
        self.style.status("");
        let answer = answer(result);
        self.style.output(&answer.text);
        snowglobe::show!(
            "    {}",
            self.style
                .paint("36", &format!("{:.2} s", took.as_secs_f64()))
        );
        self.timings.push((what.to_owned(), took));
        Ok(answer)
    }

    /// Runs a command that must succeed.
    async fn exec(&mut self, what: &str, arguments: Value) -> anyhow::Result<Answer> {
        let answer = self.call(what, "exec", arguments).await?;
        ensure!(
            answer.worked(),
            "{what}: expected exit code 0, got:\n{}",
            answer.text
        );
        Ok(answer)
    }

    /// Calls another tool, which must succeed.
    async fn done(
        &mut self,
        what: &str,
        tool: &'static str,
        arguments: Value,
    ) -> anyhow::Result<Answer> {
        let answer = self.call(what, tool, arguments).await?;
        ensure!(
            !answer.refused,
            "{what}: expected it to work, got:\n{}",
            answer.text
        );
        Ok(answer)
    }

    fn table(&self) {
        self.style.title("How long it took");
        let width = self
            .timings
            .iter()
            .map(|(what, _)| what.len())
            .max()
            .unwrap_or(0);
        for (what, took) in &self.timings {
            snowglobe::show!("  {what:width$}  {:>7.2} s", took.as_secs_f64());
        }
        let all: Duration = self.timings.iter().map(|(_, took)| *took).sum();
        snowglobe::show!("  {:width$}  {:>7.2} s", "all", all.as_secs_f64());
    }
}

fn answer(result: CallToolResult) -> Answer {
    let texts = result.content.iter().filter_map(|block| block.as_text());
    Answer {
        text: texts
            .map(|text| text.text.as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        structured: result.structured_content.unwrap_or_default(),
        refused: result.is_error == Some(true),
    }
}

async fn connect(
    workspace: &Path,
    log: &Path,
    style: Style,
    busy: Arc<AtomicBool>,
) -> anyhow::Result<RunningService<RoleClient, Watcher>> {
    let child = start::start(workspace, log, style)?;
    let lifecycle = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::LATEST],
        legacy_version: None,
    };
    let watcher = Watcher { style, busy };
    let client = watcher
        .serve_with_lifecycle(child, lifecycle)
        .await
        .context("agreeing with the server on a protocol")?;
    let tools = client.list_all_tools().await.context("listing the tools")?;
    if let Some(server) = client.peer_info() {
        style.output(&format!("MCP {}", server.protocol_version));
    }
    for tool in &tools {
        style.output(&format!(
            "{:9} {}",
            tool.name,
            tool.title.as_deref().unwrap_or_default()
        ));
    }
    for used in ["exec", "read", "write", "snapshot", "reboot"] {
        ensure!(
            tools.iter().any(|tool| tool.name == used),
            "the server has no tool `{used}`"
        );
    }
    Ok(client)
}

async fn look_around(demo: &mut Demo) -> anyhow::Result<()> {
    demo.style
        .title("A computer of its own (boots with the first call)");
    let command = "uname -a; whoami; python3 --version";
    let who = demo
        .exec("boot and first command", json!({ "command": command }))
        .await?;
    for expected in ["Linux", "sandbox", "Python 3"] {
        ensure!(
            who.stdout().contains(expected),
            "expected `{expected}` in the output"
        );
    }

    demo.style.title("A command that fails is a result");
    let arguments = json!({"command": "cat /no/such/file"});
    let fails = demo.call("failing command", "exec", arguments).await?;
    let exited = !fails.refused && fails.structured["exit_code"] == 1;
    ensure!(exited, "expected exit code 1, got:\n{}", fails.text);
    Ok(())
}

async fn c_program(demo: &mut Demo) -> anyhow::Result<()> {
    demo.style.title("A C program");
    let file = json!({"path": "/workspace/hello.c", "content": HELLO_C});
    demo.done("write hello.c", "write", file).await?;
    let command = "gcc -Wall -Werror -O2 -o hello hello.c && ./hello";
    let hello = demo
        .exec("compile and run C", json!({ "command": command }))
        .await?;
    ensure!(
        hello.stdout().starts_with("hello from C on Linux"),
        "the C program said something else"
    );
    Ok(())
}

async fn python_program(demo: &mut Demo) -> anyhow::Result<()> {
    demo.style
        .title("A Python program, with standard input and environment");
    let file = json!({"path": "primes.py", "content": PRIMES_PY});
    demo.done("write primes.py", "write", file).await?;
    let env = json!({"LABEL": "primes:"});
    let run = json!({"command": "python3 primes.py", "stdin": "10\n", "env": env});
    let primes = demo.exec("run Python", run).await?;
    ensure!(
        primes.stdout() == "primes: 2 3 5 7 11 13 17 19 23 29\n",
        "the Python program said something else"
    );
    let part = json!({"path": "primes.py", "limit": 5});
    let read = demo.done("read primes.py", "read", part).await?;
    let lines = PRIMES_PY.lines().count();
    ensure!(
        read.structured["total_lines"] == lines && read.structured["next_offset"] == 6,
        "expected the first 5 lines of {lines}"
    );
    Ok(())
}

fn host_side(demo: &Demo, workspace: &Path) -> anyhow::Result<()> {
    demo.style.title("The same files on the host");
    for (name, written) in [("hello.c", HELLO_C), ("primes.py", PRIMES_PY)] {
        let path = workspace.join(name);
        let shown = path.display();
        let content = std::fs::read_to_string(&path).with_context(|| format!("reading {shown}"))?;
        ensure!(
            content == written,
            "{shown} is not what was written in the VM"
        );
        let bytes = content.len();
        demo.style
            .output(&format!("{shown}: {bytes} bytes, as written in the VM"));
    }
    Ok(())
}

async fn programs(demo: &mut Demo, workspace: &Path) -> anyhow::Result<()> {
    look_around(demo).await?;
    c_program(demo).await?;
    python_program(demo).await?;
    host_side(demo, workspace)
}

async fn breaking(demo: &mut Demo) -> anyhow::Result<()> {
    demo.style.title("Break the system, and put it back");
    let save = json!({"action": "save", "name": "good"});
    let saved = demo.done("save a snapshot", "snapshot", save).await?;
    ensure!(
        saved.structured["snapshots"][0]["name"] == "good",
        "expected the snapshot `good` to be listed"
    );
    demo.call(
        "break the system",
        "exec",
        json!({"command": "rm -rf /usr/lib", "user": "root"}),
    )
    .await?;
    let broken = demo
        .call(
            "command in a broken system",
            "exec",
            json!({"command": "python3 --version"}),
        )
        .await?;
    ensure!(!broken.worked(), "python3 still works without /usr/lib");
    let restore = json!({"action": "restore", "name": "good"});
    demo.done("restore the snapshot", "snapshot", restore)
        .await?;
    let whole = demo
        .exec(
            "command after the restore",
            json!({"command": "python3 --version"}),
        )
        .await?;
    ensure!(
        whole.stdout().contains("Python 3"),
        "expected Python to be back"
    );

    Ok(())
}

async fn rebooting(demo: &mut Demo) -> anyhow::Result<()> {
    demo.style.title("Reboot into a clean system");
    let mark = json!({"command": "echo here > /tmp/state-file && ls -l /tmp/state-file"});
    demo.exec("leave a file outside /workspace", mark).await?;
    demo.done("reboot", "reboot", json!({})).await?;
    let look = json!({"command": "ls /workspace; ls /tmp/state-file"});
    let clean = demo.call("look for it afterwards", "exec", look).await?;
    let gone = !clean.refused && clean.structured["exit_code"] == 2;
    ensure!(gone, "expected /tmp/state-file to be gone");
    ensure!(
        clean.stdout().contains("primes.py"),
        "expected /workspace to be kept"
    );
    Ok(())
}

async fn session(style: Style, workspace: &Path, log: &Path) -> anyhow::Result<()> {
    style.title("Start the server that mcp.json names, and list its tools");
    let began = Instant::now();
    let busy = Arc::new(AtomicBool::new(false));
    let mut client = connect(workspace, log, style, busy.clone()).await?;
    let mut demo = Demo {
        style,
        peer: client.peer().clone(),
        busy,
        timings: vec![("start and list tools".to_owned(), began.elapsed())],
    };
    let mut went = programs(&mut demo, workspace).await;
    if went.is_ok() {
        went = breaking(&mut demo).await;
        if went.is_ok() {
            went = rebooting(&mut demo).await;
        }
        // Also after an error, no snapshot is left in the user's store.
        style.title("Tidy up");
        let delete = json!({"action": "delete", "name": "good"});
        let deleted = demo.done("delete the snapshot", "snapshot", delete).await;
        went = went.and(deleted.map(|_| ()));
    }
    let leaving = Instant::now();
    client.close().await.context("closing the session")?;
    start::stop(workspace)?;
    went?;
    let left = leaving.elapsed();
    demo.timings.push(("leave".to_owned(), left));
    demo.table();
    ensure!(
        left < Duration::from_secs(3),
        "the sandbox did not stop in time"
    );
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let style = Style::new();
    let went = async {
        let dir = tempfile::tempdir().context("making a temporary directory")?;
        let (workspace, log) = (dir.path().join("project"), dir.path().join("server.log"));
        std::fs::create_dir(&workspace)?;
        if let Err(error) = session(style, &workspace, &log).await {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            bail!(
                "{error:#}\nthe server's last messages:\n{}",
                last.join("\n")
            );
        }
        Ok(())
    };
    match went.await {
        Ok(()) => {
            snowglobe::show!("\n{}", style.paint("1;32", "everything was as expected"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            style.status("");
            snowglobe::tell!(
                "{}",
                style.paint("1;31", &format!("the demo failed: {error:#}"))
            );
            ExitCode::FAILURE
        }
    }
}
