//! The first bytes of connections, as servers get them.

use super::hellos::{encrypted, extended, fragmented, hello};
use super::*;

/// A network with a server that tells what it gets, at `a.example`.
async fn told(ports: &[u16]) -> (Net, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (told, heard) = mpsc::unbounded_channel();
    let at = server(move |mut connection| {
        let told = told.clone();
        async move {
            let mut got = Vec::new();
            connection.read_to_end(&mut got).await.ok();
            told.send(got).unwrap();
        }
    })
    .await;
    (Net::to(at, &["a.example"], ports), heard)
}

#[tokio::test]
async fn servers_get_what_is_theirs_unchanged_and_nothing_else() {
    let (net, mut heard) = told(&[80, 443, 8080]).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec();
    for (port, bytes) in [
        (443, hello("a.example")),
        (443, fragmented(&hello("a.example"), 11)),
        (80, request),
    ] {
        let stream = net.connect("a.example", port).await.unwrap();
        exchange(stream, &bytes).await.unwrap();
        assert_eq!(heard.recv().await.unwrap(), bytes);
    }
    let hidden = extended(&hello("a.example"), 0xfe0d, &encrypted());
    for (port, bytes) in [
        (443, hello("b.example")),
        (443, hello("151.101.0.1")),
        (443, fragmented(&hello("b.example"), 5)),
        (443, hidden.clone()),
        (443, b"SSH-2.0-x\r\n".to_vec()),
        (80, b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n".to_vec()),
        (8080, b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n".to_vec()),
        (8080, hello("b.example")),
    ] {
        let stream = net.connect("a.example", port).await.unwrap();
        let refusal = exchange(stream, &bytes).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Denied, "{refusal}");
        assert_eq!(heard.recv().await.unwrap(), b"", "{refusal}");
    }
    assert_eq!(net.broker.counts().refused, 8);
    // Where every name may be reached, a hidden one is no harm.
    net.broker.set_rules(rules(Mode::Open, &[], &[]));
    let stream = net.connect("a.example", 443).await.unwrap();
    exchange(stream, &hidden).await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), hidden);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_before_the_guest_speaks() {
    let at = server(|mut connection| async move {
        connection.write_all(b"220 hello\r\n").await.unwrap();
        connection.read_u8().await.ok();
    })
    .await;
    let net = Net::to(at, &["mail.example"], &[25]);
    let mut stream = net.connect("mail.example", 25).await.unwrap();
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
}

#[tokio::test]
async fn first_bytes_that_do_not_go_on_end_the_connection() {
    let (mut net, mut heard) = told(&[443]).await;
    let deadlines = Deadlines {
        first: Duration::from_millis(20),
        ..Deadlines::default()
    };
    net = Net::with(
        net.world,
        Settings {
            deadlines,
            ..settings()
        },
        net.broker.rules(),
    );
    for bytes in [&hello("a.example")[..70], &[22], b"GET /"] {
        let mut stream = net.connect("a.example", 443).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let refusal = reset(&stream.read_u8().await.unwrap_err());
        assert!(refusal.text.contains("not complete"), "{refusal}");
        assert_eq!(heard.recv().await.unwrap(), b"");
    }
    // A connection on which nothing is sent yet may be kept.
    let mut idle = net.connect("a.example", 443).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), idle.read_u8())
            .await
            .is_err()
    );
    let bytes = hello("a.example");
    exchange(idle, &bytes).await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), bytes);
}
