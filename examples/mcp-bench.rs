//! Measures the cost of the MCP server itself: calls of a tool that does nothing, over stdio and HTTP, compared with a
//! minimal server of the same library in the same run; memory after many calls; the time to end after a disconnect.
//!
//! `cargo run --release --example mcp-bench [CALLS]`; the last figure needs the image `minimal`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde_json::{Value, json};

/// The library's server with one tool, which returns the same result as Snowglobe's.
#[derive(Clone)]
struct Bare;

impl ServerHandler for Bare {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({"type": "object"})
            .as_object()
            .cloned()
            .unwrap_or_default();
        Ok(ListToolsResult::with_all_items(vec![Tool::new(
            "job", "nothing", schema,
        )]))
    }

    async fn call_tool(
        &self,
        _request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let mut result = CallToolResult::success(vec![ContentBlock::text("there are no jobs")]);
        result.structured_content = Some(json!({"action": "list", "jobs": []}));
        Ok(result.into())
    }
}

async fn bare(kind: &str) -> anyhow::Result<()> {
    if kind == "stdio" {
        Bare.serve(rmcp::transport::stdio())
            .await?
            .waiting()
            .await?;
        return Ok(());
    }
    let service = StreamableHttpService::new(
        || Ok(Bare),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    snowglobe::tell!("serving MCP at http://{}/mcp", listener.local_addr()?);
    // Without it every call takes 40 ms, which would favour Snowglobe.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
    Ok(())
}

/// The command that starts one of the two servers.
fn command(ours: bool, kind: &str, dir: &tempfile::TempDir) -> anyhow::Result<Command> {
    if !ours {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", kind]);
        return Ok(command);
    }
    let mut command = Command::new(common::program()?);
    command
        .args(["serve", "--rm"])
        .current_dir(dir.path())
        .env("SNOWGLOBE_RUNTIME_DIR", dir.path().join("run"))
        .env("SNOWGLOBE_NAME", "mcp-bench")
        .env("SNOWGLOBE_IMAGE", "minimal")
        .env("SNOWGLOBE_LOG", "error");
    if kind == "http" {
        command.args([
            "--http",
            "127.0.0.1:0",
            "--no-token",
            "--max-rate",
            "10000000",
        ]);
    }
    Ok(command)
}

fn call(id: usize, meta: Option<&Value>) -> Value {
    let mut params = json!({"name": "job", "arguments": {"action": "list"}});
    if let Some(meta) = meta {
        params["_meta"] = meta.clone();
    }
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}})
}

/// Times of single calls.
struct Times(Vec<Duration>);

impl Times {
    fn show(mut self, what: &str) {
        let all: Duration = self.0.iter().sum();
        self.0.sort();
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize].as_micros();
        snowglobe::show!(
            "{what:<34} {:>8.0} calls/s   p50 {:>5} µs   p99 {:>5} µs",
            self.0.len() as f64 / all.as_secs_f64(),
            at(0.5),
            at(0.99)
        );
    }
}

struct Piped {
    child: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Piped {
    fn start(ours: bool, dir: &tempfile::TempDir) -> anyhow::Result<Self> {
        let mut child = command(ours, "stdio", dir)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("its input")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        let mut client = Self {
            child,
            input,
            lines,
        };
        client.ask(&initialize())?;
        client
            .input
            .write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n")?;
        Ok(client)
    }

    fn ask(&mut self, message: &Value) -> anyhow::Result<String> {
        self.input.write_all(format!("{message}\n").as_bytes())?;
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        anyhow::ensure!(line.contains("\"result\""), "it answered {line}");
        Ok(line)
    }

    fn times(&mut self, calls: usize) -> anyhow::Result<Times> {
        let mut times = Vec::with_capacity(calls);
        for id in 1..=calls {
            let began = Instant::now();
            self.ask(&call(id, None))?;
            times.push(began.elapsed());
        }
        Ok(Times(times))
    }

    /// Calls per second with 32 calls in progress.
    fn crowded(&mut self, calls: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        for start in (0..calls).step_by(32) {
            let burst: String = (start..start + 32)
                .map(|id| format!("{}\n", call(id + 1, None)))
                .collect();
            self.input.write_all(burst.as_bytes())?;
            for _ in 0..32 {
                self.lines.read_line(&mut String::new())?;
            }
        }
        Ok(calls as f64 / began.elapsed().as_secs_f64())
    }

    fn memory(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

/// A persistent connection.
struct Http {
    child: Child,
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    session: Option<String>,
}

impl Http {
    fn start(ours: bool, dir: &tempfile::TempDir) -> anyhow::Result<Self> {
        let mut child = command(ours, "http", dir)?.stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("its messages")?);
        let mut line = String::new();
        let address: SocketAddr = loop {
            line.clear();
            anyhow::ensure!(
                said.read_line(&mut line)? > 0,
                "it did not say where it listens"
            );
            if let Some(url) = line.trim().strip_prefix("serving MCP at http://") {
                break url.trim_end_matches("/mcp").parse()?;
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            child,
            stream: BufReader::new(stream),
            address,
            session: None,
        };
        let head = client.ask(&initialize(), false)?;
        let session = head
            .lines()
            .find_map(|line| line.strip_prefix("mcp-session-id: "));
        client.session = Some(session.context("a session")?.trim().to_owned());
        Ok(client)
    }

    /// The head and the body of the answer.
    fn ask(&mut self, message: &Value, modern: bool) -> anyhow::Result<String> {
        let body = message.to_string();
        let mut head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        if modern {
            head +=
                "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: job\r\n";
        } else if let Some(session) = &self.session {
            head += &format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        }
        self.stream
            .get_mut()
            .write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        let (mut length, mut chunked) = (0, false);
        loop {
            let start = answer.len();
            anyhow::ensure!(
                self.stream.read_line(&mut answer)? > 0,
                "it closed after {answer}"
            );
            let line = answer[start..].trim().to_lowercase();
            if let Some(given) = line.strip_prefix("content-length: ") {
                length = given.parse()?;
            }
            chunked |= line == "transfer-encoding: chunked";
            if line.is_empty() {
                break;
            }
        }
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "it answered {answer}");
        let mut piece = |stream: &mut BufReader<TcpStream>, length: usize| -> anyhow::Result<()> {
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes)?;
            answer.push_str(&String::from_utf8_lossy(&bytes));
            Ok(())
        };
        if !chunked {
            piece(&mut self.stream, length)?;
            return Ok(answer);
        }
        loop {
            let mut size = String::new();
            self.stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16)?;
            piece(&mut self.stream, size + 2)?;
            if size == 0 {
                return Ok(answer);
            }
        }
    }

