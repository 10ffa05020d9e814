//! Several sandboxes of one server over HTTP.

use serde_json::{Value, json};

use crate::common::http::serve_http;
use crate::common::{Place, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_over_http_are_bounded_and_idle_ones_are_stopped() {
    let served = serve_http(&["--max-sandboxes", "1", "--idle-stop-s", "2"]).await;
    let bearer = served.bearer();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "exec"),
    ];
    let tool = async |name: &'static str, arguments: Value| -> String {
        let mut headers = headers;
        headers[5] = ("Mcp-Name", name);
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": name, "arguments": arguments, "_meta": meta}});
        served
            .request("POST", "/mcp", &headers, &body.to_string())
            .await
            .1
    };
    let call = async |arguments: Value| -> String { tool("exec", arguments).await };
    let first = call(json!({"command": "echo hello"})).await;
    assert!(first.contains("sb-") && first.contains("hello"), "{first}");
    let full = call(json!({"command": "echo hello"})).await;
    assert!(full.contains("runs 1 at most"), "{full}");
    let start = first.find("sb-").unwrap();
    let handle = first[start..start + 35].to_owned();
    let same = call(json!({"command": "echo same", "sandbox": handle})).await;
    assert!(same.contains("same\\n"), "{same}");
    let resource = async |uri: &str| -> String {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri, "_meta": meta}});
        let mut headers = headers;
        headers[4] = ("Mcp-Method", "resources/read");
        headers[5] = ("Mcp-Name", uri);
        served
            .request("POST", "/mcp", &headers, &body.to_string())
            .await
            .1
    };
    let console = resource(&format!("snowglobe://console?sandbox={handle}")).await;
    assert!(console.contains("snowglobe-init"), "{console}");
    let nowhere = resource("snowglobe://console").await;
    assert!(nowhere.contains("does not name a sandbox"), "{nowhere}");
    // The handle survives its sandbox; the next call reports once, in both forms, what was lost.
    served.runs_none().await;
    let look = json!({"command": "cat /tmp/mark || touch /tmp/mark", "sandbox": handle});
    let lost = "was stopped after 2.00 s without a call";
    let again = call(look.clone()).await;
    assert_eq!(again.matches(lost).count(), 2, "{again}");
    assert!(
        again.contains("the image `minimal` has it") && again.contains("No such file"),
        "{again}"
    );
    let told = call(look).await;
    assert!(
        !told.contains(lost) && !told.contains("No such file"),
        "{told}"
    );
    let unknown = call(json!({"command": "true", "sandbox": "sb-0"})).await;
    assert!(
        unknown.contains("there is none with this handle"),
        "{unknown}"
    );

    let save = json!({"action": "save", "name": "mine", "sandbox": handle});
    let saved = tool("snapshot", save).await;
    assert!(saved.contains("saved `mine`"), "{saved}");

    // A session survives, too; its client need not know about sandboxes.
    served.runs_none().await;
    let (status, opened) = served.initialize(&[headers[0]]).await;
    assert_eq!(status, 200, "{opened}");
    let id = opened
        .lines()
        .find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id"))
        })
        .map(|(_, id)| id.trim().to_owned())
        .expect("a session");
    let in_session = [
        headers[0],
        headers[1],
        headers[2],
        ("Mcp-Session-Id", id.as_str()),
    ];
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    assert_eq!(
        served.request("POST", "/mcp", &in_session, &ready).await.0,
        202
    );
    let exec = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": {"name": "exec", "arguments": {"command": "echo in session"}}})
    .to_string();
    for round in 0..2 {
        let (status, done) = served.request("POST", "/mcp", &in_session, &exec).await;
        assert_eq!(status, 200, "{done}");
        assert!(done.contains("in session\\n"), "{done}");
        assert_eq!(done.matches(lost).count(), round * 2, "{done}");
        // It can't see another client's snapshots.
        for (action, says) in [
            ("list", "no snapshots are saved"),
            ("restore", "there are none yet"),
            ("delete", "there are none yet"),
        ] {
            let name = (action != "list").then_some("mine");
            let body = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call",
                "params": {"name": "snapshot", "arguments": {"action": action, "name": name}}});
            let (_, said) = served
                .request("POST", "/mcp", &in_session, &body.to_string())
                .await;
            assert!(said.contains(says), "{action}: {said}");
        }
        served.runs_none().await;
    }
    // The client that saved the snapshot still finds it after its sandbox was stopped.
    let restore = json!({"action": "restore", "name": "mine", "sandbox": handle});
    let restored = tool("snapshot", restore).await;
    assert!(restored.contains("restored `mine`"), "{restored}");
    let look = json!({"command": "cat /tmp/mark && echo as saved", "sandbox": handle});
    let there = call(look).await;
    assert!(there.contains("as saved\\n"), "{there}");
    let (_, listed, err) = served.place.run(&["snapshot", "list"]).await;
    assert!(
        err.contains("no snapshots") && listed.is_empty(),
        "{listed}"
    );
    let stores = || {
        let all = Place::data_dir().join("sandboxes").read_dir().unwrap();
        let of_server = format!("{}@", served.place.name());
        let names = all.flatten().map(|entry| entry.file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with(&of_server))
            .count()
    };
    assert_eq!(stores(), 2, "the session's, and the handle's");
    let (status, _) = served.request("DELETE", "/mcp", &in_session, "").await;
    assert!((200..300).contains(&status), "{status}");
    eventually("the session's snapshots go with it", || stores() == 1).await;
    let stopping = tokio::process::Command::new("kill")
        .arg(served.server.id().unwrap().to_string())
        .status();
    assert!(stopping.await.unwrap().success());
    eventually("the server's go with it", || stores() == 0).await;
}
