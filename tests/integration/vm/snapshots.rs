//! Snapshots and restores.

use serde_json::json;

use crate::common::Place;

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_save_list_restore_and_delete() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let snapshot = async |action: &str, name: &str| {
        session
            .call("snapshot", json!({"action": action, "name": name}))
            .await
    };
    session
        .root("echo marker >/etc/marker; echo work >/workspace/kept")
        .await;
    // The snapshot is saved while a command writes.
    let busy = session
        .root("(while true; do date >>/var/busy; done) >/dev/null 2>&1 &")
        .await;
    assert_eq!(busy["exit_code"], 0);
    snapshot("save", "b.with-marker_1").await;
    assert_eq!(
        session.root("rm /etc/marker; cat /etc/marker").await["exit_code"],
        1
    );
    snapshot("save", "a").await;
    let listed = session.call("snapshot", json!({"action": "list"})).await;
    let names: Vec<_> = listed["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "b.with-marker_1"], "sorted");
    assert!(
        listed["snapshots"][0]["bytes"].as_u64().unwrap() > 0
            && listed["snapshots"][0]["created"].is_string()
    );

    let restored = snapshot("restore", "b.with-marker_1").await;
    assert!(restored["took_ms"].as_u64().unwrap() > 0);
    assert_eq!(
        session.stdout("cat /etc/marker /workspace/kept").await,
        "marker\nwork\n"
    );
    let taken = session
        .error("snapshot", json!({"action": "save", "name": "a"}))
        .await;
    assert!(taken.contains("already"), "{taken}");
    for action in ["restore", "delete"] {
        let missing = session
            .error("snapshot", json!({"action": action, "name": "none"}))
            .await;
        assert!(
            missing.contains("none") && missing.contains("there are a, b.with-marker_1"),
            "{missing}"
        );
    }
    for name in ["", "../evil", "a/b", "a b", "a\nb", "a@b", ".", "..", "-a"] {
        for action in ["save", "restore", "delete"] {
            let refused = session
                .error("snapshot", json!({"action": action, "name": name}))
                .await;
            assert!(refused.contains("1 to 64"), "{name:?}: {refused}");
        }
    }
    // A stray file among the snapshots is no snapshot, and stays.
    let stray = place.store().join("snapshots/stray.json");
    std::fs::write(&stray, "?").unwrap();
    let listed = session.call("snapshot", json!({"action": "list"})).await;
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    session
        .error("snapshot", json!({"action": "restore", "name": "stray"}))
        .await;
    session
        .error("snapshot", json!({"action": "save", "name": "stray"}))
        .await;
    assert!(stray.exists());
    assert_eq!(
        session.stdout("cat /etc/marker").await,
        "marker\n",
        "the system runs on"
    );
    snapshot("delete", "a").await;
    let gone = session
        .error("snapshot", json!({"action": "restore", "name": "a"}))
        .await;
    assert!(gone.contains("`a`"), "{gone}");
    session.close().await;

    // A new server starts from the snapshot.
    let (code, out, err) = place
        .run(&[
            "exec",
            "--snapshot",
            "b.with-marker_1",
            "--",
            "cat /etc/marker",
        ])
        .await;
    assert_eq!((code, out.as_str()), (0, "marker\n"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_the_running_system() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.root("echo one >/etc/state").await;
    session
        .call("snapshot", json!({"action": "save", "name": "one"}))
        .await;
    session.root("echo two >/etc/state").await;
    // The snapshot's layer exists but does not boot: the new machine fails, and the old one continues.
    let record = std::fs::read_to_string(place.store().join("snapshots/one.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let layer = place
        .store()
        .join("layers")
        .join(record["layers"][0].as_str().unwrap());
    let whole = std::fs::read(&layer).unwrap();
    let aside = layer.with_extension("aside");
    std::fs::rename(&layer, &aside).unwrap();
    std::fs::write(&layer, vec![0; 4096]).unwrap();
    let failed = session
        .error("snapshot", json!({"action": "restore", "name": "one"}))
        .await;
    assert!(!failed.is_empty());
    assert_eq!(session.stdout("cat /etc/state").await, "two\n");
    std::fs::rename(&aside, &layer).unwrap();
    assert_eq!(std::fs::read(&layer).unwrap().len(), whole.len());
    session
        .call("snapshot", json!({"action": "restore", "name": "one"}))
        .await;
    assert_eq!(session.stdout("cat /etc/state").await, "one\n");
    session.close().await;
}
