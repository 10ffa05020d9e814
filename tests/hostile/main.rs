//! A guest that is no init of ours, at the other end of the link, against the real server. It needs no VM.

#[path = "../common/mod.rs"]
mod common;
mod impostor;

use std::time::{Duration, Instant};

use common::{Place, Session, descendants, eventually, runs};
use impostor::Play;
use serde_json::json;

/// The most memory that the server may ever have used, in KiB.
const MEMORY: u64 = 100 << 10;

#[test]
#[ignore = "plays a runner with its guest for the other tests"]
fn plays_the_guest() {
    impostor::play();
}

async fn serve(place: &Place, play: Play) -> Session {
    let mut server = place.command(&["serve"]);
    let libexec = impostor::libexec(place.dir.path(), "plays_the_guest", play);
    server.env("SNOWGLOBE_LIBEXEC", libexec);
    Session::over(server).await
}

/// The most memory that a process has used, in KiB.
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
            // It boots, and does it while nobody calls.
            let background = json!({"command": "true", "timeout_s": 0.1});
            let _ = session.raw("exec", background).await;
            eventually("the VM is ended", 20, || {
                descendants(session.pid).is_empty()
            })
            .await;
        }
        let said = session.error("read", read.clone()).await;
        assert!(said.contains(why), "{play:?}: {said}");
        eventually("the VM is ended", 20, || {
            descendants(session.pid).is_empty()
        })
        .await;
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
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );

    let before = descendants(session.pid);
    let began = Instant::now();
    session.call("reboot", json!({})).await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert!(
        !before.iter().any(|pid| runs(*pid)),
        "the old VM still runs"
    );

    let below = descendants(session.pid);
    let server = rustix::process::Pid::from_raw(session.pid as i32).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
    let began = Instant::now();
    eventually("server and VM are gone", 10, || {
        !runs(session.pid) && !below.iter().any(|pid| runs(*pid))
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}
