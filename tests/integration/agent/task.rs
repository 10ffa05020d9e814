//! The loop without a terminal, with a real sandbox and a scripted model.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use super::scripted::{Answer, Asked, ScriptedModel};
use crate::common::{Place, SOON, lossy};

/// A place whose agent asks a scripted model.
pub(super) struct Desk {
    pub(super) place: Place,
    pub(super) model: ScriptedModel,
}

/// What the agent printed, and its exit status.
struct Done {
    status: i32,
    out: String,
    err: String,
}

impl Desk {
    /// With the protocol of that name, and more lines of `agent.toml`.
    pub(super) fn new(protocol: &str, more: &str, model: ScriptedModel) -> Self {
        let place = Place::new("debian");
        let desk = Self { place, model };
        std::fs::create_dir_all(desk.settings()).unwrap();
        // The crate adds the protocol's own paths to these.
        let version = if protocol == "gemini" { "v1beta" } else { "v1" };
        let text = format!(
            "model = \"here/model\"\n[providers.here]\nprotocol = \"{protocol}\"\nurl = \"{}/{version}/\"\nkey_env = \
             \"HERE_KEY\"\n{more}",
            desk.model.url()
        );
        std::fs::write(desk.settings().join("agent.toml"), text).unwrap();
        desk
    }

    /// A person has allowed this for ever. Gives the directory where that is kept.
    pub(super) fn allows_for_ever(&self, allowed: Value) -> PathBuf {
        let workspace = self.place.workspace.canonicalize().unwrap();
        let hash = Sha256::digest(workspace.as_os_str().as_encoded_bytes());
        let kept = format!("agent/workspace-{}", hex::encode(&hash[..4]));
        let kept = Place::data_dir().join(kept);
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(kept.join("allowed.json"), allowed.to_string()).unwrap();
        kept
    }

    fn settings(&self) -> PathBuf {
        self.place.dir.path().join("config/snowglobe")
    }

    pub(super) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.place.command(&[&["agent"], arguments].concat());
        command
            .env("XDG_CONFIG_HOME", self.place.dir.path().join("config"))
            .env("HERE_KEY", "a-secret-key")
            .env("SNOWGLOBE_DATA_DIR", Place::data_dir());
        command
    }

    /// Starts it without input; its outputs are read by the test.
    pub(super) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        let run = self.command(arguments).stdin(Stdio::null()).output();
        let output = tokio::time::timeout(SOON, run)
            .await
            .expect("it ends")
            .unwrap();
        Done {
            status: output.status.code().unwrap(),
            out: lossy(&output.stdout),
            err: lossy(&output.stderr),
        }
    }
}

/// The results of calls in a request, in the form of Chat Completions.
pub(super) fn results(asked: &Asked) -> Vec<String> {
    let messages = asked.body["messages"].as_array().unwrap();
    let results = messages.iter().filter(|message| message["role"] == "tool");
    results
        .map(|result| result["content"].to_string())
        .collect()
}

/// Each call has exactly one result, after it and before the next answer.
fn is_sound(asked: &Asked) {
    let mut open: Vec<String> = Vec::new();
    for message in asked.body["messages"].as_array().unwrap() {
        match message["role"].as_str().unwrap() {
            "assistant" => {
                assert!(open.is_empty(), "{message}: {open:?} have no results");
                let calls = message["tool_calls"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                open.extend(
                    calls
                        .iter()
                        .map(|call| call["id"].as_str().unwrap().to_owned()),
                );
            }
            "tool" => {
                let id = message["tool_call_id"].as_str().unwrap();
                let at = open.iter().position(|open| open == id);
                open.remove(at.unwrap_or_else(|| panic!("{id} was not called")));
            }
            _ => assert!(open.is_empty(), "{message}: {open:?} have no results"),
        }
    }
    assert!(open.is_empty(), "{open:?} have no results");
}

/// A C program whose test fails is mended: the model's calls reach the sandbox, and their results the model.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_done_from_its_beginning_to_its_end() {
    let edit = json!({"path": "sum.c", "old_string": "a - b", "new_string": "a + b"});
    let model = ScriptedModel::start(vec![
        Answer::text("I look.")
            .and_call(
                "plan",
                json!({"items": [{"step": "mend", "status": "active"}]}),
            )
            .and_call("exec", json!({"command": "make check"}))
            .and_call("read", json!({"path": "sum.c"})),
        Answer::call("edit", edit),
        Answer::call("exec", json!({"command": "make check"})),
        Answer::text("It adds now."),
    ]);
    let desk = Desk::new("chat", "", model);
    let write =
        |name: &str, text: &str| std::fs::write(desk.place.workspace.join(name), text).unwrap();
    write("AGENTS.md", "Call the checks with `make check`.");
    write(
        "sum.c",
        "#include <stdlib.h>\nint sum(int a, int b) { return a - b; }\nint main(void) { return sum(2, 2) == 4 ? 0 : 1; }\n",
    );
    write("Makefile", "check: sum\n\t./sum && echo fine\n");
    let done = desk.run(&["-p", "The check fails; mend it."]).await;
    assert_eq!(
        (done.status, done.out.as_str()),
        (0, "It adds now.\n"),
        "{}",
        done.err
    );
    let source = std::fs::read_to_string(desk.place.workspace.join("sum.c")).unwrap();
    assert!(source.contains("a + b"), "{source}");
    let asked = desk.model.requests();
    assert_eq!(asked.len(), 4);
    asked.iter().for_each(is_sound);
    let first = asked[0].body.to_string();
    for part in ["Call the checks with", "a private Linux microVM", "mend it"] {
        assert!(first.contains(part), "{part}");
    }
    let tools = asked[0].body["tools"].as_array().unwrap();
    assert!(tools.len() >= 9, "{tools:?}");
    let (seen, last) = (results(&asked[1]), results(&asked[3]));
    assert_eq!(seen.len(), 3);
    assert!(
        seen[1].contains("Error 1") && seen[2].contains("a - b"),
        "{seen:?}"
    );
    assert!(last[4].contains("fine"), "{last:?}");
    assert_eq!(asked[0].headers["authorization"], "Bearer a-secret-key");
}

