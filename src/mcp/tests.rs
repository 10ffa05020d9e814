//! The protocol itself, in process: whatever needs no VM.

use std::collections::BTreeSet;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, ProtocolVersion, Tool,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RoleClient, RunningService};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Config, Raw, Sources};

/// A server over a stream, in front of a sandbox that is never booted.
struct Served {
    client: tokio::io::DuplexStream,
    server: JoinHandle<Result<(), McpError>>,
    _dir: tempfile::TempDir,
}

fn serve_one() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let runtime = dir.path().join("run").to_string_lossy().into_owned();
    let config = Config::load(Sources {
        cwd: dir.path().to_owned(),
        user_file: None,
        env: vec![("SNOWGLOBE_RUNTIME_DIR".to_owned(), runtime)],
        flags: Raw {
            data_dir: Some(dir.path().join("data")),
            image: Some("none".to_owned()),
            ..Raw::default()
        },
    })
    .unwrap();
    let sandbox: Arc<Sandbox> = Sandbox::new(config).unwrap();
    let (client, stream) = tokio::io::duplex(1 << 16);
    Served {
        client,
        server: tokio::spawn(serve_stream(stream, sandbox)),
        _dir: dir,
    }
}

/// A client that speaks bare JSON lines.
struct Bare {
    lines: Lines<BufReader<ReadHalf<tokio::io::DuplexStream>>>,
    input: WriteHalf<tokio::io::DuplexStream>,
    server: JoinHandle<Result<(), McpError>>,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn new(served: Served) -> Self {
        let (output, input) = tokio::io::split(served.client);
        Self {
            lines: BufReader::new(output).lines(),
            input,
            server: served.server,
            _dir: served._dir,
        }
    }

    async fn send(&mut self, message: Value) {
        let line = format!("{message}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap();
        serde_json::from_str(&line.expect("the server answers")).unwrap()
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            .await;
        self.answer().await
    }

    async fn initialize(&mut self, version: &str) -> Value {
        let params = json!({
            "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        });
        let answer = self.ask("initialize", params).await;
        self.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        answer
    }

    async fn call(&mut self, name: &str, arguments: Value) -> Value {
        let params = json!({"name": name, "arguments": arguments});
        self.ask("tools/call", params).await
    }
}

async fn client(lifecycle: ClientLifecycleMode) -> RunningService<RoleClient, ClientConfig> {
    let served = serve_one();
    let config = ClientConfig::new(
        ClientCapabilities::default(),
        Implementation::new("test", "1"),
    );
    config
        .serve_with_lifecycle(served.client, lifecycle)
        .await
        .unwrap()
}

fn discover() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    }
}

/// What some client can't use, with where it is.
fn not_flat(at: &str, schema: &Value, found: &mut Vec<String>) {
    const REFUSED: [&str; 11] = [
        "$ref",
        "$defs",
        "$schema",
        "definitions",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
        "format",
        "nullable",
        "const",
    ];
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                // A property may have any name.
                let is_property = at.ends_with(".properties");
                if !is_property && REFUSED.contains(&key.as_str()) {
                    found.push(format!("{at}.{key}"));
                }
                if !is_property && key == "type" && !value.is_string() {
                    found.push(format!("{at}.type = {value}"));
                }
                not_flat(&format!("{at}.{key}"), value, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                not_flat(&format!("{at}[]"), value, found);
            }
        }
        Value::Null => found.push(format!("{at} is null")),
        _ => {}
    }
}

fn properties(schema: &Value) -> BTreeSet<&str> {
    let properties = schema["properties"].as_object().unwrap();
    properties.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn tools_are_flat_and_complete_in_both_eras() {
    for lifecycle in [ClientLifecycleMode::Initialize, discover()] {
        let client = client(lifecycle).await;
        let tools = client.list_all_tools().await.unwrap();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert_eq!(
            names,
            [
                "exec", "job", "read", "write", "edit", "search", "snapshot", "reboot"
            ]
        );
        for tool in &tools {
            check_tool(tool);
        }
    }
}

fn check_tool(tool: &Tool) {
    let json = serde_json::to_value(tool).unwrap();
    let mut found = Vec::new();
    for schema in ["inputSchema", "outputSchema"] {
        not_flat(
            &format!("{}.{schema}", tool.name),
            &json[schema],
            &mut found,
        );
        assert_eq!(json[schema]["type"], "object");
        for (name, property) in json[schema]["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{}.{name}", tool.name);
        }
    }
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(json["inputSchema"]["additionalProperties"], false);
    assert!(json["title"].is_string());
    let length = json["description"].as_str().unwrap().len();
    assert!((40..400).contains(&length), "{}: {length}", tool.name);
    for hint in [
        "readOnlyHint",
        "destructiveHint",
        "idempotentHint",
        "openWorldHint",
    ] {
        assert!(
            json["annotations"][hint].is_boolean(),
            "{}.{hint}",
            tool.name
        );
    }
}

