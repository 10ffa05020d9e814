//! Ports of a real machine on this one: a server with a WebSocket, with the network off.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Place, SOON, eventually};

/// Serves a page and an echoing WebSocket on the address and port that it is given.
const SERVER: &str = r#"
import base64, hashlib, socket, sys, threading

def serve(c):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = c.recv(4096)
        if not piece: return
        head += piece
    lines = dict(l.split(": ", 1) for l in head.decode().split("\r\n")[1:] if ": " in l)
    if "Sec-WebSocket-Key" in lines:
        key = lines["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        c.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        c.sendall(b"\x81\x06reload")
        while piece := c.recv(4096):
            c.sendall(piece)
        return c.close()
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    c.close()

s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen()
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// What a server answers to a request.
fn ask(at: &str, head: &str) -> (String, TcpStream) {
    let at: SocketAddr = at.trim_start_matches("http://").parse().unwrap();
    let mut tcp = TcpStream::connect(at).unwrap();
    tcp.set_read_timeout(Some(SOON)).unwrap();
    tcp.write_all(head.as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = tcp.read(&mut buffer) {
        got.extend_from_slice(&buffer[..length]);
        if got.ends_with(b"reload") {
            break;
        }
    }
    (String::from_utf8_lossy(&got).into_owned(), tcp)
}

fn get(at: &str, host: &str) -> String {
    ask(at, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_the_sandbox_is_reached_from_this_machine() {
    let place = Place::new("debian");
    std::fs::write(place.workspace.join("server.py"), SERVER).unwrap();
    let session = place.serve_kept().await;
    let mut urls = Vec::new();
    for (address, port) in [("127.0.0.1", 5173), ("0.0.0.0", 8000), ("::1", 8001)] {
        let command = format!("exec python3 server.py {address} {port}");
        let started = json!({"command": command, "background": true});
        let mut result = session.call("exec", started).await;
        // A result tells of it once, as soon as it listens: perhaps that of the start.
        let told = format!("something listens on port {port} (python3)");
        let mut notes = Vec::new();
        for _ in 0..300 {
            notes.push(result["notes"].to_string());
            if notes.iter().any(|notes| notes.contains(&told)) {
                break;
            }
            result = session.exec("sleep 0.1").await;
        }
        let times = notes.iter().filter(|notes| notes.contains(&told)).count();
        assert_eq!(times, 1, "{told}: {notes:?}");
        assert!(
            !session.exec("true").await["notes"]
                .to_string()
                .contains("listens")
        );
        let opened = session
            .call("port", json!({"action": "open", "port": port}))
            .await;
        let url = opened["url"].as_str().unwrap().to_owned();
        assert!(get(&url, "localhost").ends_with("hello"), "{opened}");
        urls.push(url);
    }

    // A page whose name was made to lead here is refused; a WebSocket passes both ways.
    let refused = get(&urls[0], "evil.example");
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (answer, mut socket) = ask(&urls[0], upgrade);
    assert!(
        answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && answer.ends_with("reload"),
        "{answer}"
    );
    socket.write_all(b"\x81\x85aaaa12345").unwrap();
    let mut echoed = [0; 11];
    socket.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"\x81\x85aaaa12345");

    // The command line sees and closes the same ports.
    let (_, out, err) = place.run(&["port", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).expect(&err);
    let of = |port: u16| {
        listed
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["port"] == port)
            .cloned()
    };
    assert_eq!(of(5173).unwrap()["program"], "python3", "{listed}");
    let (status, _, err) = place.run(&["port", "close", "5173"]).await;
    assert_eq!(status, 0, "{err}");
    assert_eq!(
        socket.read(&mut echoed).unwrap_or(0),
        0,
        "its connections have ended"
    );
    let (status, _, err) = place.run(&["port", "close", "5173"]).await;
    assert!(status != 0 && err.contains("it is not open"), "{err}");
    let (status, out, err) = place.run(&["port", "open", "5173"]).await;
    assert!(
        status == 0 && get(out.trim(), "127.0.0.1:5173").ends_with("hello"),
        "{out}{err}"
    );

    // It stays open over a reboot, and leads to the new machine.
    session.call("reboot", json!({})).await;
    session
        .call(
            "exec",
            json!({"command": "exec python3 server.py 127.0.0.1 8000", "background": true}),
        )
        .await;
    let url = urls[1].clone();
    eventually("the server answers", || {
        let tcp = url
            .trim_start_matches("http://")
            .parse::<SocketAddr>()
            .unwrap();
        let tcp = TcpStream::connect_timeout(&tcp, Duration::from_secs(5));
        tcp.is_ok() && get(&url, "localhost").ends_with("hello")
    })
    .await;
    let wrong = session
        .error("port", json!({"action": "close", "port": 9}))
        .await;
    assert!(wrong.contains("not open"), "{wrong}");
    let idle = session
        .call("port", json!({"action": "open", "port": 9}))
        .await;
    assert!(
        idle["notes"]
            .to_string()
            .contains("nothing listens on port 9 yet"),
        "{idle}"
    );
    session.close().await;
}
