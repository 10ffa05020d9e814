//! The protocol, in process and without a VM.

use std::collections::BTreeSet;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, ProtocolVersion, Tool,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RoleClient, RunningService};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Config, Confirm, Raw, Sources};
use crate::sandbox::Sandbox;
use crate::workspace::Mode;

/// A server over a stream, in front of a sandbox that is never booted.
struct Served {
    client: tokio::io::DuplexStream,
    server: JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
    _state: tempfile::TempDir,
}

fn serve_one() -> Served {
    serve_as(Raw::default())
}

/// A server that asks a person to confirm.
fn serve_confirming(confirm: Option<Confirm>) -> Served {
    serve_as(Raw {
        confirm,
        ..Raw::default()
    })
}

/// A server with these settings.
fn serve_as(settings: Raw) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let runtime = state.path().join("run").to_string_lossy().into_owned();
    let config = Config::load(Sources {
        cwd: dir.path().to_owned(),
        user_file: None,
        env: vec![("SNOWGLOBE_RUNTIME_DIR".to_owned(), runtime)],
        flags: Raw {
            data_dir: Some(state.path().join("data")),
            image: Some("none".to_owned()),
            ..settings
        },
    })
    .unwrap();
    let (client, stream) = tokio::io::duplex(1 << 16);
    let server = async move {
        let sandbox = Sandbox::new(config).await.unwrap();
        serve_stream(stream, sandbox).await
    };
    Served {
        client,
        server: tokio::spawn(server),
        _dir: dir,
        _state: state,
    }
}

/// A client that sends and reads lines of JSON.
struct Bare {
    lines: Lines<BufReader<ReadHalf<tokio::io::DuplexStream>>>,
    input: WriteHalf<tokio::io::DuplexStream>,
    server: JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
    _state: tempfile::TempDir,
}