#[test]
fn parameters_and_results_have_the_names_that_clients_know() {
    let tools: Value =
        serde_json::to_value(server::tools(std::time::Duration::from_secs(5))).unwrap();
    let of = |name: &str| {
        let tools = tools.as_array().unwrap();
        tools.iter().find(|tool| tool["name"] == name).unwrap()
    };
    let input = |tool: &str| properties(&of(tool)["inputSchema"]);
    let output = |tool: &str| properties(&of(tool)["outputSchema"]);
    assert_eq!(
        input("exec"),
        BTreeSet::from([
            "command",
            "cwd",
            "env",
            "stdin",
            "timeout_s",
            "user",
            "background"
        ])
    );
    assert_eq!(input("read"), BTreeSet::from(["path", "offset", "limit"]));
    assert_eq!(
        input("write"),
        BTreeSet::from(["path", "content", "encoding", "mode", "append"])
    );
    assert_eq!(input("snapshot"), BTreeSet::from(["action", "name"]));
    assert_eq!(input("reboot"), BTreeSet::new());
    let exec = [
        "exit_code",
        "signal",
        "timed_out",
        "stdout",
        "stderr",
        "truncated",
        "duration_ms",
    ];
    assert!(output("exec").is_superset(&BTreeSet::from(exec)));
    assert!(output("read").is_superset(&BTreeSet::from(["content", "total_lines", "next_offset"])));
    assert!(output("write").contains("bytes"));
    assert!(output("snapshot").is_superset(&BTreeSet::from(["snapshots", "took_ms"])));
    assert_eq!(
        properties(&of("snapshot")["outputSchema"]["properties"]["snapshots"]["items"]),
        BTreeSet::from(["name", "bytes", "created"])
    );
    assert_eq!(output("reboot"), BTreeSet::from(["took_ms"]));
    let timeout = &of("exec")["inputSchema"]["properties"]["timeout_s"];
    assert!(
        timeout["description"]
            .as_str()
            .unwrap()
            .ends_with("(default 5)")
    );
    assert_eq!(of("exec")["inputSchema"]["required"], json!(["command"]));
    assert_eq!(
        of("exec")["inputSchema"]["properties"]["user"]["enum"],
        json!(["sandbox", "root"])
    );
}

#[test]
fn instructions_fit_what_clients_show() {
    assert!(
        server::INSTRUCTIONS.len() < 2048,
        "{}",
        server::INSTRUCTIONS.len()
    );
}

#[tokio::test]
async fn every_handshake_is_answered_in_its_own_version() {
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ] {
        let mut bare = Bare::new(serve_one());
        let result = &bare.initialize(asked).await["result"];
        assert_eq!(result["protocolVersion"], agreed, "asked for {asked}");
        assert_eq!(result["serverInfo"]["name"], "snowglobe");
        assert!(result["instructions"].is_string());
    }
}

#[tokio::test]
async fn wrong_arguments_are_the_tools_errors_that_a_model_can_read() {
    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-06-18").await;
    for (tool, arguments, says) in [
        ("exec", json!({"cmd": "ls"}), "did you mean `command`?"),
        (
            "exec",
            json!({"command": "ls", "timeout_s": -1}),
            "more than 0",
        ),
        ("read", json!({"path": "a", "limit": 0}), "at least 1"),
        ("write", json!({"path": "a"}), "`content` is missing"),
        ("job", json!({"action": "kill"}), "`id` is missing"),
        (
            "edit",
            json!({"path": "a", "old_str": "x", "new_string": ""}),
            "did you mean `old_string`?",
        ),
        ("search", json!({"pattern": ""}), "`pattern` is empty"),
        (
            "job",
            json!({"action": "output", "id": "job-1"}),
            "no machine runs",
        ),
        (
            "snapshot",
            json!({"action": "restore"}),
            "`name` is missing",
        ),
        ("reboot", json!({"force": true}), "takes no arguments"),
    ] {
        let answer = bare.call(tool, arguments).await;
        let result = &answer["result"];
        assert_eq!(result["isError"], true, "{answer}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn calls_that_no_tool_can_take_are_protocol_errors() {
    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-11-25").await;
    let unknown = bare.call("exce", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32602);
    assert!(
        unknown["error"]["message"]
            .as_str()
            .unwrap()
            .contains("did you mean `exec`?")
    );
    let shapeless = bare.call("exec", json!("ls")).await;
    assert_eq!(shapeless["error"]["code"], -32602);
    let method = bare.ask("no/such", json!({})).await;
    assert_eq!(method["error"]["code"], -32601);
}

#[tokio::test]
async fn what_comes_before_the_first_request_does_no_harm() {
    let mut bare = Bare::new(serve_one());
    bare.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    let early = bare.ask("tools/list", json!({})).await;
    assert_eq!(early["error"]["code"], -32602);
    let cancelled = json!({"requestId": 1});
    bare.send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}))
        .await;
    assert!(bare.initialize("2025-06-18").await["result"].is_object());
    assert!(bare.ask("tools/list", json!({})).await["result"]["tools"].is_array());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_serving() {
    let served = serve_one();
    drop(served.client);
    served.server.await.unwrap().unwrap();

    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-06-18").await;
    drop((bare.input, bare.lines));
    bare.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn asking_for_jobs_boots_nothing() {
    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-06-18").await;
    // There is no image to boot: a boot would be an error.
    let answer = bare.call("job", json!({"action": "list"})).await;
    let result = &answer["result"];
    assert_eq!(result["structuredContent"]["jobs"], json!([]), "{answer}");
    assert_eq!(result["content"][0]["text"], "there are no jobs");
}

#[tokio::test]
async fn a_sandbox_that_can_not_run_a_command_is_an_error() {
    let client = client(discover()).await;
    let arguments = json!({"command": "true"}).as_object().cloned().unwrap();
    let call = CallToolRequestParams::new("exec").with_arguments(arguments);
    // There is no image of that name to boot.
    let result = client.call_tool(call).await.unwrap();
    assert_eq!(result.is_error, Some(true));
    let text = &result.content[0].as_text().unwrap().text;
    assert!(text.starts_with("failed to "), "{text}");
}
