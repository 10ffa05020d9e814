//! The host's own proxy.

use super::super::super::proxy::Proxies;
use super::*;

/// A proxy that answers every request with `answer`, and then is an echo. Gives the requests.
async fn proxy(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (told, heard) = mpsc::unbounded_channel();
    let at = server(move |mut connection| {
        let told = told.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            told.send(String::from_utf8(head).unwrap()).unwrap();
            connection.write_all(answer.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = connection.split();
            tokio::io::copy(&mut reader, &mut writer).await.ok();
        }
    })
    .await;
    (at, heard)
}

fn behind(proxy: &str, no: &str) -> Net {
    let proxies = Some(Proxies::new(proxy, proxy, no));
    let net = Net::new(
        Settings {
            proxies,
            ..settings()
        },
        rules(Mode::Open, &[], &["denied.example"]),
    );
    net.world.name("private.example", &[&["10.0.0.1"]]);
    net.world.name("direct.example", &[&["10.0.0.1"]]);
    net.world.name("localhost", &[&["127.0.0.1"]]);
    net
}

#[tokio::test]
async fn connections_go_through_the_proxy_with_its_password() {
    // The server speaks first, right behind the proxy's answer.
    let (at, mut heard) = proxy("HTTP/1.1 200 OK\r\n\r\n220 hello").await;
    let net = behind(
        &format!("http://user:secret@localhost:{}", at.port()),
        "direct.example",
    );
    // The host can't resolve the name; the proxy can.
    assert_eq!(net.resolve("far.example").await, Ok(()));
    let stream = net.connect("far.example", 25).await.unwrap();
    assert_eq!(exchange(stream, b"EHLO").await.unwrap(), b"220 helloEHLO");
    let head = heard.recv().await.unwrap();
    assert!(
        head.starts_with("CONNECT far.example:25 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"),
        "{head}"
    );
    // The rules and the addresses count all the same.
    assert_eq!(
        net.refused("denied.example", 443).await.reason,
        Reason::Denied
    );
    assert_eq!(
        net.refused("private.example", 443).await.reason,
        Reason::Denied
    );
    assert_eq!(
        net.refused("direct.example", 443).await.reason,
        Reason::Denied
    );
    assert_eq!(net.world.connected(), [at.to_string()]);
}

#[tokio::test]
async fn a_proxy_that_refuses_or_speaks_otherwise_is_told() {
    let (at, _heard) = proxy("HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let refusal = behind(&format!("http://{at}"), "")
        .refused("far.example", 443)
        .await;
    assert!(
        refusal.reason == Reason::Unreachable && refusal.text.contains("proxy"),
        "{refusal}"
    );
    let refusal = behind("https://localhost:1", "")
        .refused("far.example", 443)
        .await;
    assert!(refusal.text.contains("`https://` is not"), "{refusal}");
    let refusal = behind("http://localhost:1", "")
        .refused("far.example", 443)
        .await;
    assert!(
        refusal.text.contains("connect to the host's proxy"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_proxy_of_socks_is_spoken_to() {
    let at = server(|mut connection| async move {
        let mut greeting = [0; 3];
        connection.read_exact(&mut greeting).await.unwrap();
        connection.write_all(&[5, 0]).await.unwrap();
        let mut head = [0; 5];
        connection.read_exact(&mut head).await.unwrap();
        let mut name = vec![0; usize::from(head[4]) + 2];
        connection.read_exact(&mut name).await.unwrap();
        connection
            .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        connection.write_all(&name[..name.len() - 2]).await.unwrap();
    })
    .await;
    let net = behind(&format!("socks5h://{at}"), "");
    let stream = net.connect("far.example", 9000).await.unwrap();
    assert_eq!(exchange(stream, b"").await.unwrap(), b"far.example");
}