impl Bare {
    fn new(served: Served) -> Self {
        let (output, input) = tokio::io::split(served.client);
        Self {
            lines: BufReader::new(output).lines(),
            input,
            server: served.server,
            _dir: served._dir,
            _state: served._state,
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

    /// The next message with this method.
    async fn heard(&mut self, method: &str) -> Value {
        let waited = async {
            loop {
                let message = self.answer().await;
                if message["method"] == method {
                    return message;
                }
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waited).await;
        waited.unwrap_or_else(|_| panic!("no {method} was heard"))
    }

    /// A request of 2026-07-28, from a client with these capabilities.
    async fn modern(&mut self, method: &str, mut params: Value, capabilities: Value) -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        self.ask(method, params).await
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

/// The parts of a schema that some client can't use.
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
                "exec", "job", "read", "write", "edit", "search", "snapshot", "reboot", "port"
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
    // `read` declares no schema: clients that then show only structured content would lose its images.
    assert_eq!(json["outputSchema"].is_null(), tool.name == "read");
    for schema in ["inputSchema", "outputSchema"] {
        if json[schema].is_null() {
            continue;
        }
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
    // Some clients check calls by these keywords, and would refuse calls that the server accepts.
    assert_eq!(json["inputSchema"].get("additionalProperties"), None);
    assert!(!json["inputSchema"].to_string().contains("\"minimum\""));
    assert!(json["title"].is_string());
    let icon = json["icons"][0]["src"].as_str().unwrap();
    assert!(
        icon.starts_with("data:image/svg+xml,") && icon.len() < 700,
        "{icon}"
    );
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
    let facts = facts::Facts {
        workspace: facts::Workspace::Shared,
        repository: false,
        exec_timeout: std::time::Duration::from_secs(5),
        kept: false,
        network: facts::Network::Off,
    };
    let listings: Vec<Tool> = tools::table(&facts)
        .iter()
        .map(|tool| tool.listing.clone())
        .collect();
    let tools: Value = serde_json::to_value(listings).unwrap();
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
            "keep_stdin",
            "stdin",
            "timeout_s",
            "user",
            "background",
            "raw"
        ])
    );
    assert_eq!(input("read"), BTreeSet::from(["path", "offset", "limit"]));
    assert_eq!(
        input("write"),
        BTreeSet::from(["path", "content", "encoding", "mode", "append"])
    );
    assert_eq!(
        input("snapshot"),
        BTreeSet::from(["action", "name", "replace"])
    );
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
    assert!(output("write").contains("bytes"));
    assert!(output("snapshot").is_superset(&BTreeSet::from(["snapshots", "took_ms"])));
    assert_eq!(
        properties(&of("snapshot")["outputSchema"]["properties"]["snapshots"]["items"]),
        BTreeSet::from(["name", "bytes", "created"])
    );
    assert_eq!(output("reboot"), BTreeSet::from(["took_ms", "notes"]));
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

#[tokio::test]
async fn a_client_is_promised_what_the_configuration_has() {
    for (mode, shared) in [(Mode::Mount, true), (Mode::None, false)] {
        let mut bare = Bare::new(serve_as(Raw {
            workspace_mode: Some(mode),
            ..Raw::default()
        }));
        let answer = bare.initialize("2025-11-25").await;
        let instructions = answer["result"]["instructions"].as_str().unwrap();
        assert_eq!(
            instructions.contains("shared with the host. Treat"),
            shared,
            "{instructions}"
        );
        let tools = bare.ask("tools/list", json!({})).await["result"]["tools"].to_string();
        assert_eq!(
            tools.contains("everything outside /workspace"),
            shared,
            "{tools}"
        );
        assert_eq!(
            tools.contains("(default the image's own, else /workspace)"),
            !shared
        );
        let get = json!({"name": "try_safely", "arguments": {"change": "x"}});
        let prompt = bare.ask("prompts/get", get).await.to_string();
        assert_eq!(
            prompt.contains("does not cover /workspace"),
            shared,
            "{prompt}"
        );
    }
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
        (
            "read",
            json!({"path": "a", "offset": -1}),
            "`offset` must be at least 1, not -1",
        ),
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
    ] {
        let answer = bare.call(tool, arguments).await;
        let result = &answer["result"];
        assert_eq!(result["isError"], true, "{answer}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn what_clients_add_to_arguments_is_ignored_and_said() {
    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-06-18").await;
    let list = json!({"action": "LIST", "toolCallId": "x", "sessionId": 7, "limit": "0"});
    let result = bare.call("job", list).await["result"].clone();
    let notes = [
        "`limit` was 0, so the default held",
        "no arguments of `job`, so ignored: `sessionId`, `toolCallId`",
    ];
    assert_eq!(result["structuredContent"]["notes"], json!(notes));
    assert_eq!(
        result["content"][0]["text"],
        format!("there are no jobs\n[{}]\n[{}]", notes[0], notes[1])
    );
    // An error has the note, too.
    let failed = bare
        .call(
            "exec",
            json!({"command": ["ls"], "description": "Lists files"}),
        )
        .await;
    let said = "[no argument of `exec`, so ignored: `description`]";
    assert!(refusal(&failed).ends_with(said), "{failed}");
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

#[tokio::test]
async fn what_stays_may_be_kept_for_long_and_what_changes_for_a_moment() {
    let mut bare = Bare::new(serve_one());
    for (method, least) in [
        ("server/discover", 60_000),
        ("tools/list", 60_000),
        ("prompts/list", 60_000),
        ("resources/templates/list", 60_000),
        ("resources/list", 1),
    ] {
        let answer = bare.modern(method, json!({}), json!({})).await;
        let result = &answer["result"];
        assert!(
            result["ttlMs"].as_u64().unwrap() >= least,
            "{method}: {answer}"
        );
        assert!(result["cacheScope"].is_string(), "{method}");
        assert_eq!(result["resultType"], "complete", "{method}");
    }
    let read = json!({"uri": "snowglobe://console"});
    let answer = bare.modern("resources/read", read, json!({})).await;
    assert!(answer["result"]["ttlMs"].as_u64().unwrap() > 0, "{answer}");
    let cursor = bare
        .modern("tools/list", json!({"cursor": "x"}), json!({}))
        .await;
    assert_eq!(cursor["error"]["code"], -32602);
}

#[tokio::test]
async fn resources_are_listed_read_and_completed_without_a_boot() {
    let served = serve_one();
    let workspace = served._dir.path().to_owned();
    std::fs::create_dir(workspace.join("source")).unwrap();
    std::fs::write(workspace.join("source/main.rs"), "fn main() {}").unwrap();
    std::fs::write(workspace.join("notes.md"), "notes").unwrap();
    let mut bare = Bare::new(served);
    bare.initialize("2025-11-25").await;
    let listed = bare.ask("resources/list", json!({})).await;
    let uris: Vec<&str> = listed["result"]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["uri"].as_str().unwrap())
        .collect();
    assert_eq!(
        uris[..4],
        [
            "snowglobe://console",
            "snowglobe://snapshots",
            "snowglobe://jobs",
            "snowglobe://workspace/"
        ]
    );
    assert_eq!(uris[4], "snowglobe://network");
    assert!(uris.contains(&"snowglobe://workspace/notes.md"), "{uris:?}");
    let again = bare.ask("resources/list", json!({})).await;
    assert_eq!(listed, again, "the order stays");

    for (uri, says) in [
        ("snowglobe://console", "no VM has booted"),
        ("snowglobe://snapshots", "[]"),
        ("snowglobe://jobs", "[]"),
        ("snowglobe://network", "\"mode\": \"off\""),
    ] {
        let read = bare.ask("resources/read", json!({"uri": uri})).await;
        let text = read["result"]["contents"][0]["text"].as_str();
        assert!(text.is_some_and(|text| text.contains(says)), "{read}");
    }
    for uri in [
        "snowglobe://jobs/job-1",
        "snowglobe://output/1.stdout",
        "snowglobe://snapshots/none",
        "file:///etc/passwd",
    ] {
        let missing = bare.ask("resources/read", json!({"uri": uri})).await;
        assert_eq!(missing["error"]["code"], -32002, "{uri}: {missing}");
        let missing = bare
            .modern("resources/read", json!({"uri": uri}), json!({}))
            .await;
        assert_eq!(missing["error"]["code"], -32602, "{uri}: {missing}");
    }
    // Only the guest reads files, and this one can't boot.
    let unread = bare
        .ask(
            "resources/read",
            json!({"uri": "snowglobe://workspace/notes.md"}),
        )
        .await;
    assert_eq!(unread["error"]["code"], -32603, "{unread}");
    let console = bare
        .ask("resources/read", json!({"uri": "snowglobe://console"}))
        .await;
    let console = console["result"]["contents"][0]["text"].as_str().unwrap();
    assert!(
        console.contains("failed to"),
        "the failure is kept: {console}"
    );

    let complete = |value: &str| {
        json!({"ref": {"type": "ref/resource", "uri": "snowglobe://workspace/{+path}{?offset,limit}"},
               "argument": {"name": "path", "value": value}})
    };
    for (begun, values) in [
        ("so", json!(["source/"])),
        ("source/", json!(["source/main.rs"])),
        ("../", json!([])),
        ("nothing", json!([])),
    ] {
        let completed = bare.ask("completion/complete", complete(begun)).await;
        assert_eq!(
            completed["result"]["completion"]["values"], values,
            "{begun}: {completed}"
        );
    }
}

#[tokio::test]
async fn links_in_the_workspace_lead_nowhere() {
    let served = serve_one();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "").unwrap();
    std::os::unix::fs::symlink(outside.path(), served._dir.path().join("link")).unwrap();
    let mut bare = Bare::new(served);
    bare.initialize("2025-11-25").await;
    let complete = json!({"ref": {"type": "ref/resource", "uri": "snowglobe://workspace/{+path}{?offset,limit}"},
                          "argument": {"name": "path", "value": "link/"}});
    let completed = bare.ask("completion/complete", complete).await;
    assert_eq!(completed["result"]["completion"]["values"], json!([]));
}

#[tokio::test]
async fn changes_are_told_in_both_eras() {
    let served = serve_one();
    let workspace = served._dir.path().to_owned();
    let mut bare = Bare::new(served);
    bare.initialize("2025-11-25").await;
    let uri = "snowglobe://workspace/it.txt";
    assert!(bare.ask("resources/subscribe", json!({"uri": uri})).await["result"].is_object());
    let refused = bare
        .ask("resources/subscribe", json!({"uri": "http://x"}))
        .await;
    assert!(refused["error"].is_object());
    bare.ask("resources/list", json!({})).await;
    std::fs::write(workspace.join("it.txt"), "one").unwrap();
    let (mut updated, mut listed) = (false, false);
    while !(updated && listed) {
        let message = tokio::time::timeout(std::time::Duration::from_secs(20), bare.answer());
        let message = message.await.expect("both changes are told");
        updated |= message["method"] == "notifications/resources/updated"
            && message["params"]["uri"] == uri;
        listed |= message["method"] == "notifications/resources/list_changed";
    }
    let ended = bare.ask("resources/unsubscribe", json!({"uri": uri})).await;
    assert!(ended["result"].is_object(), "{ended}");

    let served = serve_one();
    let workspace = served._dir.path().to_owned();
    let mut bare = Bare::new(served);
    let wanted = json!({"notifications": {"resourceSubscriptions": [uri, "http://x"], "resourcesListChanged": true, "toolsListChanged": true}});
    let acknowledged = bare.modern("subscriptions/listen", wanted, json!({})).await;
    assert_eq!(
        acknowledged["method"], "notifications/subscriptions/acknowledged",
        "{acknowledged}"
    );
    let accepted = &acknowledged["params"]["notifications"];
    assert_eq!(
        accepted["resourceSubscriptions"],
        json!([uri]),
        "{accepted}"
    );
    assert_eq!(
        accepted["toolsListChanged"],
        Value::Null,
        "tools never change"
    );
    // The resource is notified once at the start, and then when it changes.
    let mut told = Value::Null;
    for content in ["one", "and two"] {
        told = bare.heard("notifications/resources/updated").await;
        std::fs::write(workspace.join("it.txt"), content).unwrap();
    }
    assert_eq!(told["params"]["uri"], uri);
    assert_eq!(
        told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1,
        "{told}"
    );
}

#[tokio::test]
async fn prompts_are_filled_in_and_diagnose_looks_at_this_host() {
    let mut bare = Bare::new(serve_one());
    bare.initialize("2025-11-25").await;
    let listed = bare.ask("prompts/list", json!({})).await;
    let prompts = listed["result"]["prompts"].as_array().unwrap();
    assert_eq!(prompts[0]["name"], "try_safely");
    assert_eq!(prompts[1]["name"], "diagnose");
    let text = |answer: &Value| {
        answer["result"]["messages"][0]["content"]["text"]
            .as_str()
            .map(str::to_owned)
    };
    let get =
        json!({"name": "try_safely", "arguments": {"change": "upgrade make", "test": "make -v"}});
    let filled = text(&bare.ask("prompts/get", get).await).unwrap();
    assert!(
        filled.contains("upgrade make") && filled.contains("make -v"),
        "{filled}"
    );
    for (wrong, says) in [
        (json!({"name": "try_safely"}), "`change` is missing"),
        (
            json!({"name": "try_safely", "arguments": {"change": "x", "tests": "y"}}),
            "unknown argument",
        ),
        (json!({"name": "diagnoze"}), "did you mean `diagnose`?"),
    ] {
        let refused = bare.ask("prompts/get", wrong).await;
        assert_eq!(refused["error"]["code"], -32602);
        assert!(
            refused["error"]["message"].as_str().unwrap().contains(says),
            "{refused}"
        );
    }
    bare.call("exec", json!({"command": "true"})).await;
    let diagnosis = text(&bare.ask("prompts/get", json!({"name": "diagnose"})).await).unwrap();
    assert!(diagnosis.contains("engine qemu"), "{diagnosis}");
    assert!(
        diagnosis.contains("The last failure\n```\nfailed to"),
        "{diagnosis}"
    );
}

/// The text of a tool's error.
fn refusal(answer: &Value) -> &str {
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    answer["result"]["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn a_person_is_asked_where_the_client_can_ask() {
    let delete = json!({"name": "snapshot", "arguments": {"action": "delete", "name": "gone"}});
    let about = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}},
                       "clientInfo": {"name": "test", "version": "1"}});
    for (action, says) in [
        ("accept", "find the snapshot"),
        ("decline", "declined"),
        ("cancel", "nothing was done"),
    ] {
        let mut bare = Bare::new(serve_confirming(Some(Confirm::Ask)));
        bare.ask("initialize", about.clone()).await;
        let question = bare.ask("tools/call", delete.clone()).await;
        assert_eq!(question["method"], "elicitation/create", "{question}");
        assert!(
            question["params"]["message"]
                .as_str()
                .unwrap()
                .contains("`gone`")
        );
        bare.send(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": action}}))
            .await;
        let answer = bare.answer().await;
        assert!(refusal(&answer).contains(says), "{action}: {answer}");
    }
    // A client that can't ask is not waited for, and reading calls need no confirmation.
    let mut bare = Bare::new(serve_confirming(Some(Confirm::Ask)));
    bare.initialize("2025-11-25").await;
    assert!(refusal(&bare.ask("tools/call", delete.clone()).await).contains("find the snapshot"));
    let mut bare = Bare::new(serve_confirming(Some(Confirm::Require)));
    bare.initialize("2025-11-25").await;
    assert!(refusal(&bare.ask("tools/call", delete).await).contains("can't ask one"));
    // The spelling of the action makes no difference.
    let restore = json!({"action": "Restore", "name": "gone", "sessionId": 1});
    assert!(refusal(&bare.call("snapshot", restore).await).contains("can't ask one"));
    let list = bare.call("snapshot", json!({"action": "list"})).await;
    assert_eq!(list["result"]["structuredContent"]["snapshots"], json!([]));
    assert!(refusal(&bare.call("reboot", json!({})).await).contains("can't ask one"));
}

