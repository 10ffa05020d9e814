//! `snowglobe log`: what was done in a sandbox and with it, by whom, while it runs and after its end.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::common::{Place, ended, on_the_host};

/// The lines of the log.
async fn lines(place: &Place, flags: &[&str]) -> Vec<Value> {
    let (code, out, err) = place.run(&[&["log", "--json"], flags].concat()).await;
    assert_eq!(code, 0, "{err}");
    let parsed = out.lines().map(|line| serde_json::from_str(line).unwrap());
    parsed.collect()
}

/// What a line is about, in short.
fn short(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let event = text("event");
    let by = match line["by"].as_str() {
        Some(by) => format!(" by {by}"),
        None => String::new(),
    };
    let what = match event.as_str() {
        "booted" => text("workspace"),
        "ended" => text("how"),
        "command" => text("command"),
        "command_ended" => line["outcome"]["code"].to_string(),
        "command_detached" | "job_killed" | "job_ended" => "job".to_owned(),
        "wrote" | "edited" => text("path"),
        "refused" => format!("{} {}", text("rule"), text("path")),
        "snapshot" => format!("{} {}", text("change"), text("name")),
        "changed" => paths(line),
        "workspace" => format!("{} {}", text("change"), paths(line)),
        "asked" => text("answer"),
        "network" => line["allow"].to_string(),
        "resolve" | "connect" => format!("{} {}", text("decision"), text("host")),
        _ => String::new(),
    };
    format!("{event} {what}{by}")
}

fn paths(line: &Value) -> String {
    let paths = line["paths"].as_array().unwrap().iter();
    let paths = paths.map(|step| {
        let (path, what) = (&step["path"], &step["what"]);
        format!("{} {}", path.as_str().unwrap(), what.as_str().unwrap())
    });
    paths.collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_a_sandbox_is_told_while_it_runs_and_after_its_end() {
    let place = Place::new("debian");
    let (code, out, err) = place.run(&["log"]).await;
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.contains("no sandbox has run for "), "{err}");
    fs::write(place.workspace.join("old"), "old").unwrap();
    let (code, _, _) = place
        .run(&["exec", "--", "echo 1 >new; rm old; mkdir .vscode; exit 3"])
        .await;
    assert_eq!(code, 3);
    let mut follow = place.command(&["log", "--json", "--follow", "--only", "commands"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = followed.next_line().await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["event"], "command");
    assert_eq!(next().await["event"], "command_ended");
    let server = place.serve_kept().await;
    let job = json!({"command": "echo begun; exec sleep 1000", "background": true});
    let job = server.call("exec", job).await;
    // The line is there while the command runs.
    let begun = next().await;
    assert_eq!(begun["command"], "echo begun; exec sleep 1000");
    assert_eq!(next().await["id"], begun["id"]);
    let id = job["job"]["id"].as_str().or(job["job_id"].as_str());
    let id = id.unwrap_or_else(|| panic!("{job}")).to_owned();
    server
        .call("job", json!({"id": id, "action": "kill"}))
        .await;
    server
        .call("write", json!({"path": "/tmp/w", "content": "12345"}))
        .await;
    let edit = json!({"path": "/tmp/w", "old_string": "34", "new_string": "43"});
    server.call("edit", edit).await;
    let ended = loop {
        let line = next().await;
        if line["event"] == "job_ended" {
            break line;
        }
    };
    assert_eq!((&ended["job"], &ended["by"]), (&id.into(), &"rmcp".into()));
    server
        .exec("python3 -c 'import socket; socket.create_connection((\"denied.example\", 80))'")
        .await;
    server
        .call("snapshot", json!({"action": "save", "name": "one"}))
        .await;
    server
        .call("snapshot", json!({"action": "restore", "name": "one"}))
        .await;
    server.close().await;
    let (code, _, err) = place.run(&["network", "allow", "pypi.org"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = place.run(&["snapshot", "delete", "one"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    follow.kill().await.unwrap();
    let all = lines(&place, &[]).await;
    let told: Vec<String> = all.iter().map(short).collect();
    let expected = [
        "booted mount",
        "command echo 1 >new; rm old; mkdir .vscode; exit 3 by command line",
        "changed new written, old removed by command line",
        "refused vscode .vscode by command line",
        "command echo begun; exec sleep 1000 by rmcp",
        "command_detached job by rmcp",
        "job_killed job by rmcp",
        "wrote /tmp/w by rmcp",
        "edited /tmp/w by rmcp",
        "command_ended 1 by rmcp",
        "snapshot saved one by rmcp",
        "ended restored to a snapshot by rmcp",
        "snapshot restored one by rmcp",
        "network [\"pypi.org\"] by command line",
        "snapshot deleted one by command line",
        "ended stopped",
    ];
    let mut left = told.iter();
    for wanted in expected {
        assert!(
            left.any(|told| told == wanted),
            "{wanted} is missing, or not in its place: {told:#?}"
        );
    }
    assert!(told.contains(&"command_ended 3 by command line".to_owned()));
    assert!(
        told.contains(&"resolve refused denied.example".to_owned()),
        "{told:#?}"
    );
    assert!(all.is_sorted_by_key(|line| line["time"].as_str().unwrap().to_owned()));
    assert_eq!(lines(&place, &["-n", "2"]).await, all[all.len() - 2..]);
    let snapshots = lines(&place, &["--only", "snapshots"]).await;
    assert_eq!(snapshots.len(), 3);
    // For a person a command is one line, and the end says what it came to.
    let (_, out, _) = place.run(&["log"]).await;
    assert!(
        out.contains("exit 3: exit code 3 after ") && out.contains("new, old (removed)"),
        "{out}"
    );
    let summary = out.split_once("\n\n").unwrap().1;
    assert!(
        summary.starts_with("done       3 commands (3 failed); ")
            && summary.contains("\nleft       ")
            && summary.contains("refused")
            && summary.contains("\nundo with  nothing to take back\n"),
        "{summary}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_copied_workspace_says_what_reached_the_host_and_how_to_take_it_back() {
    let place = Place::new("minimal");
    on_the_host(&place.workspace, "git init -q && echo 1 >a && git add a");
    let run = async |arguments: &[&str]| {
        let mut program = place.command(arguments);
        program.env("SNOWGLOBE_WORKSPACE_MODE", "copy");
        let (code, out, err) = ended(program).await;
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    run(&["exec", "--", "echo 2 >a; echo 3 >b"]).await;
    for _ in 0..2 {
        run(&["changes"]).await;
    }
    run(&["apply", "a"]).await;
    let log = run(&["log"]).await;
    assert!(
        log.contains("`snowglobe apply --undo` (1 applied changes)"),
        "{log}"
    );
    run(&["apply", "--undo"]).await;
    run(&["discard", "--yes", "b"]).await;
    fs::write(place.workspace.join("c"), "4").unwrap();
    run(&["sync"]).await;
    run(&["stop"]).await;
    let told: Vec<String> = lines(&place, &["--only", "files,applies"])
        .await
        .iter()
        .map(short)
        .collect();
    let expected = [
        "changed a modified, b added by command line",
        "workspace applied a written by command line",
        "workspace undone a restored by command line",
        "workspace discarded b taken back by command line",
        "workspace synced c written by command line",
    ];
    assert_eq!(told, expected);
    // Commands that the sandbox runs for itself are not recorded.
    let commands = lines(&place, &["--only", "commands"]).await;
    assert_eq!(commands.len(), 2, "{commands:?}");
    let log = run(&["log", "--summary"]).await;
    assert!(
        !log.contains("apply --undo") && log.contains("snowglobe discard"),
        "{log}"
    );
}
