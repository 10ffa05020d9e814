//! The two halves of a power cut, which `tests/kvm_host.rs` combines on an emulated host: the first saves snapshots until
//! the power goes, the second checks which survived. Only data that was written out to the disk survives.
#![allow(
    clippy::print_stdout,
    reason = "the process that cuts the power reads the saved names"
)]

use std::time::Duration;

use crate::common::Place;
use serde_json::json;

/// A file that is never written out: if it survives, there was no power cut.
fn not_written_out() -> std::path::PathBuf {
    Place::data_dir().join("not-written-out")
}

fn place() -> Place {
    Place::named("minimal", "power")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the host's power; tests/kvm_host.rs runs it on one of its own"]
async fn saves_until_the_power_goes() {
    let after = std::env::var("SNOWGLOBE_TEST_CUT_AFTER_MS").expect("when the power goes");
    let after = Duration::from_millis(after.parse().expect("milliseconds"));
    let place = place();
    let session = place.serve().await;
    for round in 1.. {
        session.exec(&format!("echo {round} >~/mark")).await;
        if round == 3 {
            std::thread::spawn(move || {
                std::thread::sleep(after);
                std::fs::write(not_written_out(), "x").unwrap();
                std::fs::write("/proc/sysrq-trigger", "b").unwrap();
            });
        }
        session
            .call(
                "snapshot",
                json!({"action": "save", "name": format!("s{round}")}),
            )
            .await;
        println!("saved s{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "looks for what was saved before the power went; tests/kvm_host.rs runs it there"]
async fn what_was_saved_is_there() {
    let saved = std::env::var("SNOWGLOBE_TEST_SAVED").expect("what was saved");
    let left = std::fs::read(not_written_out()).unwrap_or_default();
    assert!(left.is_empty(), "the power cut lost nothing at all");
    let place = place();
    let session = place.serve().await;
    let listed = session.snapshots().await;
    for name in saved.split(' ') {
        assert!(
            listed.iter().any(|one| one == name),
            "{name} is lost: {listed:?}"
        );
    }
    // A snapshot that was not reported as saved may exist, but must be complete.
    for name in listed {
        session
            .call("snapshot", json!({"action": "restore", "name": name}))
            .await;
        assert_eq!(
            session.stdout("cat ~/mark").await,
            format!("{}\n", &name[1..])
        );
    }
    session.close().await;
}