#[tokio::test]
async fn in_the_later_era_the_question_is_a_result() {
    let mut bare = Bare::new(serve_confirming(Some(Confirm::Ask)));
    let can = json!({"elicitation": {"form": {}}});
    let delete = json!({"name": "snapshot", "arguments": {"action": "delete", "name": "gone"}});
    let asked = bare.modern("tools/call", delete.clone(), can.clone()).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    assert_eq!(
        result["inputRequests"]["confirm"]["method"],
        "elicitation/create"
    );
    let mut again = delete.clone();
    again["requestState"] = result["requestState"].clone();
    again["inputResponses"] = json!({"confirm": {"action": "accept", "content": {}}});
    let mut other = again.clone();
    other["arguments"]["name"] = "precious".into();
    let refused = bare.modern("tools/call", other, can.clone()).await;
    assert!(
        refusal(&refused).contains("not the one this call was given"),
        "{refused}"
    );
    let done = bare.modern("tools/call", again.clone(), can.clone()).await;
    assert!(refusal(&done).contains("find the snapshot"), "{done}");
    let replayed = bare.modern("tools/call", again, can).await;
    assert!(refusal(&replayed).contains("used already"), "{replayed}");
    let silent = bare.modern("tools/call", delete, json!({})).await;
    assert!(refusal(&silent).contains("find the snapshot"), "{silent}");
}