    fn times(&mut self, calls: usize, modern: bool) -> anyhow::Result<Times> {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}});
        let mut handle = None;
        let mut times = Vec::with_capacity(calls);
        for id in 1..=calls {
            let mut message = call(id, modern.then_some(&meta));
            if let Some(handle) = &handle {
                message["params"]["arguments"]["sandbox"] = Value::clone(handle);
            }
            let began = Instant::now();
            let answer = self.ask(&message, modern)?;
            times.push(began.elapsed());
            anyhow::ensure!(answer.contains("there are no jobs"), "it answered {answer}");
            // Snowglobe names the sandbox it made; the next calls must use it.
            if let Some(start) = answer.find("sb-").filter(|_| modern && handle.is_none()) {
                handle = Some(answer[start..start + 35].into());
            }
        }
        Ok(Times(times))
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time from the end of the client to the end of the server, while a command runs.
fn end(dir: &tempfile::TempDir) -> anyhow::Result<Duration> {
    let mut client = Piped::start(true, dir)?;
    let exec = |id: usize, command: &str| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "exec", "arguments": {"command": command}}})
    };
    client.ask(&exec(1, "true"))?;
    let running = exec(2, "touch /tmp/begun; sleep 1000");
    client.input.write_all(format!("{running}\n").as_bytes())?;
    client.ask(&exec(3, "until [ -e /tmp/begun ]; do sleep 0.05; done"))?;
    let Piped {
        mut child, input, ..
    } = client;
    let began = Instant::now();
    drop(input);
    child.wait()?;
    Ok(began.elapsed())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("bare") {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(bare(&arguments.next().unwrap_or_default()));
    }
    let calls: usize = first.map_or(Ok(20_000), |calls| calls.parse())?;
    let dir = tempfile::tempdir()?;
    snowglobe::show!("{calls} calls each of a tool that does nothing, one after the other");
    for round in ["first", "again"] {
        for (ours, who) in [(false, "bare rmcp"), (true, "snowglobe")] {
            Piped::start(ours, &dir)?
                .times(calls)?
                .show(&format!("stdio, {who}, {round}"));
        }
    }
    for (modern, era) in [(false, "session"), (true, "stateless")] {
        for (ours, who) in [(false, "bare rmcp"), (true, "snowglobe")] {
            Http::start(ours, &dir)?
                .times(calls, modern)?
                .show(&format!("http, {era}, {who}"));
        }
    }
    for (ours, who) in [(false, "bare rmcp"), (true, "snowglobe")] {
        let mut client = Piped::start(ours, &dir)?;
        client.crowded(3200)?;
        let before = client.memory()?;
        let rate = client.crowded(100_000)?;
        let after = client.memory()?;
        snowglobe::show!(
            "100,000 calls, 32 at once, {who:<10} {rate:>8.0} calls/s   memory {before:.1} MiB before, {after:.1} MiB after"
        );
    }
    for _ in 0..3 {
        snowglobe::show!(
            "client gone to server gone, a command running: {:.0} ms",
            end(&dir)?.as_secs_f64() * 1000.0
        );
    }
    Ok(())
}
