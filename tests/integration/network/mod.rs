//! The network of a real machine: the guest's half, the broker, and what a person sees of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

mod attacks;
mod browser;
mod guest;
mod installs;
mod languages;
mod programs;
mod server;
mod world;

use crate::common::{ClosedPort, Place, SOON, lossy, soon};

/// What programs of the guest see. Each line of its output is one finding.
const PROBE: &str = r#"
import socket, struct, sys, threading, time

def say(what, f):
    began = time.time()
    try:
        found = f()
    except Exception as error:
        found = type(error).__name__
    slow = "" if what in ("crowd", "reset") or time.time() - began < 5 else " SLOW"
    print(f"{what}: {found}{slow}", flush=True)

def connect(host, port):
    return socket.create_connection((host, port), 20)

def ask(host, port, text):
    with connect(host, port) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(65536):
            got += piece
        return got

def resets():
    # The server resets each connection at once: some are, before the host has seen them made.
    found = set()
    for _ in range(50):
        try:
            with connect("reset.test", 7) as s:
                found.add(str(s.recv(1)))
        except Exception as error:
            found.add(type(error).__name__)
    return " ".join(sorted(found))

def crowd():
    done = []
    def one():
        if len(ask("echo.test", 7, b"x" * 100_000)) == 100_000:
            done.append(1)
    all = [threading.Thread(target=one) for _ in range(100)]
    [t.start() for t in all]; [t.join() for t in all]
    return len(done)

def dns(server, name):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    s.sendto(struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1), (server, 53))
    answer = s.recv(500)
    return "address" if answer[7] else f"code {answer[3] & 15}"

def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect(("192.0.2.1", 443))
    s.send(b"x")
    return s.recv(9)

say("echo", lambda: ask("echo.test", 7, b"hello"))
say("late", lambda: ask("late.test", 7, b"hello"))
say("reset", resets)
say("closed", lambda: connect("closed.test", 7))
say("other port", lambda: connect("echo.test", 8))
say("unlisted", lambda: connect("unlisted.test", 7))
say("literal", lambda: connect("192.0.2.1", 7))
say("literal v6", lambda: connect("2001:db8::1", 7))
say("metadata", lambda: connect("169.254.169.254", 80))
say("mapped", lambda: connect("::ffff:127.0.0.1", 9))
say("dns elsewhere", lambda: dns("192.0.2.53", "echo.test"))
say("dns refused", lambda: dns("127.0.0.1", "unlisted.test"))
say("udp", udp)
say("crowd", crowd)
"#;

/// A server for each connection, in a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(tcp));
        }
    });
    port
}

fn echo(mut tcp: TcpStream) {
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).ok();
    tcp.write_all(&got).ok();
}

/// Answers a second after the client has said its last.
fn late(mut tcp: TcpStream) {
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).ok();
    std::thread::sleep(Duration::from_secs(1));
    tcp.write_all(b"late").ok();
}

/// Closes a connection with a reset.
fn reset(tcp: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_see_a_network_and_only_what_is_allowed() {
    let closed = ClosedPort::take();
    let hosts = [
        ("echo.test:7", server(echo)),
        ("late.test:7", server(late)),
        ("reset.test:7", server(reset)),
        ("closed.test:7", closed.number()),
        ("unlisted.test:7", server(echo)),
    ];
    let place = Place::new("debian");
    let mut text = "[network]\nallow = [\"echo.test:7\", \"late.test:7\", \"reset.test:7\", \"closed.test:7\"]\n[network.hosts]\n".to_owned();
    for (name, port) in hosts {
        text += &format!("\"{name}\" = \"127.0.0.1:{port}\"\n");
    }
    place.configure(&text);
    std::fs::write(place.workspace.join("probe.py"), PROBE).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("XDG_CONFIG_HOME", place.dir.path().join("config"));
        let output = command.stdin(Stdio::null()).output();
        async move {
            let output = tokio::time::timeout(SOON, output).await.unwrap().unwrap();
            (
                output.status.code(),
                lossy(&output.stdout),
                lossy(&output.stderr),
            )
        }
    };
    let (status, out, err) = run(&["exec", "--timeout", "100", "--", "python3", "probe.py"]).await;
    assert_eq!(status, Some(0), "{out}{err}");
    let expected = "echo: b'hello'\nlate: b'late'\nreset: ConnectionResetError\nclosed: ConnectionRefusedError\n\
        other port: ConnectionRefusedError\nunlisted: gaierror\nliteral: ConnectionRefusedError\n\
        literal v6: ConnectionRefusedError\nmetadata: ConnectionRefusedError\nmapped: ConnectionRefusedError\n\
        dns elsewhere: address\ndns refused: code 3\nudp: ConnectionRefusedError\ncrowd: 100\n";
    if out != expected {
        let (_, log, _) = run(&["network", "log"]).await;
        panic!("{out}\n{err}\n{text}\n{log}");
    }

    // A change counts at once.
    let unlisted = "python3 -c 'import socket; socket.create_connection((\"unlisted.test\", 7), 20); print(\"open\")'";
    let (status, _, err) = run(&["network", "allow", "unlisted.test:7"]).await;
    assert_eq!(status, Some(0), "{err}");
    let (_, out, err) = run(&["exec", "--", unlisted]).await;
    assert_eq!(out, "open\n", "{err}");
    let (status, _, err) = run(&["network", "deny", "unlisted.test:7"]).await;
    assert_eq!(status, Some(0), "{err}");
    let (_, out, err) = run(&["exec", "--", unlisted]).await;
    assert!(
        out.is_empty() && err.contains("Name or service not known"),
        "{out}{err}"
    );

    // What happened is in the log.
    let (_, log, err) = run(&["network", "log"]).await;
    for part in ["echo.test:7", "unlisted.test", "refused", "python3"] {
        assert!(log.contains(part), "{part}: {log}{err}");
    }
}

/// Where nothing is allowed, programs hear it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_off_refuses_at_once() {
    let place = Place::new("debian");
    let session = place.serve().await;
    session.stdout("true").await;
    let began = std::time::Instant::now();
    let result = session
        .exec("getent hosts pypi.org; python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 443))' 2>&1 | tail -n 1")
        .await;
    soon(began);
    assert!(
        result["stdout"]
            .as_str()
            .unwrap()
            .contains("Network is unreachable"),
        "{result}"
    );
    session.close().await;
}
