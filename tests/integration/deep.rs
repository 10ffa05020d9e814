//! Many snapshots in one sandbox: their chain of layers stays short, and every one of them can be had back.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::Place;

/// More saves than a chain may have layers, several times over.
const SAVES: usize = 80;

#[tokio::test(flavor = "multi_thread")]
async fn many_snapshots_keep_their_chain_short_and_can_all_be_restored() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    for number in 0..SAVES {
        // A file that changes, one that is new each time, and one that goes again.
        let command = format!(
            "echo {number} > /var/count; head -c 65536 /dev/urandom > /var/only-{number}; rm -f /var/only-{}",
            number.wrapping_sub(2)
        );
        let done = session
            .call("exec", json!({"command": command, "user": "root"}))
            .await;
        assert_eq!(done["exit_code"], 0, "{done}");
        let name = format!("s{number}");
        session
            .call("snapshot", json!({"action": "save", "name": name}))
            .await;
        let layers = record(&place.store(), &name);
        let layers = layers["layers"].as_array().unwrap().len();
        assert!((1..=24).contains(&layers), "{name}: {layers} layers");
    }
    for number in [0, 41, SAVES - 1] {
        let restore = json!({"action": "restore", "name": format!("s{number}")});
        session.call("snapshot", restore).await;
        let seen = session
            .call(
                "exec",
                json!({"command": "cat /var/count; ls /var | grep only | sort -V | tr '\\n' ' '"}),
            )
            .await;
        let there: Vec<String> = (number.saturating_sub(1)..=number)
            .map(|n| format!("only-{n} "))
            .collect();
        assert_eq!(
            seen["stdout"],
            format!("{number}\n{}", there.concat()),
            "{seen}"
        );
    }
    // From a restored machine it goes on in the same way.
    for number in 0..30 {
        let save = json!({"action": "save", "name": "again", "replace": true});
        session.call("snapshot", save).await;
        let command = format!("echo again-{number} > /var/count");
        session
            .call("exec", json!({"command": command, "user": "root"}))
            .await;
    }
    session
        .call("snapshot", json!({"action": "restore", "name": "again"}))
        .await;
    let seen = session
        .call("exec", json!({"command": "cat /var/count"}))
        .await;
    assert_eq!(seen["stdout"], "again-28\n");
    session.close().await;
}

/// Makes empty layers above those of a snapshot, and a snapshot of them all: what many restores made before chains were
/// merged.
fn lengthen(store: &Path, of: &str, name: &str, length: usize) {
    let mut record = record(store, of);
    let layers = record["layers"].as_array_mut().unwrap();
    while layers.len() < length {
        let above = json!(format!("{:016x}.qcow2", layers.len()));
        let path = |layer: &Value| store.join("layers").join(layer.as_str().unwrap());
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([path(layers.last().unwrap()), path(&above)])
            .status();
        assert!(made.expect("qemu-img is installed").success());
        layers.push(above);
    }
    record["name"] = json!(name);
    let path = store.join(format!("snapshots/{name}.json"));
    std::fs::write(path, record.to_string()).unwrap();
}

fn record(store: &Path, name: &str) -> Value {
    let text = std::fs::read(store.join(format!("snapshots/{name}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_too_long_is_merged_before_a_boot() {
    let place = Place::new("minimal");
    let store = place.store();
    let session = place.serve().await;
    let snapshot = async |action: &str, name: &str| {
        let arguments = json!({"action": action, "name": name});
        session.call("snapshot", arguments).await
    };
    let done = session.root("echo below >/var/below").await;
    assert_eq!(done["exit_code"], 0, "{done}");
    snapshot("save", "short").await;
    // One more than a machine may have, its own included.
    lengthen(&store, "short", "long", 24);
    snapshot("restore", "long").await;
    let layers = record(&store, "long");
    let layers = layers["layers"].as_array().unwrap().len();
    assert!((1..24).contains(&layers), "{layers} layers");
    assert_eq!(session.stdout("cat /var/below").await, "below\n");
    session.close().await;
}
