//! The server answers or closes, whatever it receives: malformed JSON, huge lines, wrong types, unknown methods,
//! cancels in between, over a stream and over HTTP. No VM boots, since there is no image; a valid call fails.
//!
//! Every round has a seed, which a failure names. `SNOWGLOBE_FUZZ_ROUNDS` sets the number of rounds.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use snowglobe::config::{Config, Raw, Sources};
use snowglobe::mcp;
use snowglobe::sandbox::Sandbox;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;

/// The number of panics, caught ones included.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
}

fn rounds(usual: u64) -> u64 {
    let asked = std::env::var("SNOWGLOBE_FUZZ_ROUNDS").ok();
    asked.map_or(usual, |rounds| rounds.parse().expect("a number of rounds"))
}

fn config(dir: &tempfile::TempDir) -> Config {
    let runtime = dir.path().join("run").to_string_lossy().into_owned();
    let workspace = dir.path().join("workspace");
    std::fs::create_dir_all(&workspace).unwrap();
    Config::load(Sources {
        cwd: workspace,
        user_file: None,
        env: vec![("SNOWGLOBE_RUNTIME_DIR".to_owned(), runtime)],
        flags: Raw {
            data_dir: Some(dir.path().join("data")),
            image: Some("none".to_owned()),
            ..Raw::default()
        },
    })
    .unwrap()
}

const METHODS: [&str; 26] = [
    "initialize",
    "server/discover",
    "ping",
    "tools/list",
    "tools/call",
    "tools/call",
    "tools/call",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/cancel",
    "sampling/createMessage",
    "roots/list",
    "skills/list",
    "notifications/cancelled",
    "no/such",
    "",
];

const WORDS: [&str; 30] = [
    "exec",
    "job",
    "read",
    "write",
    "edit",
    "search",
    "snapshot",
    "reboot",
    "exce",
    "list",
    "save",
    "restore",
    "delete",
    "output",
    "wait",
    "kill",
    "input",
    "true",
    "/etc/passwd",
    "../..",
    "\u{0}",
    "snowglobe://console",
    "snowglobe://workspace/a",
    "snowglobe://jobs/x?offset=1",
    "file:///",
    "sb-00000000000000000000000000000000",
    "2025-11-25",
    "2026-07-28",
    "é€😀",
    "job-1",
];

const KEYS: [&str; 35] = [
    "name",
    "arguments",
    "command",
    "cwd",
    "env",
    "stdin",
    "timeout_s",
    "user",
    "background",
    "keep_stdin",
    "path",
    "content",
    "offset",
    "limit",
    "old_string",
    "new_string",
    "pattern",
    "action",
    "id",
    "uri",
    "ref",
    "argument",
    "value",
    "cursor",
    "_meta",
    "progressToken",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "requestId",
    "notifications",
    "requestState",
    "inputResponses",
    "sandbox",
    "level",
];

struct Dice(StdRng);

