//! What a hostile guest tries, and what an unwary server answers.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Fails if the value, or a good part of it, is in what the guest sees.
#[track_caller]
fn clean(seen: &str) {
    for start in 0..=VALUE.len() - 12 {
        let part = &VALUE[start..start + 12];
        assert!(!seen.contains(part), "{part} in {seen}");
    }
}

#[tokio::test]
async fn no_answer_betrays_the_value() {
    for second in [false, true] {
        let world = World::new(Upstream::Both, Setup::default()).await;
        for path in [
            "/echo",
            "/stream",
            "/long",
            "/header",
            "/trailers",
            "/error",
            "/unauthorized",
            "/redirect",
        ] {
            let got = world.get(second, path).await;
            clean(&got.all());
            assert!(
                got.all().contains(&world.holder[..20]),
                "{path}: {}",
                got.all()
            );
            assert!(
                !got.head.headers.contains_key("content-length")
                    || got.head.headers["content-length"] == got.body.len().to_string()
            );
        }
        assert!(
            world
                .get(second, "/echo")
                .await
                .text()
                .contains(&format!("\nBearer {}\n", world.holder))
        );
        for report in world.reports(9).await {
            assert!(report.secrets == ["TOKEN"] && !format!("{report:?}").contains("S3cret"));
        }
    }
}

#[tokio::test]
async fn the_value_goes_into_its_header_only() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let holder = &world.holder;
    let request = world
        .request(false, &format!("/echo?token={holder}"))
        .method("POST")
        .header("x-other", holder)
        .header("cookie", holder);
    // What is not the value may come back as it went out.
    let got = world
        .ask(
            false,
            request
                .body(Full::new(Bytes::from(holder.clone())))
                .unwrap(),
        )
        .await;
    let text = got.text();
    clean(&text);
    assert!(
        text.contains(&format!("token={holder}")) && text.ends_with(holder.as_str()),
        "{text}"
    );
    assert_eq!(text.matches(holder.as_str()).count(), 6, "{text}");
}

#[tokio::test]
async fn a_part_of_an_answer_is_not_to_be_had() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    for second in [false, true] {
        let request = world
            .request(second, "/range")
            .header("range", "bytes=0-30")
            .body(Full::default())
            .unwrap();
        let got = world.ask(second, request).await;
        assert_eq!(
            (got.head.status.as_u16(), got.text()),
            (200, format!("Bearer {}", world.holder))
        );
        let got = world.get(second, "/compressed").await;
        assert!(
            got.head.status == 502 && got.text().contains("compresses"),
            "{}",
            got.text()
        );
    }
}

#[tokio::test]
async fn an_upgraded_stream_is_hidden_with_its_lengths() {
    let world = World::new(
        Upstream::Both,
        Setup {
            limits: Limits::default(),
            ..Setup::default()
        },
    )
    .await;
    for protocol in ["websocket", "tcp"] {
        let mut stream = world.tls(HOST, &[HTTP_1_1]).await.unwrap();
        let ask = format!(
            "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n",
            world.holder
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}\n") {
            assert!(
                timeout(Duration::from_secs(10), stream.read_buf(&mut seen))
                    .await
                    .unwrap()
                    .unwrap()
                    > 0
            );
        }
        let seen = String::from_utf8(seen).unwrap();
        clean(&seen);
        let filled: String = world
            .holder
            .chars()
            .chain(std::iter::repeat('*'))
            .take(VALUE.len())
            .collect();
        assert!(
            seen.contains(&format!("\r\n\r\nBearer {filled}\n")),
            "{seen}"
        );
        // A message that ends as a value begins does not wait for the next one.
        stream.write_all(b"the end: gh").await.unwrap();
        let mut echo = [0; 11];
        timeout(Duration::from_secs(10), stream.read_exact(&mut echo))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&echo, b"the end: gh");
    }
}

