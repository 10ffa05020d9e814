//! What works through the host as it does without it.

use ::http::StatusCode;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn quick() -> Limits {
    Limits {
        handshake: Duration::from_millis(300),
        head: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[tokio::test]
async fn requests_go_through_with_both_versions_and_are_reported() {
    for second in [false, true] {
        let world = World::new(Upstream::Both, Setup::default()).await;
        let request = world
            .request(second, "/echo?q=1")
            .method("POST")
            .body(Full::new(Bytes::from("the body")))
            .unwrap();
        let got = world.ask(second, request).await;
        let text = got.text();
        assert!(
            got.head.status == 200 && text.contains("/echo?q=1") && text.ends_with("the body"),
            "{text}"
        );
        assert!(text.contains("\"accept-encoding\": \"identity\""), "{text}");
        let report = world.reports(1).await.remove(0);
        assert_eq!(
            (
                report.method.as_str(),
                report.path.as_str(),
                report.status,
                report.sent
            ),
            ("POST", "/echo", 200, 8)
        );
        assert_eq!(
            (report.received, report.secrets),
            (text.len() as u64, vec!["TOKEN".to_owned()])
        );
        assert!(
            matches!(report.outcome, Outcome::Allowed { rule } if rule.starts_with("api.example:"))
        );
        assert_eq!(
            world.get(second, "/none").await.head.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(world.get(second, "/big").await.body.len(), 4 << 20);
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let stream = world.tls(HOST, &[H2]).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = client2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // Nobody reads this one; the others go on.
    let endless = world
        .request(true, "/endless")
        .body(Full::<Bytes>::default())
        .unwrap();
    let _unread = sender.clone().send_request(endless).await.unwrap();
    let asks = (0..50).map(|_| {
        let (mut sender, request) = (
            sender.clone(),
            world
                .request(true, "/stream")
                .body(Full::default())
                .unwrap(),
        );
        async move {
            sender
                .send_request(request)
                .await
                .unwrap()
                .collect()
                .await
                .unwrap()
                .to_bytes()
        }
    });
    let expected = format!("data: Bearer {}\n\n", world.holder).repeat(3);
    for text in timeout(
        Duration::from_secs(30),
        futures_util::future::join_all(asks),
    )
    .await
    .unwrap()
    {
        assert_eq!(text, expected);
    }
    let stream = world.tls(HOST, &[HTTP_1_1]).await.unwrap();
    let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        sender.ready().await.unwrap();
        let answer = sender
            .send_request(
                world
                    .request(false, "/stream")
                    .body(Full::<Bytes>::default())
                    .unwrap(),
            )
            .await
            .unwrap();
        assert_eq!(answer.collect().await.unwrap().to_bytes(), expected);
    }
    let at_once = format!(
        "GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /b HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(world.raw(&at_once).await.matches("hello").count(), 2);
}

#[tokio::test]
async fn rules_decide_on_each_request() {
    let allow = vec![
        "GET https://api.example:PORT/data/**",
        "https://api.example:PORT/echo",
    ];
    let world = World::new(
        Upstream::Both,
        Setup {
            allow,
            deny: vec!["https://api.example:PORT/data/private"],
            ..Setup::default()
        },
    )
    .await;
    let port = world.address.port();
    for second in [false, true] {
        assert_eq!(world.get(second, "/data/a").await.head.status, 200);
        let got = world.get(second, "/other").await;
        assert_eq!(got.head.status, 403);
        let expected = format!(
            "snowglobe: GET /other of api.example:{port} is refused: no rule allows this request; to allow it: \
             snowglobe network allow 'GET https://api.example:{port}/other'\n"
        );
        assert_eq!(got.text(), expected);
        for path in ["/data/private", "/data/../other", "/data/%2e%2e/other"] {
            let got = world.get(second, path).await;
            assert!(
                got.head.status == 403
                    && got.text().contains(if path.ends_with("private") {
                        "`deny`"
                    } else {
                        "refused"
                    }),
                "{path}"
            );
        }
    }
    let refused = world
        .reports(10)
        .await
        .into_iter()
        .filter(|report| matches!(report.outcome, Outcome::Refused { .. }));
    let remedies: Vec<_> = refused
        .map(|report| (report.status, report.sent, report.outcome))
        .collect();
    assert_eq!(remedies.len(), 8);
    assert!(
        matches!(&remedies[0], (403, 0, Outcome::Refused { remedy: Some(remedy), .. }) if remedy.contains("network allow"))
    );
}

#[tokio::test]
async fn a_request_without_tls_follows_rules_for_http() {
    let setup = Setup {
        allow: vec!["GET http://api.example:PORT/data"],
        ..Setup::default()
    };
    let world = World::new(Upstream::Plain, setup).await;
    let ask = async |line: &str| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let port = world.address.port();
        told(
            &mut stream,
            &format!(
                "{line}\r\nHost: {HOST}:{port}\r\nAuthorization: {}\r\nConnection: close\r\n\r\n",
                world.holder
            ),
        )
        .await
    };
    assert!(ask("GET /data HTTP/1.1").await.ends_with("hello"));
    assert!(ask("GET /echo HTTP/1.1").await.starts_with("HTTP/1.1 403"));
    assert!(world.reports(1).await[0].secrets.is_empty());
    // HTTP/2 without TLS is not known here.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let answer = told(&mut stream, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for second in [false, true] {
        let world = World::new(Upstream::Both, Setup::default()).await;
        let got = world.get(second, "/trailers").await;
        assert_eq!(
            (got.text().as_str(), &got.trailers.unwrap()["x-sum"]),
            ("data", &"1".parse::<::http::HeaderValue>().unwrap())
        );
    }
    let world = World::new(Upstream::Both, Setup::default()).await;
    let request = format!(
        "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nTrailer: x-mine\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\nx-mine: 7\r\n\r\n"
    );
    let answer = world.raw(&request).await;
    assert!(
        answer.contains("4 bytes") && answer.contains("\"x-mine\": \"7\""),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_waits_until_the_server_wants_it() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
    };
    let mut stream = world.tls(HOST, &[HTTP_1_1]).await.unwrap();
    stream.write_all(head("/upload").as_bytes()).await.unwrap();
    let mut told_to = vec![0; 25];
    timeout(Duration::from_secs(10), stream.read_exact(&mut told_to))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told_to, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(told(&mut stream, "body").await.contains("4 bytes"));
    let refused = world.raw(&head("/too-large")).await;
    assert!(
        refused.starts_with("HTTP/1.1 413") && !refused.contains("100 Continue"),
        "{refused}"
    );
}

#[tokio::test]
async fn large_bodies_stream_and_a_slow_reader_slows_the_server_down() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    for second in [false, true] {
        let request = world
            .request(second, "/upload")
            .method("POST")
            .body(Full::new(Bytes::from(vec![7; 8 << 20])))
            .unwrap();
        assert!(
            world
                .ask(second, request)
                .await
                .text()
                .contains("8388608 bytes")
        );
    }
    let mut stream = world.tls(HOST, &[HTTP_1_1]).await.unwrap();
    stream
        .write_all(format!("GET /endless HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut some = vec![0; 1 << 20];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    let report = world.reports(3).await.remove(2);
    assert!(report.received < 32 << 20, "{report:?}");
}

#[tokio::test]
async fn an_upload_in_pieces_arrives_before_it_ends() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let stream = world.tls(HOST, &[H2]).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = client2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let frames = (0..100).map(|_| {
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![1; 10_000])))
    });
    let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
    let request = world
        .request(true, "/upload")
        .method("PUT")
        .body(body)
        .unwrap();
    let answer = sender
        .send_request(request)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert!(answer.starts_with(b"1000000 bytes"));
}