impl Dice {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.random_range(0..of.len())]
    }

    fn often(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.0.random_range(0..if depth == 0 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => self.0.random::<bool>().into(),
            2 => self.0.random::<i64>().into(),
            3 => json!(self.0.random_range(-3..30)),
            4 => json!(self.0.random_range(-1.0e18..1.0e18)),
            5 | 6 => self.one(&WORDS).into(),
            7 => (0..self.0.random_range(0..4))
                .map(|_| self.value(depth - 1))
                .collect(),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: u32) -> Value {
        let count = self.0.random_range(0..6);
        let fields = (0..count).map(|_| (self.one(&KEYS).to_owned(), self.value(depth)));
        Value::Object(fields.collect())
    }

    /// A plausible call that does not wait for long.
    fn call(&mut self) -> Value {
        let name = self.one(&WORDS[..9]).to_owned();
        let arguments = match name.as_str() {
            "exec" => json!({"command": self.one(&WORDS)}),
            "job" => json!({"action": self.one(&WORDS[9..17]), "id": "job-1"}),
            "read" | "write" | "edit" => json!({"path": self.one(&WORDS), "content": "x"}),
            "search" => json!({"pattern": self.one(&WORDS)}),
            "snapshot" => json!({"action": self.one(&WORDS[9..13]), "name": self.one(&WORDS)}),
            _ => json!({}),
        };
        let mut params = json!({"name": name, "arguments": arguments});
        if self.often(30) {
            params["_meta"] = json!({"progressToken": self.value(0)});
        }
        params
    }

    fn meta(&mut self) -> Value {
        json!({
            "io.modelcontextprotocol/protocolVersion": if self.often(80) { "2026-07-28" } else { self.one(&WORDS) },
            "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        })
    }

    /// A message of valid form.
    fn message(&mut self, id: u64) -> Value {
        let method = self.one(&METHODS).to_owned();
        let mut params = match method.as_str() {
            "tools/call" if self.often(70) => self.call(),
            "initialize" if self.often(50) => json!({
                "protocolVersion": self.one(&WORDS), "capabilities": {}, "clientInfo": {"name": "f", "version": "1"},
            }),
            "resources/read" | "resources/subscribe" if self.often(70) => {
                json!({"uri": self.one(&WORDS)})
            }
            _ => self.value(3),
        };
        if params.is_object() && self.often(40) {
            params["_meta"] = self.meta();
        }
        let mut message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        match self.0.random_range(0..20) {
            0 => message["jsonrpc"] = self.value(1),
            1 => drop(message.as_object_mut().map(|map| map.remove("params"))),
            2 => {
                message = json!({"jsonrpc": "2.0", "id": self.0.random_range(0..9), "result": self.value(2)})
            }
            3 => message = json!({"jsonrpc": "2.0", "id": id, "error": self.value(2)}),
            4 => message["method"] = self.value(1),
            _ => {}
        }
        message
    }

    /// A line with its end.
    fn line(&mut self, id: u64) -> Vec<u8> {
        let mut line = match self.0.random_range(0..20) {
            0 => (0..self.0.random_range(0..200))
                .map(|_| self.0.random::<u8>())
                .filter(|byte| *byte != b'\n')
                .collect(),
            1 => format!("{{\"jsonrpc\": \"2.0\", \"id\": {id}, \"method\":").into_bytes(),
            2 => "[".repeat(self.0.random_range(1..20_000)).into_bytes(),
            3 => Vec::new(),
            4 => {
                let mut message = self.message(id);
                message["padding"] = "x".repeat(self.0.random_range(0..1 << 20)).into();
                message.to_string().into_bytes()
            }
            5 => serde_json::to_vec(&self.value(4)).unwrap(),
            6 => json!([self.message(id), self.message(id + 500)])
                .to_string()
                .into_bytes(),
            7 | 8 => {
                let cancelled = json!({"requestId": id.saturating_sub(self.0.random_range(0..3)), "reason": "fuzz"});
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
                    .to_string()
                    .into_bytes()
            }
            9 => {
                let mut cut = self.message(id).to_string().into_bytes();
                cut.truncate(self.0.random_range(0..cut.len()));
                cut
            }
            _ => self.message(id).to_string().into_bytes(),
        };
        line.extend_from_slice(if self.often(10) { b"\r\n" } else { b"\n" });
        line
    }
}

/// Plays one client from its first line to its last; returns the server's faults.
async fn converse(seed: u64, sandbox: Arc<Sandbox>) -> Result<(), String> {
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    let (client, stream) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(mcp::serve_stream(stream, sandbox));
    let (output, mut input) = tokio::io::split(client);
    let reader = tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        let mut answers: HashMap<String, usize> = HashMap::new();
        let mut probed = false;
        while let Ok(Some(line)) = lines.next_line().await {
            let message: Value =
                serde_json::from_str(&line).map_err(|_| format!("it wrote {line}"))?;
            if message["jsonrpc"] != "2.0" {
                return Err(format!("it wrote {line}"));
            }
            if message["method"].is_null() {
                *answers.entry(message["id"].to_string()).or_default() += 1;
            }
            probed |= message["id"] == "probe";
            if probed {
                break;
            }
        }
        Ok((answers, probed))
    });
    let mut sent = HashSet::new();
    if dice.often(70) {
        let version = dice.one(&["2024-11-05", "2025-06-18", "2025-11-25"]);
        let about = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "f", "version": "1"}});
        let open = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about});
        let _ = input.write_all(format!("{open}\n").as_bytes()).await;
    }
    // Larger than any generated number: a message that is no request may have an id, too.
    for id in 1001..1040 {
        let line = dice.line(id);
        sent.insert(id.to_string());
        if input.write_all(&line).await.is_err() {
            break;
        }
    }
    let probe = json!({"jsonrpc": "2.0", "id": "probe", "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }}});
    let _ = input.write_all(format!("{probe}\n").as_bytes()).await;
    let read = tokio::time::timeout(Duration::from_secs(30), reader).await;
    let (answers, probed) = read
        .map_err(|_| "it neither answers nor closes")?
        .map_err(|error| error.to_string())??;
    if let Some((id, times)) = answers
        .iter()
        .find(|(id, times)| **times > 1 && sent.contains(*id))
    {
        return Err(format!("it answered {id} {times} times"));
    }
    drop(input);
    let ended = tokio::time::timeout(Duration::from_secs(10), server).await;
    let ended = ended.map_err(|_| "it does not end when its client has left")?;
    match ended.map_err(|error| format!("it broke: {error}"))? {
        Ok(()) => Ok(()),
        // Closed with a reason.
        Err(mcp::ServeError::Opening(_)) if !probed => Ok(()),
        Err(error) => Err(format!("failed to {error}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_stream_it_answers_or_closes() {
    count_panics();
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(config(&dir)).await.unwrap();
    for seed in 0..rounds(300) {
        if let Err(wrong) = converse(seed, sandbox.clone()).await {
            panic!("seed {seed}: {wrong}");
        }
        assert_eq!(
            PANICS.load(Ordering::SeqCst),
            0,
            "seed {seed}: something panicked"
        );
    }
    assert!(sandbox.processes().is_none(), "no machine was made");
    assert!(sandbox.snapshot_list().await.unwrap().is_empty());
}

/// A client that writes any lines.
struct Client {
    input: tokio::io::WriteHalf<tokio::io::DuplexStream>,
    lines: tokio::io::Lines<BufReader<tokio::io::ReadHalf<tokio::io::DuplexStream>>>,
    server: tokio::task::JoinHandle<Result<(), mcp::ServeError>>,
}

impl Client {
    fn start(sandbox: Arc<Sandbox>) -> Self {
        let (client, stream) = tokio::io::duplex(1 << 20);
        let server = tokio::spawn(mcp::serve_stream(stream, sandbox));
        let (output, input) = tokio::io::split(client);
        Self {
            input,
            lines: BufReader::new(output).lines(),
            server,
        }
    }

    async fn send(&mut self, line: &[u8]) {
        self.input.write_all(line).await.unwrap();
        self.input.write_all(b"\n").await.unwrap();
    }

    /// The server's next message.
    async fn next(&mut self, within: Duration) -> Value {
        let line = tokio::time::timeout(within, self.lines.next_line()).await;
        let line = line
            .expect("an answer in time")
            .unwrap()
            .expect("it goes on");
        // JSON's grammar allows an id that is half a surrogate pair.
        serde_json::from_str(&line.replace("\\ud83d\"", "?\"")).unwrap()
    }

    async fn open(&mut self) {
        let about = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "f", "version": "1"}});
        let open = json!({"jsonrpc": "2.0", "id": "open", "method": "initialize", "params": about});
        self.send(open.to_string().as_bytes()).await;
        let opened = self.next(Duration::from_secs(20)).await;
        assert!(opened["result"]["serverInfo"].is_object(), "{opened}");
    }

    async fn close(self) {
        drop((self.input, self.lines));
        self.server.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_no_message_is_answered_and_the_next_one_served() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(config(&dir)).await.unwrap();
    let mut client = Client::start(sandbox);
    let write = |content: &str| {
        format!(
            r#"{{"method":"tools/call","params":{{"name":"write","arguments":{{"path":"x","content":"{content}"}}}},"jsonrpc":"2.0","id":41}}"#
        )
        .into_bytes()
    };
    let bad_byte = String::from_utf8_lossy(&write("?")).into_owned();
    let bad_byte: Vec<u8> = bad_byte
        .bytes()
        .map(|b| if b == b'?' { 0xff } else { b })
        .collect();
    let nested = "[".repeat(100_000).into_bytes();
    let cases: Vec<(Vec<u8>, Value, i64)> = vec![
        (write("\\ud83d"), json!(41), -32700),
        (bad_byte, json!(41), -32700),
        (br#"{"jsonrpc":"2.0","id":"\ud83d","method":"ping"}"#.to_vec(), json!("?"), -32700),
        (b"hello".to_vec(), Value::Null, -32700),
        (b"\xef\xbb\xbf{".to_vec(), Value::Null, -32700),
        (nested, Value::Null, -32700),
        (b"7\r".to_vec(), Value::Null, -32600),
        (b"[]".to_vec(), Value::Null, -32600),
        (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]"#.to_vec(), Value::Null, -32600),
        (br#"{"id":5,"method":"ping"}"#.to_vec(), json!(5), -32600),
        (br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#.to_vec(), json!(1.5), -32600),
    ];
    // Before the connection is opened, and after.
    for opened in [false, true] {
        if opened {
            client.open().await;
        }
        for (line, id, code) in &cases {
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            client.send(line).await;
            let answer = client.next(Duration::from_secs(1)).await;
            assert_eq!(
                (&answer["id"], &answer["error"]["code"]),
                (id, &json!(code)),
                "{shown}: {answer}"
            );
        }
        // These can't be answered.
        for line in [
            "",
            "  \r",
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"a":"\ud83d"}}"#,
            r#"{"jsonrpc":"2.0","id":9,"result":{}}"#,
        ] {
            client.send(line.as_bytes()).await;
        }
        client
            .send(b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\r")
            .await;
        let answer = client.next(Duration::from_secs(5)).await;
        assert_eq!((&answer["id"], &answer["result"]), (&json!(7), &json!({})));
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_too_long_is_answered_and_the_next_one_served() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(config(&dir)).await.unwrap();
    let mut client = Client::start(sandbox);
    client.open().await;
    // The id may come before or after the part that is too long, or be missing.
    for (before, behind, id) in [
        (
            r#"{"jsonrpc":"2.0","id":3,"method":"x","params":""#,
            "\"}",
            json!(3),
        ),
        (
            r#"{"method":"x","params":{"id":4,"x":""#,
            r#""},"jsonrpc":"2.0","id":5}"#,
            json!(5),
        ),
        ("", "", Value::Null),
    ] {
        client.input.write_all(before.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..70 {
            client.input.write_all(&piece).await.unwrap();
        }
        client.send(behind.as_bytes()).await;
        let answer = client.next(Duration::from_secs(20)).await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&id, &json!(-32600)),
            "{answer}"
        );
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("longer than"),
            "{answer}"
        );
        client
            .send(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#)
            .await;
        assert_eq!(client.next(Duration::from_secs(20)).await["id"], 7);
    }
    client.close().await;
}

/// The status of one request's answer; none if the connection was closed.
async fn request(address: std::net::SocketAddr, bytes: &[u8], whole: bool) -> Option<u16> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let _ = stream.write_all(bytes).await;
    if !whole {
        let _ = stream.shutdown().await;
    }
    let mut head = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut head)).await;
    let read = read.expect("it answers or closes").ok()?;
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn http_request(dice: &mut Dice, address: std::net::SocketAddr, id: u64) -> (Vec<u8>, bool) {
    let method = dice.one(&[
        "POST", "POST", "POST", "GET", "DELETE", "PUT", "OPTIONS", "x",
    ]);
    let path = dice.one(&[
        "/mcp",
        "/mcp",
        "/mcp",
        "/sse",
        "/sse/message?sessionId=1",
        "/healthz",
        "/metrics",
        "/",
        "/mcp/x",
    ]);
    let mut body = dice.line(id);
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    let usual = |dice: &mut Dice, name: &str, value: &str, head: &mut String| {
        if dice.often(85) {
            *head += &format!("{name}: {value}\r\n");
        } else if dice.often(50) {
            let odd = dice.one(&[
                "",
                "x",
                "*/*",
                "null",
                "http://evil.example",
                "\u{e9}",
                "2026-07-28",
                "localhost",
            ]);
            *head += &format!("{name}: {odd}\r\n");
        }
    };
    usual(dice, "Host", &address.to_string(), &mut head);
    usual(dice, "Content-Type", "application/json", &mut head);
    usual(
        dice,
        "Accept",
        "application/json, text/event-stream",
        &mut head,
    );
    if dice.often(40) {
        usual(dice, "MCP-Protocol-Version", "2026-07-28", &mut head);
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        usual(
            dice,
            "Mcp-Method",
            message["method"].as_str().unwrap_or("x"),
            &mut head,
        );
        usual(
            dice,
            "Mcp-Name",
            message["params"]["name"].as_str().unwrap_or("x"),
            &mut head,
        );
    }
    if dice.often(20) {
        usual(
            dice,
            "Mcp-Session-Id",
            "00000000-0000-0000-0000-000000000000",
            &mut head,
        );
    }
    let whole = dice.often(90);
    let length = if whole { body.len() } else { body.len() + 10 };
    head += &format!("Content-Length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.append(&mut body);
    (bytes, whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_it_answers_or_closes() {
    count_panics();
    let dir = tempfile::tempdir().unwrap();
    let listening = mcp::listen(mcp::HttpOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        token: None,
        hosts: Vec::new(),
        origins: Vec::new(),
        limits: mcp::Limits {
            sandboxes: 2,
            idle: Duration::from_secs(1),
        },
        rate: NonZeroU32::new(1_000_000).unwrap(),
        metrics: true,
    })
    .await
    .unwrap();
    let address = listening.address.tcp().unwrap();
    let closing = CancellationToken::new();
    let served = tokio::spawn(listening.serve(config(&dir), closing.clone()));
    let mut answered = 0;
    for seed in 0..rounds(600) {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let (bytes, whole) = http_request(&mut dice, address, seed);
        let status = request(address, &bytes, whole).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        // A client that sends half a body has disconnected; the library may answer anything.
        assert!(status != Some(500) || !whole, "seed {seed}: {shown}");
        assert_eq!(
            PANICS.load(Ordering::SeqCst),
            0,
            "seed {seed}: something panicked: {shown}"
        );
        answered += usize::from(status.is_some());
    }
    assert!(answered > 100, "most are answered: {answered}");
    let healthy = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    assert_eq!(request(address, healthy.as_bytes(), true).await, Some(200));
    let huge = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n",
        70 << 20
    );
    let mut huge = huge.into_bytes();
    huge.resize(huge.len() + (70 << 20), b' ');
    let status = request(address, &huge, true).await;
    assert!(matches!(status, Some(413) | None), "{status:?}");
    closing.cancel();
    served.await.unwrap();
}

/// An HTTP server's answer to one request: its status, its head in lowercase, and its body.
async fn ask(address: std::net::SocketAddr, head: &str, body: &[u8]) -> (u16, String, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    let _ = read.await.expect("it answers and closes");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let (status, head) = (head[9..12].parse().unwrap(), head.to_lowercase());
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    (status, head, body)
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &rest[..length];
        body = rest[length..].strip_prefix("\r\n").unwrap_or_default();
    }
    whole
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_clients_are_served_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let listening = mcp::listen(mcp::HttpOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        token: None,
        hosts: Vec::new(),
        origins: vec!["https://app.example/".to_owned()],
        limits: mcp::Limits {
            sandboxes: 2,
            idle: Duration::from_secs(60),
        },
        rate: NonZeroU32::new(1_000_000).unwrap(),
        metrics: true,
    });
    let listening = listening.await.unwrap();
    let address = listening.address.tcp().unwrap();
    let closing = CancellationToken::new();
    let served = tokio::spawn(listening.serve(config(&dir), closing.clone()));
    let json = "Content-Type: application/json";
    let both = "Accept: application/json, text/event-stream";
    let post = |headers: &str| format!("POST /mcp HTTP/1.1\r\n{headers}");

    for (accept, status, kind) in [
        ("", 200, "text/event-stream"),
        ("\r\nAccept: */*", 200, "text/event-stream"),
        (
            "\r\nAccept: application/json\r\nAccept: text/event-stream;q=0.5",
            200,
            "text/event-stream",
        ),
        ("\r\nAccept: text/event-stream", 200, "text/event-stream"),
        ("\r\nAccept: application/json", 200, "application/json"),
        ("\r\nAccept: application/*", 200, "application/json"),
        ("\r\nAccept: text/html", 406, "text/plain"),
    ] {
        let (got, head, body) = ask(
            address,
            &post(&format!("{json}{accept}")),
            INITIALIZE.as_bytes(),
        )
        .await;
        assert_eq!(got, status, "{accept}: {body}");
        assert!(
            head.contains(&format!("content-type: {kind}")),
            "{accept}: {head}"
        );
        assert_eq!(
            head.contains("mcp-session-id: "),
            status == 200,
            "{accept}: {head}"
        );
        assert_eq!(
            body.contains("serverInfo"),
            status == 200,
            "{accept}: {body}"
        );
        if kind == "application/json" {
            let message: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(message["id"], 1);
        }
    }
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("application/json-rpc", 200),
        ("text/plain", 415),
    ] {
        let headers = format!("Content-Type: {kind}\r\n{both}");
        assert_eq!(
            ask(address, &post(&headers), INITIALIZE.as_bytes()).await.0,
            status,
            "{kind}"
        );
    }
    assert_eq!(
        ask(address, &post(both), INITIALIZE.as_bytes()).await.0,
        415,
        "no type"
    );

    for (body, id, code) in [
        (
            &br#"{"jsonrpc":"2.0","id":4,"method":"ping","params":{"x":"\ud83d"}}"#[..],
            json!(4),
            -32700,
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"\xff\"}",
            json!(4),
            -32700,
        ),
        (b"{\"a\":", Value::Null, -32700),
        (b"", Value::Null, -32700),
        (
            br#"[{"jsonrpc":"2.0","id":4,"method":"ping"}]"#,
            Value::Null,
            -32600,
        ),
        (br#"{"id":4,"method":"ping"}"#, json!(4), -32600),
    ] {
        let (status, head, answer) = ask(address, &post(&format!("{json}\r\n{both}")), body).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(status, 400, "{shown}: {answer}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&id, &json!(code)),
            "{shown}: {answer}"
        );
    }

    // For an allowed page, refusals and streams have the header that lets the page read them.
    let page = "Origin: https://app.example";
    for head in [
        post(&format!("{json}\r\n{both}\r\n{page}")),
        post(&format!("Content-Type: text/plain\r\n{page}")),
        format!("GET /mcp HTTP/1.1\r\nAccept: text/html\r\n{page}"),
        format!("GET /nowhere HTTP/1.1\r\n{page}"),
        format!("GET /healthz HTTP/1.1\r\n{page}"),
        format!("DELETE /mcp HTTP/1.1\r\nMcp-Session-Id: x\r\n{page}"),
        format!("OPTIONS /mcp HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\n{page}"),
    ] {
        let (status, answered, _) = ask(address, &head, INITIALIZE.as_bytes()).await;
        let lets = "access-control-allow-origin: https://app.example";
        assert!(answered.contains(lets), "{head}: {status} {answered}");
    }
    let evil = "Origin: https://evil.example";
    let (status, head, _) = ask(address, &post(&format!("{json}\r\n{both}\r\n{evil}")), b"").await;
    assert!(
        status == 403 && !head.contains("access-control-allow-origin"),
        "{head}"
    );
    closing.cancel();
    served.await.unwrap();
}