/// What a model gets wrong comes back to it as a result that helps.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_gets_wrong_it_is_told() {
    let model = ScriptedModel::start(vec![
        Answer::call("exce", json!({"command": "true"}))
            .and_malformed_call("exec", "{\"command\": ")
            .and_call("exec", json!({"comand": "true"}))
            .and_call("plan", json!({"items": 3}))
            .and_call("snapshot", json!({"action": "restore", "name": "good"})),
        Answer::text("I see."),
    ]);
    let desk = Desk::new("chat", "", model);
    let done = desk.run(&["--json", "-p", "go"]).await;
    assert_eq!(done.status, 0, "{}", done.err);
    let asked = desk.model.requests();
    is_sound(&asked[1]);
    let told = results(&asked[1]);
    for (told, expected) in told.iter().zip([
        "exec",
        "command",
        "command",
        "list of steps",
        "the person did not allow this",
    ]) {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let events: Vec<Value> = done
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["type"] == kind)
            .collect()
    };
    assert_eq!((of("call").len(), of("result").len()), (4, 4));
    assert!(of("result").iter().all(|result| result["is_error"] == true));
    assert_eq!(of("question").len(), 1);
    assert_eq!(events.last().unwrap()["reason"], "done");

    // A person who wants to be asked about everything is not there.
    let model = ScriptedModel::start(vec![
        Answer::call("exec", json!({"command": "touch made"}))
            .and_call("read", json!({"path": "."})),
        Answer::text("I see."),
    ]);
    let desk = Desk::new("chat", "", model);
    let done = desk.run(&["--yes-inside=false", "-p", "go"]).await;
    assert_eq!(done.status, 0, "{}", done.err);
    let told = results(&desk.model.requests()[1]);
    assert!(
        told[0].contains("did not allow") && !told[1].contains("did not"),
        "{told:?}"
    );
    assert!(!desk.place.workspace.join("made").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_has_its_exit_status() {
    let model = ScriptedModel::answering(|_| Answer::call("plan", json!({"items": []})));
    let desk = Desk::new("chat", "", model);
    let done = desk.run(&["--max-turns", "2", "-p", "go"]).await;
    assert_eq!(done.status, 4, "{}", done.err);
    assert!(done.err.contains("2 answers of the model"), "{}", done.err);
    assert_eq!(desk.model.requests().len(), 2);
    let done = desk.run(&["--max-cost", "1", "-p", "go"]).await;
    assert_eq!(done.status, 2, "{}", done.err);
    assert!(
        done.err.contains("the price of here/model is not known"),
        "{}",
        done.err
    );

    let price = "[models.\"here/model\".price]\ninput = 10000.0\noutput = 1.0\n";
    let model = ScriptedModel::answering(|_| Answer::call("plan", json!({"items": []})));
    let desk = Desk::new("chat", price, model);
    let done = desk.run(&["--max-cost", "1.5", "-p", "go"]).await;
    assert_eq!(done.status, 4, "{}", done.err);
    // 100 tokens of each request, a dollar each.
    assert_eq!(desk.model.requests().len(), 2);

    let desk = Desk::new(
        "messages",
        "",
        ScriptedModel::start(vec![Answer::text("No.").refused()]),
    );
    let done = desk.run(&["-p", "go"]).await;
    assert_eq!(done.status, 3, "{}", done.err);

    let refusal = Answer::failure(401, "invalid_api_key", "Incorrect key a-secret-key");
    let desk = Desk::new("chat", "", ScriptedModel::start(vec![refusal]));
    let done = desk.run(&["-p", "go"]).await;
    assert_eq!(done.status, 125, "{}", done.err);
    assert!(
        done.err.contains("HERE_KEY") && !done.err.contains("a-secret-key"),
        "{}",
        done.err
    );
    let done = desk.run(&[]).await;
    assert!(
        done.status == 2 && done.err.contains("-p PROMPT"),
        "{}",
        done.err
    );
}

/// ctrl-C ends the command in the guest, the conversation stays sound and goes on later.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_turn_goes_on_later() {
    let model = ScriptedModel::start(vec![
        Answer::call("exec", json!({"command": "touch begun; sleep 4321"}))
            .and_call("exec", json!({"command": "echo second"})),
        Answer::text("Going on."),
    ]);
    let desk = Desk::new("chat", "", model);
    let mut child = desk.start(&["--json", "-p", "sleep"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun = desk.place.workspace.join("begun");
    let mut results = 0;
    while results == 0 || !begun.exists() {
        let line = tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await;
        if let Ok(line) = line {
            results += usize::from(line.unwrap().unwrap().contains("\"type\":\"result\""));
        }
    }
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = tokio::time::timeout(SOON, async {
        while lines.next_line().await.unwrap().is_some() {}
        child.wait().await.unwrap()
    });
    assert_eq!(status.await.unwrap().code(), Some(130));
    let (_, out, _) = desk
        .place
        .run(&["exec", "--", "pgrep -f '[s]leep 4321' || echo none"])
        .await;
    assert_eq!(out, "none\n");
    let done = desk.run(&["--continue", "-p", "go on"]).await;
    assert_eq!(
        (done.status, done.out.as_str()),
        (0, "Going on.\n"),
        "{}",
        done.err
    );
    let asked = desk.model.requests();
    is_sound(&asked[1]);
    let text = asked[1].body.to_string();
    assert!(text.contains("second") && text.contains("go on"), "{text}");
}

/// Killed at any moment, the session can be continued, and what was said is in it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_session_goes_on() {
    let mut at = 0;
    let model = ScriptedModel::answering(move |asked| {
        at += 1;
        match asked.body["messages"].to_string().contains("are you there") {
            true => Answer::text("Yes."),
            false => Answer::text("Step. ")
                .and_call(
                    "exec",
                    json!({"command": format!("echo step-{at}; sleep 0.1")}),
                )
                .and_call("read", json!({"path": "file"})),
        }
    });
    let desk = Desk::new("chat", "", model);
    std::fs::write(desk.place.workspace.join("file"), "text\n").unwrap();
    for round in 0..8_u32 {
        let mut child = desk
            .command(&["--json", "-p", &format!("begin number {round}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A random number of events after the prompt was taken.
        let mut left = None;
        while left != Some(0) {
            let line = tokio::time::timeout(SOON, lines.next_line()).await.unwrap();
            let line = line.unwrap().expect("it goes on until it is killed");
            match &mut left {
                Some(left) => *left -= 1,
                None if line.contains("\"type\":\"prompt\"") => {
                    left = Some(rand::random::<u32>() % 40)
                }
                None => {}
            }
        }
        child.kill().await.unwrap();
        let done = desk.run(&["--continue", "-p", "are you there?"]).await;
        assert_eq!(
            (done.status, done.out.as_str()),
            (0, "Yes.\n"),
            "{}",
            done.err
        );
        let last = desk.model.requests().pop().unwrap();
        is_sound(&last);
        assert!(
            last.body
                .to_string()
                .contains(&format!("begin number {round}"))
        );
    }
}

/// The connection to the model breaks at any byte of its answers, and the sandbox's server is killed at any moment:
/// the turn goes on to its end, and every call has its result.
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_at_any_moment_does_not_end_the_turn() {
    const STEPS: usize = 12;
    let mut asked_for = 0;
    let mut broke = false;
    let model = ScriptedModel::answering(move |asked| {
        asked_for += 1;
        let step = json!({"command": format!("echo step-$(({asked_for})); sleep 0.2")});
        let answer = match results(asked).len() >= STEPS {
            true => Answer::text("All steps are done."),
            false => Answer::text("A step. ").and_call("exec", step),
        };
        // Every other answer breaks off somewhere; what follows is a whole one.
        broke = !broke && rand::random();
        match broke {
            true => answer.chopped(40).broken_after(rand::random_range(0..30)),
            false => answer.chopped(rand::random_range(1..40)),
        }
    });
    let desk = Desk::new("chat", "", model);
    let mut child = desk.start(&["--json", "-p", "go"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    let mut kill_at = 20 + rand::random_range(0..20);
    let mut kills = 0;
    while let Some(line) = tokio::time::timeout(SOON, lines.next_line())
        .await
        .unwrap()
        .unwrap()
    {
        events.push(line);
        if events.len() < kill_at || kills == 3 {
            continue;
        }
        let (_, status, _) = desk.place.run(&["status", "--json"]).await;
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        if let Some(pid) = status["pid"].as_i64() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            kills += 1;
        }
        kill_at = events.len() + 10 + rand::random_range(0..20);
    }
    let ended = child.wait_with_output().await.unwrap();
    let all = events.join("\n");
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{all}{}",
        lossy(&ended.stderr)
    );
    assert!(kills > 0, "{all}");
    let asked = desk.model.requests();
    asked.iter().for_each(is_sound);
    let last = asked.last().unwrap();
    assert!(results(last).len() >= STEPS, "{all}");
    assert!(all.contains("All steps are done."), "{all}");
}

/// A conversation that is too long is summarized, and the summary keeps the plan and the files.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_summarized() {
    let model = ScriptedModel::answering(|asked| {
        let text = asked.body.to_string();
        if text.contains("You summarize a conversation") {
            return Answer::text("SUMMARY: it goes well.");
        }
        if text.contains("SUMMARY: it goes well.") {
            return Answer::text("Done.");
        }
        match text.contains("\"role\":\"tool\"") {
            true => Answer::failure(
                400,
                "context_length_exceeded",
                "This model's maximum context length is 8192 tokens.",
            ),
            false => Answer::call("write", json!({"path": "made.txt", "content": "x"})).and_call(
                "plan",
                json!({"items": [{"step": "the only step", "status": "active"}]}),
            ),
        }
    });
    let desk = Desk::new("chat", "", model);
    let done = desk.run(&["-p", "make the file"]).await;
    assert_eq!(
        (done.status, done.out.as_str()),
        (0, "Done.\n"),
        "{}",
        done.err
    );
    let last = desk.model.requests().pop().unwrap();
    is_sound(&last);
    let text = last.body.to_string();
    for kept in [
        "SUMMARY: it goes well.",
        "made.txt",
        "the only step",
        "make the file",
    ] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    assert!(results(&last).is_empty());
}

/// Standard input is part of the prompt; the machine can be restored where that was allowed; the demo needs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_used_in_pipes_and_shows_itself() {
    let model = ScriptedModel::start(vec![
        Answer::call("snapshot", json!({"action": "save", "name": "good"})),
        Answer::call("snapshot", json!({"action": "restore", "name": "good"})),
        Answer::text("Restored."),
    ]);
    let desk = Desk::new("chat", "", model);
    let kept = desk.allows_for_ever(json!(["restore"]));
    let mut child = desk
        .command(&["-p", "Look at this:"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"from the pipe").await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(SOON, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        lossy(&output.stdout),
        "Restored.\n",
        "{}",
        lossy(&output.stderr)
    );
    let asked = desk.model.requests();
    assert!(
        asked[0]
            .body
            .to_string()
            .contains("Look at this:\\n\\nfrom the pipe")
    );
    let told = results(&asked[2]).pop().unwrap();
    assert!(told.contains("restored"), "{told}");
    std::fs::remove_dir_all(kept).unwrap();

    // The demo makes its project below this directory.
    let home = desk.place.dir.path();
    let mut demo = desk.command(&["--demo", "--json"]);
    let output = demo.env("TMPDIR", home).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(SOON, output).await.unwrap().unwrap();
    let out = lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", lossy(&output.stderr));
    assert!(
        out.contains("all tests passed") && out.contains("expected IV, got IIII"),
        "{out}"
    );
    let sandboxes = std::fs::read_dir(Place::data_dir().join("sandboxes")).unwrap();
    let left = sandboxes.filter(|entry| {
        let directories = entry.as_ref().unwrap().path().join("directories");
        let directories = std::fs::read(directories).unwrap_or_default();
        let demo = home.join("snowglobe-demo-");
        lossy(&directories).contains(&*demo.to_string_lossy())
    });
    assert_eq!(left.count(), 0, "the demo leaves nothing");
}