#[tokio::test]
async fn an_upgraded_connection_goes_on_with_an_end_for_each_direction() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let mut stream = world.tls(HOST, &[HTTP_1_1]).await.unwrap();
    let ask = format!(
        "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    stream.write_all(b"first").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = told(&mut stream, "").await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.ends_with("firstbye"),
        "{answer}"
    );
    assert!(!answer.contains("permessage-deflate"), "{answer}");
    let report = world.reports(1).await.remove(0);
    assert_eq!((report.status, report.sent), (101, 5));
    assert!(report.received > 8);
    assert_eq!(world.end().await, Ok(()));
}

#[tokio::test]
async fn a_server_without_a_valid_certificate_is_told_of() {
    for (upstream, trusts, expected) in [
        (Upstream::WrongName, true, "not valid for"),
        (Upstream::Both, false, "UnknownIssuer"),
        (Upstream::Plain, true, "TLS"),
        (Upstream::Silent, true, "does not agree on TLS"),
    ] {
        let world = World::new(
            upstream,
            Setup {
                trusts,
                limits: quick(),
                ..Setup::default()
            },
        )
        .await;
        for second in [false, true] {
            let got = world.get(second, "/").await;
            let text = got.text();
            assert!(
                got.head.status == 502
                    && text.starts_with("snowglobe: api.example:")
                    && text.contains(expected),
                "{text}"
            );
        }
        assert!(matches!(
            &world.reports(2).await[0],
            Requested {
                status: 502,
                outcome: Outcome::Failed { .. },
                ..
            }
        ));
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_and_a_guest_that_does_not_ask_are_given_up() {
    let setup = || Setup {
        limits: quick(),
        ..Setup::default()
    };
    for second in [false, true] {
        let world = World::new(Upstream::Both, setup()).await;
        let got = world.get(second, "/never").await;
        assert!(
            got.head.status == 504 && got.text().contains("has not answered"),
            "{}",
            got.text()
        );
    }
    let world = World::new(Upstream::Both, setup()).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(told(&mut silent, "").await, "");
    assert!(
        world
            .end()
            .await
            .unwrap_err()
            .contains("has not begun to speak")
    );
    let world = World::new(Upstream::Both, setup()).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    told(&mut silent, "\x16\x03\x01").await;
    assert!(world.end().await.unwrap_err().contains("ClientHello"));
    let world = World::new(Upstream::Both, setup()).await;
    let answer = world.raw("GET / HTTP/1.1\r\nHost: api").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    assert!(world.reports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn heads_have_bounds_on_both_sides() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Large: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    assert!(world.raw(&large).await.starts_with("HTTP/1.1 431"));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
        "X-Many: 1\r\n".repeat(1000)
    );
    assert!(world.raw(&many).await.starts_with("HTTP/1.1 431"));
    assert!(world.reports.lock().unwrap().is_empty());
    static LARGE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!(
            "HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n",
            "x".repeat(200_000)
        )
    });
    let world = World::new(Upstream::Bytes(&LARGE), Setup::default()).await;
    let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let answer = world.raw(&ask).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
