//! The MCP surface with a real VM behind it: jobs, edit, search, and HTTP.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::http::serve_http;
use crate::common::{Place, SOON, eventually, soon};
use rmcp::model::ReadResourceRequestParams;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_beside_other_calls_takes_input_and_ends_with_all_its_processes() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let list = json!({"action": "list"});
    assert_eq!(session.call("job", list.clone()).await["jobs"], json!([]));
    assert!(
        place.runtime_dir().read_dir().is_ok()
            && crate::common::descendants(session.pid).is_empty(),
        "listing the jobs must not boot the VM"
    );
    let line = "echo ready; while read line; do echo \"got $line\"; done; exit 4";
    let started = session
        .call(
            "exec",
            json!({"command": line, "background": true, "keep_stdin": true}),
        )
        .await;
    let id = started["job_id"].as_str().expect("it is a job").to_owned();
    assert!(started.get("exit_code").is_none_or(Value::is_null));
    assert_eq!(session.stdout("echo beside").await, "beside\n");
    let send = json!({"action": "input", "id": id, "input": "a\nb\n", "end": true});
    session.call("job", send).await;
    let wait = json!({"action": "wait", "id": id, "offset": 0, "timeout_s": 20});
    let ended = session.call("job", wait).await;
    assert_eq!(ended["jobs"][0]["exit_code"], 4, "{ended}");
    assert_eq!(ended["output"], "ready\ngot a\ngot b\n");
    let next = ended["next_offset"].as_u64().unwrap();
    let rest = json!({"action": "output", "id": id, "offset": next});
    assert_eq!(session.call("job", rest).await["output"], "");

    let line = "(setsid sleep 311 &); sleep 311";
    let started = session
        .call("exec", json!({"command": line, "background": true}))
        .await;
    let id = &started["job_id"];
    let killed = session
        .call("job", json!({"action": "kill", "id": id}))
        .await;
    assert_eq!(killed["jobs"][0]["state"], "killed");
    assert_eq!(session.exec("pidof sleep").await["exit_code"], 1);
    assert_eq!(
        session.call("job", list).await["jobs"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    session.call("reboot", json!({})).await;
    let gone = session
        .error("job", json!({"action": "output", "id": id}))
        .await;
    assert!(gone.contains("reboot"), "{gone}");
    session.close().await;
}

/// The result's note that begins with `begin`; it must exist.
fn note<'a>(result: &'a Value, begin: &str) -> &'a str {
    let notes = result["notes"].as_array().into_iter().flatten();
    let mut notes = notes.filter_map(Value::as_str);
    notes
        .find(|note| note.starts_with(begin))
        .unwrap_or_else(|| panic!("a note {begin:?} in {result}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_shown_as_on_a_terminal_and_arguments_are_read_as_they_were_meant() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    // A title without an end, then an error, then a progress bar.
    let line = "printf '\\033]0;title\\nerror: no such file\\n'; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); \
                printf '%s%% [####      ]\\r' $i; done; printf '\\033[Kdone\\r\\n'; printf '\\033[1mbad\\033[0m' >&2";
    let came = session
        .raw("exec", json!({"command": line, "description": "Shows it"}))
        .await;
    let result = came.structured_content.clone().unwrap();
    let shown = "0;title\nerror: no such file\ndone\n";
    assert_eq!(result["stdout"], shown);
    assert_eq!(result["stderr"], "bad");
    assert_eq!(result["truncated"], false);
    let text = crate::common::text(&came);
    assert!(
        text.starts_with(&format!("{shown}[stderr]\nbad\n[exit code 0")),
        "{text}"
    );
    let ignored = "no argument of `exec`, so ignored: `description`";
    let file = result["stdout_file"].as_str().unwrap();
    let said = format!("stdout is as a terminal shows it in the end; unchanged: {file}, or `raw`");
    for note in [ignored, &said] {
        assert!(text.contains(&format!("[{note}]")), "{text}");
        assert!(
            result["notes"]
                .as_array()
                .unwrap()
                .iter()
                .any(|it| it == note),
            "{result}"
        );
    }
    // The file, the resource and `raw` have the raw bytes.
    let bytes = result["stdout_bytes"].as_u64().unwrap();
    assert_eq!(
        session.stdout(&format!("wc -c <{file}")).await.trim(),
        bytes.to_string()
    );
    let uri = result["stdout_uri"].as_str().unwrap();
    let read = ReadResourceRequestParams::new(uri);
    let read = serde_json::to_value(session.client.read_resource(read).await.unwrap()).unwrap();
    let resource = read["contents"][0]["text"].as_str().unwrap();
    assert!(
        resource.starts_with("\u{1b}]0;title\nerror") && resource.ends_with("\u{1b}[Kdone\r\n")
    );
    let raw = json!({"command": "printf '\\033[1mbold\\r\\n'", "raw": true});
    let raw = session.call("exec", raw).await;
    assert_eq!(raw["stdout"], "\u{1b}[1mbold\r\n");
    assert_eq!(raw.get("notes"), None);
    assert_eq!(session.exec("echo plain").await.get("stdout_file"), None);

    // A job's output is shown in the same way; offsets count raw bytes.
    let bars = json!({"command": "printf '10%%\\r100%%\\r\\n\\033[32mok\\033[0m\\n'", "background": "true"});
    let id = session.call("exec", bars).await["job_id"].clone();
    let wait = json!({"action": "wait", "id": id, "offset": 0, "timeout_s": "20s"});
    let ended = session.call("job", wait).await;
    assert_eq!(ended["output"], "100%\nok\n", "{ended}");
    assert_eq!(ended["next_offset"], 22);
    note(&ended, "output is as a terminal shows it in the end");
    let raw = json!({"action": "output", "id": id, "offset": 0, "raw": true, "limit": 0});
    let raw = session.call("job", raw).await;
    assert_eq!(raw["output"], "10%\r100%\r\n\u{1b}[32mok\u{1b}[0m\n");
    note(&raw, "`limit` was 0");

    // A list is a program and its arguments, also a list that was sent as text.
    let list = json!(["printf", "%s|", "a b", "$HOME", "&"]);
    for command in [list.clone(), list.to_string().into()] {
        let ran = session
            .call(
                "exec",
                json!({"command": command, "env": "{\"A\": 1}", "timeout_s": "0"}),
            )
            .await;
        assert_eq!(ran["stdout"], "a b|$HOME|&|");
        note(&ran, "`timeout_s` was 0, so the default held");
    }
    let absent = session
        .error("exec", json!({"command": ["no-such", "x"]}))
        .await;
    assert!(
        absent.contains("no-such") && absent.contains("so it was run without a shell"),
        "{absent}"
    );
    let refused = session
        .error("exec", json!({"command": "true", "workdir": "/tmp"}))
        .await;
    assert!(refused.contains("did you mean `cwd`?"), "{refused}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_becomes_a_job_if_its_client_gets_no_progress() {
    let place = Place::new("minimal");
    let mut command = place.command(&["serve", "--rm"]);
    command.env("SNOWGLOBE_BACKGROUND_AFTER_S", "2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = command.spawn().unwrap();
    // The library's client always asks for progress, so this client sends plain lines.
    let mut input = server.stdin.take().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut ask = async |method: &str, params: Value| -> Value {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        let line = lines.next_line().await.unwrap().expect("an answer");
        serde_json::from_str::<Value>(&line).unwrap()["result"].clone()
    };
    let about = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    ask("initialize", about).await;
    let exec = |command: &str| json!({"name": "exec", "arguments": {"command": command}});
    ask("tools/call", exec("true")).await;
    let line = "echo early; until [ -e /tmp/go ]; do sleep 0.1; done; echo late";
    let began = Instant::now();
    let result = ask("tools/call", exec(line)).await;
    soon(began);
    let id = &result["structuredContent"]["job_id"];
    assert!(id.is_string(), "{result}");
    assert_eq!(result["structuredContent"]["stdout"], "early\n");
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(id.as_str().unwrap()), "{text}");
    ask("tools/call", exec("touch /tmp/go")).await;
    let offset = &result["structuredContent"]["job_offset"];
    let wait = json!({"action": "wait", "id": id, "offset": offset});
    let ended = ask("tools/call", json!({"name": "job", "arguments": wait})).await;
    assert_eq!(ended["structuredContent"]["output"], "late\n", "{ended}");
    assert_eq!(ended["structuredContent"]["jobs"][0]["exit_code"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_edited_and_searched_in_an_image_without_tools() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    std::fs::write(place.workspace.join("dos.txt"), "one\r\ntwo\r\nthree\r\n").unwrap();
    let edit = json!({"path": "dos.txt", "old_string": "two\nthree", "new_string": "2\n3"});
    let done = session.call("edit", edit.clone()).await;
    assert_eq!(done["replacements"], 1);
    assert!(done["diff"].as_str().unwrap().contains("-two"), "{done}");
    let text = std::fs::read(place.workspace.join("dos.txt")).unwrap();
    assert_eq!(text, b"one\r\n2\r\n3\r\n");
    let refused = session.error("edit", edit).await;
    assert!(refused.contains("not in it"), "{refused}");

    session
        .exec("mkdir -p src && printf 'fn main() {}\\n' >src/main.rs && printf 'fn x' >notes")
        .await;
    let found = session
        .call("search", json!({"pattern": "fn \\w+\\(", "glob": "*.rs"}))
        .await;
    assert_eq!(found["matches"], 1, "{found}");
    assert_eq!(found["lines"][0]["path"], "/workspace/src/main.rs");
    assert_eq!(found["lines"][0]["text"], "fn main() {}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_serves_only_requests_with_the_token_from_allowed_origins() {
    let served = serve_http(&[]).await;
    let bearer = served.bearer();
    let bearer = ("Authorization", bearer.as_str());
    assert_eq!(served.request("GET", "/healthz", &[], "").await.0, 200);
    let (status, answer) = served.initialize(&[]).await;
    assert_eq!(status, 401, "{answer}");
    assert!(
        answer.to_lowercase().contains("www-authenticate: bearer"),
        "{answer}"
    );
    let wrong = ("Authorization", "Bearer 0000000000000000");
    assert_eq!(served.initialize(&[wrong]).await.0, 401);
    assert_eq!(served.initialize(&[bearer]).await.0, 200);
    for (header, value, status) in [
        ("Origin", "http://evil.example.com", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost:6274", 200),
        ("Host", "evil.example.com", 403),
        ("Host", "localhost:80", 200),
    ] {
        let (got, answer) = served.initialize(&[bearer, (header, value)]).await;
        assert_eq!(got, status, "{header}: {value}: {answer}");
    }
    let session = ("Mcp-Session-Id", "no-such-session");
    let (status, _) = served.initialize(&[bearer, session]).await;
    assert!((400..500).contains(&status), "{status}");
    let accept = ("Accept", "application/json, text/event-stream");
    let kind = ("Content-Type", "application/json");
    let (status, _) = served
        .request("POST", "/mcp", &[bearer, accept, kind], "{\"a\":")
        .await;
    assert!((400..500).contains(&status), "{status}");
    assert_eq!(served.request("GET", "/healthz", &[], "").await.0, 200);

    let mut server = served.server;
    let pid = rustix::process::Pid::from_raw(server.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), server.wait()).await;
    assert!(ended.expect("it ends in time").unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("minimal");
    let file = place.dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef0123").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let path = file.to_string_lossy();
    let (code, _, said) = place
        .run(&["serve", "--http", "127.0.0.1:0", "--token-file", &path])
        .await;
    assert_eq!(code, 125, "{said}");
    assert!(said.contains("chmod 600"), "{said}");
    let (code, _, said) = place
        .run(&["serve", "--http", "0.0.0.0:0", "--no-token"])
        .await;
    assert_eq!(code, 125);
    assert!(said.contains("without a token"), "{said}");
}

/// A flood of clients without the token: connections without a request, requests as fast as they are refused,
/// bodies that never end, answers that are never read.
async fn besiege(
    address: &str,
    stop: &tokio_util::sync::CancellationToken,
) -> Vec<tokio::task::JoinHandle<u64>> {
    let connect = {
        let address = address.to_owned();
        move || tokio::net::TcpStream::connect(address.clone())
    };
    let head = format!("Host: {address}\r\nContent-Type: application/json\r\n");
    let flood = format!(
        "POST /mcp HTTP/1.1\r\n{head}Authorization: Bearer wrong\r\nContent-Length: 0\r\n\r\n"
    );
    let slow = format!("POST /mcp HTTP/1.1\r\n{head}Content-Length: 60000000\r\n\r\n");
    let unread = format!("GET /healthz HTTP/1.1\r\n{head}\r\n").repeat(500);
    let mut attackers = Vec::new();
    for number in 0..600 {
        let (connect, stop) = (connect.clone(), stop.clone());
        let (says, drips, again) = match number {
            0..8 => (flood.clone(), false, true),
            8..40 => (slow.clone(), true, false),
            40..70 => (unread.clone(), false, false),
            _ => (String::new(), false, false),
        };
        let attack = async move {
            let mut connected = 0;
            while let Ok(mut stream) = connect().await {
                connected += 1;
                let _ = stream.write_all(says.as_bytes()).await;
                while drips && stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if again {
                    let mut answer = [0; 1024];
                    while stream.write_all(says.as_bytes()).await.is_ok()
                        && matches!(
                            tokio::io::AsyncReadExt::read(&mut stream, &mut answer).await,
                            Ok(1..)
                        )
                    {}
                } else {
                    // Keeps the connection until the server closes it, then opens another.
                    let _ = stream.readable().await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            connected
        };
        attackers.push(tokio::spawn(async move {
            stop.run_until_cancelled_owned(attack).await.unwrap_or(0)
        }));
    }
    attackers
}

/// The head of an answer on a kept connection; reads the body, too.
async fn kept_answer(stream: &mut BufReader<tokio::net::TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(
            stream.read_line(&mut head).await.unwrap() > 0,
            "closed: {head}"
        );
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body: Vec<u8> = vec![0; length.expect("a length")];
    tokio::io::AsyncReadExt::read_exact(stream, &mut body)
        .await
        .unwrap();
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_the_token_do_not_block_those_with_it() {
    let served = serve_http(&["--metrics"]).await;
    let bearer = served.bearer();
    let token = [("Authorization", bearer.as_str())];
    let kept = tokio::net::TcpStream::connect(&served.address)
        .await
        .unwrap();
    let mut kept = BufReader::new(kept);
    let stop = tokio_util::sync::CancellationToken::new();
    let attackers = besiege(&served.address, &stop).await;
    // The flood has begun: a client without the token is refused, if it is accepted at all.
    let until = Instant::now() + Duration::from_secs(30);
    while !served.is_refused().await {
        assert!(Instant::now() < until, "the flood was not refused");
    }
    // Once on a kept connection, which the flood can't close, and once on a new one. The client retries if a new
    // connection was closed before an answer: on such a busy machine its request may come too late.
    let head = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\n\r\n",
        served.address
    );
    let (mut took, mut again) = (Vec::new(), 0);
    for _ in 0..200 {
        let began = Instant::now();
        kept.write_all(head.as_bytes()).await.unwrap();
        assert!(kept_answer(&mut kept).await.starts_with("HTTP/1.1 200"));
        took.push(began.elapsed());
        let began = Instant::now();
        let (status, answer) = loop {
            match served.try_initialize(&token).await {
                Some(answered) => break answered,
                None => again += 1,
            }
        };
        assert_eq!(status, 200, "{answer}");
        took.push(began.elapsed());
    }
    stop.cancel();
    for attacker in attackers {
        attacker.await.unwrap();
    }
    took.sort();
    let (median, p99, longest) = (took[200], took[396], took[399]);
    eprintln!(
        "while besieged: median {median:?}, p99 {p99:?}, longest {longest:?}, tried again {again}"
    );
    assert!(
        again < 20,
        "a new connection is seldom closed before its request comes: {again}"
    );
    assert!(longest < SOON, "{took:?}");
    let (status, answer) = served.request("GET", "/healthz", &token, "").await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_socket_needs_no_token() {
    let place = Place::new("minimal");
    let path = place.dir.path().join("mcp.sock");
    let at = format!("unix:{}", path.display());
    let mut server = place.command(&["serve", "--http", &at]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let said = lines.next_line().await.unwrap().unwrap_or_default();
    let said = match said.contains("WARN") {
        true => lines.next_line().await.unwrap().unwrap_or_default(),
        false => said,
    };
    assert_eq!(said, format!("serving MCP at http://localhost/mcp on {at}"));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let ask = async |host: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
        .to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await;
        answer
    };
    let answer = ask("localhost").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("snowglobe"),
        "{answer}"
    );
    assert!(ask("evil.example").await.starts_with("HTTP/1.1 403"));
    let kill = tokio::process::Command::new("kill")
        .arg(server.id().unwrap().to_string())
        .status();
    assert!(kill.await.unwrap().success());
    server.wait().await.unwrap();
    assert!(!path.exists(), "the socket must be removed with its server");
}

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
    let idle = async || {
        let until = Instant::now() + Duration::from_secs(20);
        let empty = async || {
            let health = served.request("GET", "/healthz", &[], "").await;
            health.1.contains("sandboxes 0")
        };
        while !empty().await {
            assert!(Instant::now() < until, "the idle sandbox was not stopped");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // The handle survives its sandbox; the next call reports once, in both forms, what was lost.
    idle().await;
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
    idle().await;
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
        idle().await;
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

/// A resource's first content.
async fn resource(session: &crate::common::Session, uri: &str) -> Value {
    let params = ReadResourceRequestParams::new(uri);
    let read = session.client.read_resource(params).await.unwrap();
    serde_json::to_value(&read.contents[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_jobs_files_and_the_console_are_resources() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let long = session.exec("seq 1 20000").await;
    let uri = long["stdout_uri"]
        .as_str()
        .expect("the whole of it has an address");
    let whole = resource(&session, uri).await;
    let text = whole["text"].as_str().unwrap();
    assert!(
        text.starts_with("1\n2\n") && text.ends_with("\n20000\n"),
        "{}",
        text.len()
    );
    let part = resource(&session, &format!("{uri}?offset=2&limit=4")).await;
    assert_eq!(part["text"], "2\n3\n");
    assert_eq!(
        part["_meta"]["snowglobe/next"],
        format!("{uri}?offset=6&limit=4")
    );
    assert_eq!(part["_meta"]["snowglobe/size"], text.len());

    std::fs::write(place.workspace.join("it é.txt"), "content").unwrap();
    let file = resource(&session, "snowglobe://workspace/it%20%C3%A9.txt").await;
    assert_eq!(file["text"], "content");
    let entries = resource(&session, "snowglobe://workspace/").await;
    assert!(
        entries["text"].as_str().unwrap().contains("it é.txt"),
        "{entries}"
    );
    let console = resource(&session, "snowglobe://console").await;
    assert!(
        console["text"].as_str().unwrap().contains("snowglobe-init"),
        "{console}"
    );

    let line = json!({"command": "echo begun; read line; echo \"got $line\"", "background": true,
        "keep_stdin": true});
    let job = session.call("exec", line).await;
    let uri = job["job_uri"].as_str().unwrap();
    let send = json!({"action": "input", "id": job["job_id"], "input": "more\n", "end": true});
    session.call("job", send).await;
    session
        .call("job", json!({"action": "wait", "id": job["job_id"]}))
        .await;
    assert_eq!(resource(&session, uri).await["text"], "begun\ngot more\n");
    let listed = session.client.list_all_resources().await.unwrap();
    assert!(listed.iter().any(|listed| listed.uri == uri), "{listed:?}");
    session.call("reboot", json!({})).await;
    // Under another address, since the client caches what it read for a moment.
    let again = ReadResourceRequestParams::new(format!("{uri}?offset=0"));
    let gone = session.client.read_resource(again).await;
    assert!(
        gone.unwrap_err().to_string().contains("job"),
        "a job must end with its VM"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_notified_when_a_jobs_output_grows() {
    let place = Place::new("minimal");
    let mut server = place.command(&["serve", "--rm"]);
    let mut server = server
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut ask = async |method: &str, params: Value| {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        loop {
            let line = lines.next_line().await.unwrap().expect("an answer");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["method"].is_string() == (method == "ping") {
                return message;
            }
        }
    };
    let about = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    ask("initialize", about).await;
    let line = "read line; echo $line";
    let arguments = json!({"command": line, "background": true, "keep_stdin": true});
    let exec = json!({"name": "exec", "arguments": arguments});
    let job = ask("tools/call", exec).await["result"]["structuredContent"].clone();
    ask("resources/subscribe", json!({"uri": job["job_uri"]})).await;
    let send = json!({"action": "input", "id": job["job_id"], "input": "more\n", "end": true});
    ask("tools/call", json!({"name": "job", "arguments": send})).await;
    // Skips a ping's answer and waits for the next notification.
    let told = tokio::time::timeout(Duration::from_secs(30), ask("ping", json!({}))).await;
    let told = told.expect("the change is told");
    assert_eq!(told["method"], "notifications/resources/updated", "{told}");
    assert_eq!(told["params"]["uri"], job["job_uri"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_transport_and_the_metrics_are_served() {
    let served = serve_http(&["--metrics"]).await;
    let bearer = served.bearer();
    let bearer = ("Authorization", bearer.as_str());
    assert_eq!(served.request("GET", "/metrics", &[], "").await.0, 401);
    for path in ["/sse", "/sse/message?sessionId=x", "/metrics"] {
        for (header, value) in [
            ("Host", "evil.example.com"),
            ("Origin", "http://evil.example.com"),
        ] {
            let (status, _) = served
                .request("GET", path, &[bearer, (header, value)], "")
                .await;
            assert_eq!(status, 403, "{path} {header}");
        }
    }
    let post = |id: &str| format!("/sse/message?sessionId={id}");
    assert_eq!(
        served.request("POST", &post("0"), &[bearer], "{}").await.0,
        404
    );

    let mut stream = tokio::net::TcpStream::connect(&served.address)
        .await
        .unwrap();
    let head = format!(
        "GET /sse HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nAuthorization: {}\r\n\r\n",
        served.address, bearer.1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut data = async |wanted: &str| -> String {
        let found = async {
            loop {
                let line = lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("the stream goes on");
                if let Some(data) = line.strip_prefix("data: ")
                    && data.contains(wanted)
                {
                    return data.to_owned();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap()
    };
    let path = data("sessionId").await;
    assert_eq!(
        served.request("POST", &path, &[bearer], "no json").await.0,
        400
    );
    let about = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let send = async |id: u64, method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let pretty = serde_json::to_string_pretty(&body).unwrap();
        let (status, answer) = served.request("POST", &path, &[bearer], &pretty).await;
        assert_eq!(status, 202, "{answer}");
    };
    send(1, "initialize", about).await;
    assert!(
        data("serverInfo")
            .await
            .contains("\"protocolVersion\":\"2024-11-05\"")
    );
    let exec = json!({"name": "exec", "arguments": {"command": "seq 20000"}});
    send(2, "tools/call", exec).await;
    let done = data("exit_code").await;
    assert!(done.contains("20000"), "{done}");
    assert!(
        !done.contains("resource_link"),
        "a client of the older protocol must get no links: {done}"
    );
    let (status, metrics) = served.request("GET", "/metrics", &[bearer], "").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("snowglobe_tool_calls_total{tool=\"exec\",outcome=\"ok\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("snowglobe_sandboxes 1"), "{metrics}");
    let running = json!({"name": "exec", "arguments": {"command": "sleep 311"}});
    send(3, "tools/call", running).await;
    // When a client disconnects, its sandbox ends.
    drop(lines);
    let until = Instant::now() + Duration::from_secs(20);
    while !served
        .request("GET", "/healthz", &[], "")
        .await
        .1
        .contains("sandboxes 0")
    {
        assert!(
            Instant::now() < until,
            "the sandbox must stop when its stream ends"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(served.request("POST", &path, &[bearer], "{}").await.0, 404);
}

/// The same command on a simulated host that forbids PID namespaces, as some hosts do.
fn without_namespaces(command: &tokio::process::Command) -> tokio::process::Command {
    let inner = command.as_std();
    let mut outer = tokio::process::Command::new("unshare");
    outer
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 >/proc/sys/user/max_pid_namespaces && exec \"$@\"")
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .kill_on_drop(true);
    if let Some(dir) = inner.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_fence_is_in_the_first_result_or_fatal() {
    let place = Place::new("minimal");
    let session =
        crate::common::Session::over(without_namespaces(&place.command(&["serve"]))).await;
    let first = session.raw("exec", json!({"command": "true"})).await;
    let said = crate::common::text(&first);
    assert!(
        said.contains("without namespaces: the kernel refuses them"),
        "{said}"
    );
    assert!(
        said.contains("a root directory of its own") && said.contains("snowglobe doctor"),
        "{said}"
    );
    let structured = first.structured_content.expect("a structured result");
    assert!(
        structured["notes"]
            .to_string()
            .contains("without namespaces"),
        "{structured}"
    );
    let second = crate::common::text(&session.raw("exec", json!({"command": "true"})).await);
    assert!(!second.contains("without"), "{second}");
    // The session that started the running sandbox was told.
    let (code, _, said) = place.run(&["exec", "true"]).await;
    assert!(code == 0 && !said.contains("without"), "{said}");
    session.close().await;
    let (code, _, said) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{said}");

    let alone = place.command(&["exec", "--rm", "echo", "out"]);
    let alone = without_namespaces(&alone)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = crate::common::lossy(&alone.stderr);
    assert_eq!(
        (alone.status.code(), &alone.stdout[..]),
        (Some(0), &b"out\n"[..]),
        "{said}"
    );
    for lack in [
        "namespaces: the kernel refuses them",
        "a root directory of its own",
    ] {
        let line = format!(
            "snowglobe: this host shuts the VM off less than it could: it runs without {lack}"
        );
        let lines = said.lines().filter(|said| said.starts_with(&line));
        assert_eq!(lines.count(), 1, "{lack}: {said}");
    }

    let mut required = place.command(&["serve", "--rm"]);
    required.env("SNOWGLOBE_ISOLATION", "require");
    let session = crate::common::Session::over(without_namespaces(&required)).await;
    let error = session.error("exec", json!({"command": "true"})).await;
    assert!(
        error.contains("isolation") && error.contains("without namespaces"),
        "{error}"
    );
    session.close().await;
    for (how, status, code) in [("best", "note", Some(0)), ("require", "problem", Some(1))] {
        let doctor = place.command(&["doctor", "--isolation", how]);
        let doctor = without_namespaces(&doctor).output().await.unwrap();
        let said = crate::common::lossy(&doctor.stdout);
        let line = said.lines().find(|line| line.contains("fence processes"));
        assert!(
            line.is_some_and(|line| line.starts_with(status)),
            "{how}: {said}"
        );
        assert_eq!(doctor.status.code(), code, "{how}: {said}");
    }
}