#[tokio::test]
async fn http_is_no_upgrade() {
    let world = World::new(
        Upstream::Both,
        Setup {
            allow: vec!["https://api.example:PORT/echo"],
            ..Setup::default()
        },
    )
    .await;
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.2", "websocket, h2c"] {
        let ask = format!(
            "GET /echo HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAA\r\n\r\n"
        );
        let answer = world.raw(&ask).await;
        assert!(
            answer.starts_with("HTTP/1.1 200")
                && !answer.contains("upgrade\":")
                && !answer.contains("settings"),
            "{answer}"
        );
    }
    // A server that changes the protocol by itself.
    let world = World::new(
        Upstream::Bytes(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhidden",
        ),
        Setup::default(),
    )
    .await;
    for asked in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
        let answer = world
            .raw(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{asked}\r\n"))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 502") && !answer.contains("hidden"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn no_other_host_is_asked_for() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let auth = format!("Authorization: Bearer {}", world.holder);
    let mut count = 0;
    for (ask, status) in [
        ("GET /echo HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (
            "GET /echo HTTP/1.1\r\nHost: api.example\r\nHost: evil.example\r\n",
            421,
        ),
        ("GET /echo HTTP/1.1\r\nHost: api.example:1\r\n", 421),
        ("GET /echo HTTP/1.1\r\n", 421),
        ("GET /echo HTTP/1.0\r\n", 421),
        (
            "GET https://evil.example/echo HTTP/1.1\r\nHost: api.example\r\n",
            421,
        ),
        (
            "GET http://api.example/echo HTTP/1.1\r\nHost: api.example\r\n",
            421,
        ),
        (
            "GET https://api.example/echo HTTP/1.1\r\nHost: evil.example\r\n",
            421,
        ),
        (
            "GET https://x@api.example/echo HTTP/1.1\r\nHost: api.example\r\n",
            421,
        ),
        (
            "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n",
            405,
        ),
        (
            "CONNECT api.example:PORT HTTP/1.1\r\nHost: api.example\r\n",
            405,
        ),
    ] {
        let answer = world
            .raw(&format!(
                "{ask}{auth}\r\n\r\nGET /echo HTTP/1.1\r\nHost: api.example\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{ask}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.").count(),
            1,
            "the connection ends: {answer}"
        );
        count += 1;
        let reports = world.reports(count).await;
        assert_eq!(reports.len(), count);
        assert!(
            matches!(reports[count - 1].outcome, Outcome::Refused { .. })
                && reports[count - 1].secrets.is_empty()
        );
    }
    // With HTTP/2, too.
    let stream = world.tls(HOST, &[H2]).await.unwrap();
    let (mut sender, connection) =
        client2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .uri("https://evil.example/echo")
        .header("authorization", &world.holder);
    let answer = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 421);
    drop(answer);
    timeout(Duration::from_secs(10), connection)
        .await
        .expect("the connection ends")
        .unwrap()
        .unwrap();
    let request = world
        .request(true, "/echo")
        .header("host", "evil.example")
        .body(Full::default())
        .unwrap();
    assert_eq!(world.ask(true, request).await.head.status, 421);
    let request = Request::builder()
        .method("CONNECT")
        .uri("evil.example:443")
        .body(Full::default())
        .unwrap();
    assert_eq!(world.ask(true, request).await.head.status, 405);
}

#[tokio::test]
async fn tls_asks_for_the_connections_name() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    assert!(world.tls("evil.example", &[H2]).await.is_err());
    assert!(
        world
            .end()
            .await
            .unwrap_err()
            .contains("`evil.example` (SNI)")
    );
    let world = World::new(Upstream::Both, Setup::default()).await;
    assert!(world.tls("192.0.2.7", &[H2]).await.is_err());
    assert!(world.end().await.unwrap_err().contains("`no name` (SNI)"));
    assert!(world.reports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn requests_are_not_smuggled() {
    let allow = vec!["POST https://api.example:PORT/upload"];
    let limits = Limits {
        head: Duration::from_secs(1),
        ..Limits::default()
    };
    let world = World::new(
        Upstream::Both,
        Setup {
            allow,
            limits,
            ..Setup::default()
        },
    )
    .await;
    let hidden = format!(
        "GET /echo HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n\r\n",
        world.holder
    );
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            hidden.len() + 5
        ),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "Content-Length: 0\r\nContent-Length: 5\r\n\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "Connection: content-length\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let answer = world
            .raw(&format!(
                "POST /upload HTTP/1.1\r\nHost: {HOST}\r\n{framing}{hidden}"
            ))
            .await;
        assert!(
            !answer.contains("authorization")
                && !answer.contains("HTTP/1.1 200 OK\r\ncontent-length: 4"),
            "{framing}: {answer}"
        );
        clean(&answer);
    }
    for report in world.reports.lock().unwrap().iter() {
        assert!(
            report.path == "/upload" || matches!(report.outcome, Outcome::Refused { .. }),
            "{report:?}"
        );
    }
}

#[tokio::test]
async fn a_secret_that_can_not_be_read_is_not_explained_to_the_guest() {
    let from = KeySource::Command(
        ["sh", "-c", "echo inner detail >&2; exit 3"]
            .map(str::to_owned)
            .to_vec(),
    );
    let world = World::new(
        Upstream::Both,
        Setup {
            from,
            ..Setup::default()
        },
    )
    .await;
    let got = world.get(false, "/echo").await;
    assert!(
        got.head.status == 502
            && !got.text().contains("inner detail")
            && got.text().contains("network log"),
        "{}",
        got.text()
    );
    let report = world.reports(1).await.remove(0);
    assert!(
        matches!(&report.outcome, Outcome::Failed { why } if why.contains("inner detail")),
        "{report:?}"
    );
    let plain = Request::builder()
        .uri("/echo")
        .header("host", HOST)
        .body(Full::default())
        .unwrap();
    assert_eq!(world.ask(false, plain).await.head.status, 200);
}
