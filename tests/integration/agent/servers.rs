//! The agent's servers: the sandbox that is lost and found again, and those of `mcp.json`.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};

use super::scripted::{Answer, ScriptedModel};
use super::task::{Desk, results};
use crate::common::http::serve_http;
use crate::common::{Place, SOON, eventually, lossy};

/// A server of the older protocol, as a program.
const NOTES: &str = r#"#!/bin/sh
echo "notes: $WORD" >&2
while IFS= read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"server/discover"'*) answer='"error":{"code":-32601,"message":"unknown"}' ;;
    *'"initialize"'*) answer='"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"notes","version":"1"},"instructions":"Keep notes."}' ;;
    *'"tools/list"'*) answer='"result":{"tools":[{"name":"remember","description":"Remembers","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) answer='"result":{"content":[{"type":"text","text":"remembered"}]}' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$answer"
done
sleep 4322 &
wait
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sandbox_is_started_anew_and_other_servers_are_used() {
    let model = ScriptedModel::start(vec![
        Answer::call("notes__remember", json!({"what": "this"}))
            .and_call("exec", json!({"command": "touch begun; sleep 4321"})),
        Answer::call("exec", json!({"command": "echo again"})),
        Answer::text("Done."),
    ]);
    let desk = Desk::new("chat", "", model);
    let home = desk.place.dir.path();
    let notes = home.join("notes");
    std::fs::write(&notes, NOTES).unwrap();
    std::fs::set_permissions(&notes, PermissionsExt::from_mode(0o755)).unwrap();
    let servers = json!({"mcpServers": {
        "notes": {"command": notes, "env": {"WORD": "${HERE_KEY}"}},
        "gone": {"command": "/no/such/server"},
        "snowglobe": {"command": "snowglobe", "args": ["serve"]},
    }});
    std::fs::write(home.join("config/snowglobe/mcp.json"), servers.to_string()).unwrap();
    let evil = json!({"mcpServers": {"evil": {"command": "touch", "args": [home.join("evil")]}}});
    std::fs::write(desk.place.workspace.join(".mcp.json"), evil.to_string()).unwrap();
    let kept = desk.allows_for_ever(json!([{"server": "notes__remember"}]));
    let child = desk.start(&["--json", "-p", "go"]);
    let begun = desk.place.workspace.join("begun");
    eventually("the command runs", || begun.exists()).await;
    let (status, _, err) = desk.place.run(&["stop"]).await;
    assert_eq!(status, 0, "{err}");
    let done = tokio::time::timeout(SOON, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let (out, err) = (lossy(&done.stdout), lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{out}{err}");
    let asked = desk.model.requests();
    let first = asked[0].body.to_string();
    assert!(
        first.contains("Keep notes.") && first.contains("notes__remember"),
        "{first}"
    );
    let results = results(&asked[2]);
    assert!(results[0].contains("remembered"), "{results:?}");
    assert!(results[2].contains("again"), "{results:?}");
    let notices: Vec<String> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["type"] == "notice")
        .map(|event| event.to_string())
        .collect();
    for notice in [
        ".mcp.json does not count",
        "/no/such/server",
        "is Snowglobe itself",
    ] {
        assert!(
            notices.iter().any(|said| said.contains(notice)),
            "{notice}: {out}{err}"
        );
    }
    assert!(
        !home.join("evil").exists() && !err.contains("notes:"),
        "{err}"
    );
    // The program has ended with its children.
    eventually("the server's child has ended", || !runs("sleep 4322")).await;
    let log = std::fs::read_to_string(kept.join("servers/notes.log")).unwrap();
    assert!(log.contains("notes: a-secret-key"), "{log}");
    std::fs::remove_dir_all(kept).unwrap();
}

/// Snowglobe's own server over HTTP, and others: with the right token, and with none.
#[tokio::test(flavor = "multi_thread")]
async fn servers_over_http_are_used() {
    let served = serve_http(&[]).await;
    let url = format!("http://{}/mcp", served.address);
    let model = ScriptedModel::start(vec![
        Answer::call("snapshot", json!({"action": "list"}))
            .and_call("other__snapshot", json!({"action": "list"})),
        Answer::text("Done."),
    ]);
    let desk = Desk::new("chat", "", model);
    let servers = json!({"mcpServers": {
        "other": {"type": "http", "url": url, "headers": {"Authorization": served.bearer()}},
        "closed": {"url": url},
    }});
    let home = desk.place.dir.path();
    std::fs::write(home.join("config/snowglobe/mcp.json"), servers.to_string()).unwrap();
    let token = home.join("token");
    std::fs::write(&token, format!("{}\n", served.token)).unwrap();
    let token = token.to_string_lossy();
    let flags = ["--json", "--url", &url, "--token-file", &token, "-p", "go"];
    let run = desk.command(&flags).stdin(Stdio::null()).output();
    let done = tokio::time::timeout(SOON, run).await.unwrap().unwrap();
    let (out, err) = (lossy(&done.stdout), lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{out}{err}");
    assert!(!out.contains(&served.token) && !err.contains(&served.token));
    assert!(
        out.contains("failed to connect to the server closed: "),
        "{out}"
    );
    let asked = desk.model.requests();
    assert!(asked[0].body.to_string().contains("other__exec"));
    let results = results(&asked[1]);
    assert!(results[0].contains("no snapshots"), "{results:?}");
    // What runs on another server is asked about, and nobody is there to answer.
    assert!(results[1].contains("did not allow this"), "{results:?}");
    served.runs_none().await;
}

/// Whether a process has this command line.
fn runs(command: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| lossy(&line).replace('\0', " ").trim() == command)
}

/// What the project's file names is used once it was allowed, and only with that content.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_s_servers_are_shown_before_they_are_allowed() {
    let place = Place::new("debian");
    let file = place.workspace.join(".mcp.json");
    let (status, _, err) = place.run(&["allow", "--yes"]).await;
    assert!(status != 0 && err.contains(".mcp.json"), "{err}");
    std::fs::write(
        &file,
        r#"{"mcpServers": {"s": {"command": "snowglobe", "args": ["serve"]}}}"#,
    )
    .unwrap();
    let (status, _, err) = place.run(&["allow", "--yes"]).await;
    assert!(status != 0 && err.contains("asks for nothing"), "{err}");
    std::fs::write(
        &file,
        r#"{"mcpServers": {"files": {"command": "npx", "args": ["-y", "${TOKEN}"]}}}"#,
    )
    .unwrap();
    let data = place.dir.path().join("data").display().to_string();
    let (status, _, err) = place.run(&["allow", "--yes", "--data-dir", &data]).await;
    assert_eq!(status, 0, "{err}");
    let (_, _, err) = place.run(&["allow", "--revoke", "--data-dir", &data]).await;
    assert!(err.contains("is allowed no longer"), "{err}");
    let (status, _, err) = place.run(&["allow", "--data-dir", &data]).await;
    assert!(
        status != 0 && err.contains(r#"files: runs "npx" "-y" "${TOKEN}" on this machine"#),
        "{err}"
    );
}
