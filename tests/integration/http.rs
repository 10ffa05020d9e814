//! MCP over HTTP: tokens, origins, sockets, a flood of requests, the older transport, metrics.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::common::http::serve_http;
use crate::common::{Place, SOON};

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
    served.runs_none().await;
    assert_eq!(served.request("POST", &path, &[bearer], "{}").await.0, 404);
}
