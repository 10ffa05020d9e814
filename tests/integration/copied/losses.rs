//! What was not applied is not lost unseen: restores, ends and removals say what becomes of it.

use std::fs;

use serde_json::{Value, json};

use super::{changes, guest, host, json_of, repository, run, works};
use crate::common::{Place, Session, text};

/// What a subcommand says to a person; it must work.
async fn says(place: &Place, arguments: &[&str]) -> String {
    let (code, out, err) = run(place, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out + &err
}

/// The automatic snapshot that a text names.
fn named(text: &str) -> Option<String> {
    let rest = text.split_once("in the snapshot `")?.1;
    Some(rest.split_once('`')?.0.to_owned())
}

async fn restore(place: &Place, name: &str) -> Option<String> {
    named(&says(place, &["snapshot", "restore", name]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_keep_what_was_not_applied_as_snapshots() {
    let place = repository("debian");
    guest(&place, "echo one >work").await;
    works(&place, &["snapshot", "save", "a"]).await;
    guest(&place, "echo two >>work; touch ~/system").await;
    let first = restore(&place, "a").await.expect("a snapshot");
    assert!(first.starts_with("before-restore-"), "{first}");
    let state = "cat work; ls ~/system 2>/dev/null; true";
    assert_eq!(guest(&place, state).await, "one\n");
    let second = restore(&place, "a").await.expect("another snapshot");
    assert_ne!(first, second);
    restore(&place, &first).await;
    assert_eq!(
        guest(&place, state).await,
        "one\ntwo\n/home/sandbox/system\n",
        "the system comes back, too"
    );
    restore(&place, &second).await;
    assert_eq!(guest(&place, state).await, "one\n");
    // What was applied is on the host.
    works(&place, &["apply"]).await;
    assert_eq!(restore(&place, "a").await, None);
    // The same where no machine runs.
    guest(&place, "echo three >>work").await;
    works(&place, &["stop"]).await;
    let third = restore(&place, "a").await.expect("a snapshot");
    assert_eq!(guest(&place, state).await, "one\n");
    // A machine that ends by itself does not take the copy back to the snapshot that its sandbox was started from.
    guest(&place, "echo four >>work; sync work").await;
    run(
        &place,
        &[
            "exec",
            "--root",
            "--",
            "echo c >/proc/sysrq-trigger; sleep 60",
        ],
    )
    .await;
    run(&place, &["exec", "--", "true"]).await;
    assert_eq!(guest(&place, state).await, "one\nfour\n");
    restore(&place, &third).await;
    assert_eq!(guest(&place, state).await, "one\nthree\n");
}

/// What `data` knows of the copy.
async fn unapplied(place: &Place) -> Value {
    let all = json_of(place, &["data"]).await;
    let all = all["sandboxes"].as_array().unwrap().clone();
    let own = all.into_iter().find(|one| one["name"] == place.name());
    own.unwrap()["unapplied_changes"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_removals_say_what_was_not_applied() {
    let place = repository("debian");
    let said = says(&place, &["exec", "--rm", "--", "echo x >x; echo y >y"]).await;
    assert!(
        said.contains("is gone, with 2 changes that were not applied"),
        "{said}"
    );
    let said = says(&place, &["exec", "--rm", "--", "true"]).await;
    assert!(!said.contains("gone"), "{said}");
    guest(&place, "echo x >x").await;
    assert_eq!(unapplied(&place).await, Value::Null, "it is used");
    let one = "a copy of the workspace with 1 change that was not applied";
    let (code, _, err) = run(&place, &["rm", "--force"]).await;
    assert!(code == 125 && err.contains(one), "{err}");
    works(&place, &["stop"]).await;
    assert_eq!(unapplied(&place).await, json!(1));
    let (code, _, err) = run(&place, &["rm"]).await;
    assert!(code == 125 && err.contains(one), "{err}");
    works(&place, &["apply"]).await;
    works(&place, &["stop"]).await;
    let said = says(&place, &["rm", "--yes"]).await;
    assert!(said.contains("(all its changes are applied)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_that_the_host_has_newer_files() {
    let place = repository("debian");
    guest(&place, "true").await;
    works(&place, &["stop"]).await;
    fs::write(place.workspace.join("newer"), "newer").unwrap();
    let same_size = host(&place, "src/a.c").replace("main", "niam");
    fs::write(place.workspace.join("src/a.c"), same_size).unwrap();
    let told = "2 files of the host are newer than the copy of the workspace; `snowglobe sync`";
    let said = says(&place, &["start"]).await;
    assert!(said.contains(told), "{said}");
    let said = says(&place, &["start"]).await;
    assert!(!said.contains("newer"), "it runs already: {said}");
    works(&place, &["stop"]).await;
    let mut command = place.command(&["serve"]);
    command.env("SNOWGLOBE_WORKSPACE_MODE", "copy");
    let session = Session::over(command).await;
    let result = text(&session.raw("exec", json!({"command": "true"})).await);
    assert!(result.contains(told), "{result}");
    let result = text(&session.raw("exec", json!({"command": "true"})).await);
    assert!(!result.contains("newer"), "{result}");
    session.close().await;
    works(&place, &["sync"]).await;
    assert_eq!(changes(&place).await, Vec::<String>::new());
    works(&place, &["stop"]).await;
    let said = says(&place, &["start"]).await;
    assert!(!said.contains("newer"), "{said}");
}
