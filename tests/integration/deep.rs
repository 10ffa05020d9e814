//! Many snapshots in one sandbox: their chain of layers stays short, and every one of them can be had back.

use serde_json::json;

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
        let record = place.store().join(format!("snapshots/{name}.json"));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        let layers = record["layers"].as_array().unwrap().len();
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
