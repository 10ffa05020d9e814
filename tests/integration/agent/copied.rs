//! A person reviews and applies in the agent's terminal what the model did in a copied workspace.

use std::fs;
use std::time::Duration;

use serde_json::json;

use super::pty::Terminal;
use super::scripted::{Answer, ScriptedModel};
use super::task::{Desk, results};
use super::terminal::READY;
use crate::common::on_the_host;

/// Longer than a question waits before a key counts as its answer.
const PAUSE: Duration = Duration::from_millis(600);

/// What is on the screen only while a question waits for its answer.
const ASKED: &str = "Yes (y)";

/// Presses a key until the question is answered. A key that came too early is in the editor, and is removed.
fn answers(terminal: &Terminal, question: &str, key: &str) {
    terminal.shows(question);
    terminal.shows(ASKED);
    while terminal.screen().contains(ASKED) {
        std::thread::sleep(PAUSE);
        terminal.write(key);
        std::thread::sleep(PAUSE);
    }
    terminal.write("\x15");
}

/// Enters a command, and waits for what it shows.
fn enters(terminal: &Terminal, command: &str, shown: &[&str]) {
    terminal.write(format!("{command}\r"));
    terminal.until(command, |seen| {
        let whole = seen.whole();
        shown.iter().all(|part| whole.contains(part)).then_some(())
    });
}

#[test]
fn a_person_reviews_and_applies_in_the_agents_terminal() {
    let change = "sed -i 's/^3$/three/' numbers && echo made >made && echo 'echo hello' >.envrc";
    let desk = Desk::new(
        "chat",
        "",
        ScriptedModel::start(vec![
            Answer::call("exec", json!({ "command": change })),
            Answer::call("changes", json!({"action": "apply"})),
            Answer::text("You did not want that."),
        ]),
    );
    desk.place
        .configure("workspace_mode = \"copy\"\n[protect]\nshell = \"deny\"\n");
    let workspace = &desk.place.workspace;
    on_the_host(
        workspace,
        "git init -q -b main . && seq 9 >numbers && git add -A && git commit -qm one",
    );
    let terminal = desk.on_a_terminal(120, 50);
    terminal.shows(READY);
    terminal.write("change the numbers\r");
    // The model asks to apply, and the person says no.
    answers(
        &terminal,
        "Apply all changes that are not flagged of the sandbox to your directory?",
        "n",
    );
    terminal.shows("You did not want that.");
    let told = results(&desk.model.requests()[2]);
    assert!(told[1].contains("the person declined"), "{told:?}");
    let numbers = || fs::read_to_string(workspace.join("numbers")).unwrap();
    assert!(!numbers().contains("three") && !workspace.join("made").exists());

    enters(
        &terminal,
        "/review",
        &[
            "added    made (+1 -0)",
            "modified numbers (+1 -1)",
            "not applied unless it is named",
        ],
    );
    enters(&terminal, "/review numbers", &["-3", "+three"]);
    terminal.write("/apply numbers made\r");
    answers(
        &terminal,
        "Apply the changes of numbers, made of the sandbox to your directory?",
        "y",
    );
    terminal.shows("2 files applied");
    assert_eq!(numbers(), "1\n2\nthree\n4\n5\n6\n7\n8\n9\n");
    assert_eq!(
        fs::read_to_string(workspace.join("made")).unwrap(),
        "made\n"
    );
    assert!(!workspace.join(".envrc").exists(), "it was not named");
    let mut terminal = terminal;
    terminal.write("\x04");
    assert!(terminal.ended().success());
}
