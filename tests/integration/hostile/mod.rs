//! Tests the real server against a hostile guest at the other end of the link. They need no VM.

mod impostor;
mod server;

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::http::Served;
use crate::common::{Place, Session, descendants, eventually, runs, soon};
use impostor::Play;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

/// The limit of the server's peak memory, in KiB. The program itself takes 60 MiB, and of what the guest sends unasked up
/// to 32 MiB may be on its way, in buffers of which some have room to grow. Without a bound it
/// would be all that the guest sends.
const MEMORY: u64 = 160 << 10;

#[test]
#[ignore = "plays a runner with its guest for the other tests"]
fn plays_the_guest() {
    impostor::play();
}

async fn serve(place: &Place, play: Play) -> Session {
    let mut server = place.command(&["serve", "--rm"]);
    let libexec = impostor::libexec(place.dir.path(), "hostile::plays_the_guest", play);
    server.env("SNOWGLOBE_LIBEXEC", libexec);
    Session::over(server).await
}

/// A process's peak memory, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_breaks_the_rules_of_the_link_is_ended_and_a_call_says_why() {
    for (play, why) in [
        (Play::NoBeginning, "without the line that begins the link"),
        (Play::Data, "that `read` had asked for"),
        (Play::Report, "sent a report on `read` of more than"),
        (Play::Chatter, "that belong to no request"),
        (Play::Channels, "opened a channel of its own"),
        (Play::ChannelsUnasked, "opened a channel of its own"),
    ] {
        let place = Place::new("minimal");
        let session = serve(&place, play).await;
        let read = json!({"path": "/etc/passwd"});
        if play == Play::ChannelsUnasked {
            // The guest boots, and misbehaves while no call runs.
            let background = json!({"command": "true", "timeout_s": 0.1});
            let _ = session.raw("exec", background).await;
            eventually("the VM is ended", || descendants(session.pid).is_empty()).await;
        }
        let said = session.error("read", read.clone()).await;
        assert!(said.contains(why), "{play:?}: {said}");
        eventually("the VM is ended", || descendants(session.pid).is_empty()).await;
        let again = session.error("read", read).await;
        assert!(again.contains(why), "{play:?}, in the next VM: {again}");
        let peak = peak(session.pid);
        assert!(peak < MEMORY, "{play:?}: the server used {peak} KiB");
        eprintln!(
            "{play:?}: {} MiB at most; {}",
            peak >> 10,
            said.lines().next().unwrap()
        );
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_holds_up_nothing() {
    let place = Place::new("minimal");
    let session = serve(&place, Play::Silence).await;
    let began = Instant::now();
    let exec = json!({"command": "true", "timeout_s": 1});
    let said = session.error("exec", exec).await;
    assert!(said.contains("`reboot`"), "{said}");
    soon(began);

    let before = descendants(session.pid);
    let began = Instant::now();
    session.call("reboot", json!({})).await;
    soon(began);
    assert!(
        !before.iter().any(|pid| runs(*pid)),
        "the old VM still runs"
    );

    session.terminate().await;
}

/// A server over HTTP whose guests never answer.
async fn serve_http() -> Served {
    let place = Place::new("minimal");
    let libexec = impostor::libexec(place.dir.path(), "hostile::plays_the_guest", Play::Silence);
    let idle = ["--idle-stop-s", "1", "--max-sandboxes", "3"];
    let mut server = place
        .command(&[&["serve", "--http", "127.0.0.1:0", "--no-token"], &idle[..]].concat())
        .env("SNOWGLOBE_LIBEXEC", libexec)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("it says where");
        if let Some(url) = line.strip_prefix("serving MCP at http://") {
            break url.trim_end_matches("/mcp").to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Served {
        place,
        server,
        address,
        token: String::new(),
    }
}

/// A call that gets its own sandbox.
async fn call(served: &Served) -> String {
    let headers = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "exec"),
    ];
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let arguments = json!({"command": "true", "timeout_s": 0.1});
    let params = json!({"name": "exec", "arguments": arguments, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let body = body.to_string();
    served.request("POST", "/mcp", &headers, &body).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sandboxes_whose_guests_do_not_answer_are_stopped_side_by_side() {
    let mut served = serve_http().await;
    let said = tokio::join!(call(&served), call(&served), call(&served));
    for said in [said.0, said.1, said.2] {
        assert!(said.contains("within 5 s"), "{said}");
    }
    // Asking a guest for its jobs takes 40 s; one guest after the other would take two minutes.
    let began = Instant::now();
    served.runs_none().await;
    assert!(began.elapsed() < Duration::from_secs(100));
    tokio::join!(call(&served), call(&served), call(&served));
    let server = served.server.id().unwrap();
    let below = descendants(server);
    assert!(below.len() >= 3, "{below:?}");
    let pid = rustix::process::Pid::from_raw(server as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let began = Instant::now();
    assert!(served.server.wait().await.unwrap().success());
    eventually("all VMs are gone", || !below.iter().any(|pid| runs(*pid))).await;
    soon(began);
}
