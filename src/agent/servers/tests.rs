//! Servers of every kind, most of them bad ones, in this process. Those with a machine are in the integration tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::event::{Event, FieldKind, Lasting, Reply, SandboxState};
use super::super::message::{Call, CallResult, Content};
use super::all::Servers;
use super::connect::Target;

/// A server's end of a connection.
struct Peer {
    from: BufReader<ReadHalf<DuplexStream>>,
    to: WriteHalf<DuplexStream>,
    /// Whether it speaks the newest protocol.
    modern: bool,
    tools: Value,
}

impl Peer {
    async fn say(&mut self, message: Value) {
        let line = format!("{message}\n");
        // The client may have gone.
        self.to.write_all(line.as_bytes()).await.ok();
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        let id = request["id"].clone();
        self.say(json!({"jsonrpc": "2.0", "id": id, "result": result}))
            .await;
    }

    async fn answer_text(&mut self, request: &Value, text: &str) {
        let mut result = json!({"content": [{"type": "text", "text": text}]});
        if self.modern {
            result["resultType"] = "complete".into();
        }
        self.answer(request, result).await;
    }

    async fn progress(&mut self, request: &Value, at: usize, message: &str) {
        let token = request["params"]["_meta"]["progressToken"].clone();
        let params = json!({"progressToken": token, "progress": at, "message": message});
        self.say(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
            .await;
    }

    /// The next message that is not answered in the same way by every server.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let message: Value = serde_json::from_str(&line).unwrap();
            let capabilities = json!({"tools": {"listChanged": true}, "prompts": {}});
            match message["method"].as_str() {
                Some("server/discover") if self.modern => {
                    let result = json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities,
                        "instructions": "Be modern.", "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
                    self.answer(&message, result).await;
                }
                Some("server/discover") => {
                    let error = json!({"code": -32601, "message": "Method not found"});
                    let id = message["id"].clone();
                    self.say(json!({"jsonrpc": "2.0", "id": id, "error": error}))
                        .await;
                }
                Some("initialize") => {
                    let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
                        "serverInfo": {"name": "test", "version": "1"}, "instructions": "Be kind."});
                    self.answer(&message, result).await;
                }
                Some("notifications/initialized" | "subscriptions/listen") => {}
                Some("tools/list") => {
                    let mut result = json!({"tools": self.tools});
                    if self.modern {
                        result["resultType"] = "complete".into();
                    }
                    self.answer(&message, result).await;
                }
                _ => return Some(message),
            }
        }
    }
}

fn tools(names: &[&str]) -> Value {
    let tool = |name: &&str| json!({"name": name, "description": "does it", "inputSchema": {"type": "object"}});
    names.iter().map(tool).collect()
}

/// A server that serves each connection in this way.
fn server<F, S>(modern: bool, tools: Value, serve: S) -> Target
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Peer) -> F + Send + Sync + 'static,
{
    Target::Test(Box::new(move || {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (from, to) = tokio::io::split(theirs);
        tokio::spawn(serve(Peer {
            from: BufReader::new(from),
            to,
            modern,
            tools: tools.clone(),
        }));
        ours
    }))
}

type Reported = mpsc::UnboundedReceiver<Event>;

/// These servers, the first of which takes the place of Snowglobe's own.
fn servers(targets: Vec<(&str, Target)>) -> (Arc<Servers>, Reported) {
    let (reports, reported) = mpsc::unbounded_channel();
    let targets = targets.into_iter();
    let targets = targets.map(|(name, target)| (name.to_owned(), target));
    (Arc::new(Servers::of(targets, &reports)), reported)
}

/// The states of the sandbox that were reported, and the notices.
fn heard(reported: &mut Reported) -> (Vec<SandboxState>, Vec<String>) {
    let (mut states, mut notices) = (Vec::new(), Vec::new());
    while let Ok(event) = reported.try_recv() {
        match event {
            Event::Sandbox(state) => states.push(state),
            Event::Notice(notice) => notices.push(notice),
            other => panic!("{other:?}"),
        }
    }
    (states, notices)
}

async fn call(servers: &Servers, name: &str, arguments: Value) -> CallResult {
    let call = Call {
        id: "1".to_owned(),
        name: name.to_owned(),
        arguments,
    };
    let cancel = CancellationToken::new();
    let made = servers.call(&call, &|_| {}, &cancel);
    tokio::time::timeout(Duration::from_secs(120), made)
        .await
        .unwrap()
}

fn text(result: &CallResult) -> &str {
    match result.content.first() {
        Some(Content::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Echoes each call's arguments.
async fn echo(mut peer: Peer) {
    while let Some(message) = peer.next().await {
        if message["method"] == "tools/call" {
            let said = message["params"].clone();
            let said = json!([said["name"], said["arguments"]]).to_string();
            peer.answer_text(&message, &said).await;
        }
    }
}

#[tokio::test]
async fn tools_of_several_servers_are_told_apart() {
    let long = "x".repeat(100);
    let other = tools(&["exec", &long, "strange name!"]);
    let targets = vec![
        ("", server(true, tools(&["exec", "read"]), echo)),
        ("web", server(false, other, echo)),
        ("dead", server(false, json!([]), |_| async {})),
    ];
    let (servers, mut reported) = servers(targets);
    let listed = servers.tools().await;
    let names: Vec<&str> = listed.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names[..3], ["exec", "read", "web__exec"]);
    assert!(names[3].len() <= 64 && names[4] == "web__strange_name_");
    assert!(!servers.is_foreign("exec") && servers.is_foreign("web__exec"));
    let (_, notices) = heard(&mut reported);
    assert!(
        notices.len() == 1 && notices[0].starts_with("failed to connect to the server dead: "),
        "{notices:?}"
    );
    assert_eq!(
        text(&call(&servers, "exec", json!({"a": 1})).await),
        r#"["exec",{"a":1}]"#
    );
    assert_eq!(
        text(&call(&servers, names[3], json!(null)).await),
        format!("[\"{long}\",{{}}]")
    );
    assert_eq!(
        servers.instructions().await,
        "Be modern.\n\n# The server web\n\nBe kind."
    );
    // What is no call is not made.
    let wrong = call(&servers, "exec", json!("{\"a\": 1")).await;
    assert!(
        wrong.is_error && text(&wrong).ends_with("They were:\n{\"a\": 1"),
        "{wrong:?}"
    );
    let wrong = call(&servers, "exce", json!({})).await;
    assert!(
        wrong.is_error && text(&wrong).contains("did you mean `exec`?"),
        "{wrong:?}"
    );
    servers.close().await;
    let after = call(&servers, "exec", json!({})).await;
    assert!(
        after.is_error && text(&after).contains("Nothing was done"),
        "{after:?}"
    );
    // A notice of a failure is not repeated at each step.
    let (_, notices) = heard(&mut reported);
    assert!(notices.is_empty(), "{notices:?}");
}

#[tokio::test]
async fn the_states_of_the_sandbox_are_reported() {
    let serve = |mut peer: Peer| async move {
        while let Some(message) = peer.next().await {
            peer.progress(&message, 1, "starting the VM").await;
            peer.progress(&message, 2, "booting the guest").await;
            // Progress is handled beside the answer.
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.answer_text(&message, "done").await;
        }
    };
    let (servers, mut reported) = servers(vec![("", server(true, tools(&["exec"]), serve))]);
    servers.tools().await;
    call(&servers, "exec", json!({})).await;
    let (states, _) = heard(&mut reported);
    assert_eq!(
        states,
        [
            SandboxState::Connecting,
            SandboxState::Booting,
            SandboxState::Running
        ]
    );
}

#[tokio::test]
async fn a_flood_of_progress_neither_fills_the_memory_nor_stops_the_call() {
    let serve = |mut peer: Peer| async move {
        while let Some(message) = peer.next().await {
            for at in 0..20_000 {
                peer.progress(&message, at, &"x".repeat(1000)).await;
            }
            peer.answer_text(&message, "done").await;
        }
    };
    let (servers, _reported) = servers(vec![("", server(false, tools(&["exec"]), serve))]);
    let lines = AtomicUsize::new(0);
    let count = |line: String| {
        assert!(line.len() <= 500);
        lines.fetch_add(1, Ordering::Relaxed);
    };
    let made = Call {
        id: "1".to_owned(),
        name: "exec".to_owned(),
        arguments: json!({}),
    };
    let result = servers.call(&made, &count, &CancellationToken::new()).await;
    assert_eq!(text(&result), "done");
    assert!(lines.into_inner() > 0);
}

#[tokio::test]
async fn a_message_without_end_ends_the_connection_and_the_next_call_makes_another() {
    let connections = Arc::new(AtomicUsize::new(0));
    let serve = move |mut peer: Peer| {
        let first = connections.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            while let Some(message) = peer.next().await {
                peer.to
                    .write_all(b"this is no JSON\n{\"jsonrpc\": 1}\n\xff\xfe\n")
                    .await
                    .ok();
                // A gigabyte, if it is read.
                let piece = vec![b'x'; 1 << 20];
                let mut sent = 0;
                while first && sent < 1024 && peer.to.write_all(&piece).await.is_ok() {
                    sent += 1;
                }
                assert!(sent < 64, "{sent} MiB were read");
                peer.answer_text(&message, "done").await;
            }
        }
    };
    let (servers, mut reported) = servers(vec![("", server(false, tools(&["exec"]), serve))]);
    let lost = call(&servers, "exec", json!({})).await;
    assert!(
        lost.is_error && text(&lost).contains("longer than 16 MiB"),
        "{lost:?}"
    );
    assert!(text(&lost).contains("unknown"), "{lost:?}");
    assert_eq!(text(&call(&servers, "exec", json!({})).await), "done");
    let (states, _) = heard(&mut reported);
    assert!(
        matches!(&states[1], SandboxState::Lost(why) if why.contains("16 MiB")),
        "{states:?}"
    );
    assert_eq!(
        states[2..],
        [SandboxState::Connecting, SandboxState::Running]
    );
}

#[tokio::test]
async fn a_connection_that_ends_during_a_call_leaves_its_outcome_unknown() {
    let serve = |mut peer: Peer| async move {
        drop(peer.next().await);
    };
    let (servers, _reported) = servers(vec![("", server(true, tools(&["exec"]), serve))]);
    for _ in 0..3 {
        let lost = call(&servers, "exec", json!({})).await;
        assert!(
            lost.is_error && text(&lost).contains("the connection was closed"),
            "{lost:?}"
        );
        assert!(
            text(&lost).contains("look before you repeat it"),
            "{lost:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_is_ended_and_so_is_one_that_is_interrupted() {
    let (heard, mut cancelled) = mpsc::unbounded_channel();
    let serve = move |mut peer: Peer| {
        let heard = heard.clone();
        async move {
            while let Some(message) = peer.next().await {
                if message["method"] == "notifications/cancelled" {
                    heard.send(message["params"]["requestId"].clone()).ok();
                }
            }
        }
    };
    let (servers, _reported) = servers(vec![("", server(false, tools(&["exec"]), serve))]);
    servers.tools().await;
    let made = Call {
        id: "1".to_owned(),
        name: "exec".to_owned(),
        arguments: json!({}),
    };
    let silent = servers
        .call(&made, &|_| {}, &CancellationToken::new())
        .await;
    assert!(
        silent.is_error && text(&silent).contains("for 10m"),
        "{silent:?}"
    );
    assert!(cancelled.recv().await.is_some());
    let cancel = CancellationToken::new();
    let (interrupted, ()) = tokio::join!(servers.call(&made, &|_| {}, &cancel), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    assert!(
        interrupted.is_error && text(&interrupted).contains("interrupted"),
        "{interrupted:?}"
    );
    assert!(cancelled.recv().await.is_some());
}

#[tokio::test]
async fn new_tools_are_seen_and_a_gigantic_one_is_left_out() {
    let serve = |mut peer: Peer| async move {
        let gigantic = "x".repeat(200_000);
        while let Some(message) = peer.next().await {
            peer.tools = tools(&["exec", "more"]);
            peer.tools[0]["inputSchema"]["description"] = gigantic.as_str().into();
            peer.say(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
                .await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.answer_text(&message, "changed").await;
        }
    };
    let (servers, mut reported) = servers(vec![("", server(false, tools(&["exec"]), serve))]);
    assert_eq!(servers.tools().await.len(), 1);
    call(&servers, "exec", json!({})).await;
    for _ in 0..2 {
        let listed = servers.tools().await;
        assert!(listed.len() == 1 && listed[0].name == "more", "{listed:?}");
    }
    let (_, notices) = heard(&mut reported);
    assert!(
        notices.len() == 1 && notices[0].contains("the tool \"exec\" of snowglobe is left out"),
        "{notices:?}"
    );
}

fn form() -> Value {
    json!({"mode": "form", "message": "Really?", "requestedSchema": {"type": "object", "required": ["count"],
        "properties": {"count": {"type": "integer", "title": "How many"}}}})
}

/// Answers the questions as is given; drops the question for none.
fn person(mut reported: Reported, answers: Vec<Option<Reply>>) {
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Some(event) = reported.recv().await {
            let Event::Ask(question) = event else {
                continue;
            };
            assert!(question.text.starts_with("Really?") && question.from == "snowglobe");
            assert_eq!(
                (question.fields[0].title.as_str(), &question.fields[0].kind),
                ("How many", &FieldKind::Number(true))
            );
            if let Some(answer) = answers.next().unwrap() {
                question.answer.send(answer).unwrap();
            }
        }
    });
}

fn accept(count: Value) -> Option<Reply> {
    let fields = Map::from_iter([("count".to_owned(), count)]);
    Some(Reply::Accept(fields, Lasting::Once))
}

#[tokio::test]
async fn questions_reach_a_person_in_both_protocols() {
    let older = |mut peer: Peer| async move {
        let mut waiting = json!(null);
        while let Some(message) = peer.next().await {
            if message["method"] == "tools/call" {
                waiting = message;
                peer.say(json!({"jsonrpc": "2.0", "id": 77, "method": "elicitation/create", "params": form()})).await;
            } else {
                let said = message["result"].to_string();
                peer.answer_text(&waiting, &said).await;
            }
        }
    };
    let newer = |mut peer: Peer| async move {
        while let Some(message) = peer.next().await {
            let answers = &message["params"]["inputResponses"];
            if answers.is_null() {
                let asked = json!({"resultType": "input_required", "requestState": "sealed",
                    "inputRequests": {"q": {"method": "elicitation/create", "params": form()}}});
                peer.answer(&message, asked).await;
            } else {
                assert_eq!(message["params"]["requestState"], "sealed");
                let said = answers["q"].to_string();
                peer.answer_text(&message, &said).await;
            }
        }
    };
    for modern in [false, true] {
        let target = match modern {
            false => server(false, tools(&["exec"]), older),
            true => server(true, tools(&["exec"]), newer),
        };
        let (servers, reported) = servers(vec![("", target)]);
        person(reported, vec![accept(json!(3)), Some(Reply::Decline), None]);
        for expected in [
            json!({"action": "accept", "content": {"count": 3}}),
            json!({"action": "decline"}),
            json!({"action": "cancel"}),
        ] {
            let result = call(&servers, "exec", json!({})).await;
            assert_eq!(
                serde_json::from_str::<Value>(text(&result)).unwrap(),
                expected
            );
        }
    }
}

#[tokio::test]
async fn a_prompt_of_a_server_is_found_by_its_name() {
    let serve = |mut peer: Peer| async move {
        while let Some(message) = peer.next().await {
            let said = message["params"].to_string();
            let said = json!({"role": "user", "content": {"type": "text", "text": said}});
            let prompts =
                json!([{"name": "other"}, {"name": "review", "arguments": [{"name": "what"}]}]);
            let result = match message["method"] == "prompts/list" {
                true => json!({"prompts": prompts}),
                false => json!({"messages": [said, said]}),
            };
            peer.answer(&message, result).await;
        }
    };
    let targets = vec![
        ("", server(false, json!([]), serve)),
        ("x y", server(false, json!([]), serve)),
    ];
    let (servers, _reported) = servers(targets);
    servers.tools().await;
    let text = servers.prompt("x_y__review", "all of it").await.unwrap();
    assert!(
        text.contains(r#""arguments":{"what":"all of it"}"#),
        "{text}"
    );
    let wrong = servers.prompt("revue", "").await.unwrap_err();
    assert!(
        wrong.ends_with("are: other, review, x_y__other, x_y__review"),
        "{wrong}"
    );
}

#[tokio::test]
async fn nothing_of_this_machine_is_told() {
    let serve = |mut peer: Peer| async move {
        let mut said = Vec::new();
        let mut waiting = json!(null);
        let questions = [
            ("roots/list", json!({})),
            (
                "sampling/createMessage",
                json!({"messages": [], "maxTokens": 1}),
            ),
            (
                "elicitation/create",
                json!({"mode": "url", "message": "x", "url": "https://example.com/", "elicitationId": "1"}),
            ),
        ];
        while let Some(message) = peer.next().await {
            if message["method"] == "tools/call" {
                waiting = message;
            } else {
                said.push(json!([message["result"], message["error"]["code"]]));
            }
            match questions.get(said.len()) {
                Some((method, params)) => {
                    peer.say(json!({"jsonrpc": "2.0", "id": said.len(), "method": method, "params": params})).await;
                }
                None => {
                    let said = json!(said).to_string();
                    peer.answer_text(&waiting, &said).await;
                }
            }
        }
    };
    let (servers, mut reported) = servers(vec![("", server(false, tools(&["exec"]), serve))]);
    let said = call(&servers, "exec", json!({})).await;
    assert_eq!(
        text(&said),
        r#"[[{"roots":[]},null],[null,-32601],[{"action":"decline"},null]]"#
    );
    let (_, notices) = heard(&mut reported);
    assert!(notices[0].contains("https://example.com/"), "{notices:?}");
}
