//! `snowglobe agent models`, and answers that a provider makes hard.

use std::process::Stdio;

use serde_json::{Value, json};

use super::scripted::{Answer, ScriptedModel};
use super::task::Desk;
use crate::common::{SOON, lossy};

/// The protocols.
const PROTOCOLS: [&str; 4] = ["messages", "responses", "chat", "gemini"];

/// Runs the agent to its end: its exit status and what it printed.
async fn run(desk: &Desk, arguments: &[&str]) -> (i32, String, String) {
    let run = desk.command(arguments).stdin(Stdio::null()).output();
    let done = tokio::time::timeout(SOON, run).await.unwrap().unwrap();
    (
        done.status.code().unwrap(),
        lossy(&done.stdout),
        lossy(&done.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_with_what_is_known_of_them() {
    let more = "[models.\"here/model\"]\nwindow = 50_000\nprice = { input = 1, output = 2.5 }\n";
    for protocol in PROTOCOLS {
        let desk = Desk::new(protocol, more, ScriptedModel::start(Vec::new()));
        let (status, out, err) = run(&desk, &["models"]).await;
        assert_eq!(status, 0, "{err}");
        for line in [
            "here  (key: HERE_KEY)",
            "    here/scripted        32,768 tokens",
            "there is no key; set ANTHROPIC_API_KEY",
            "default: here/model (50,000 tokens, $1 in, $2.5 out)",
        ] {
            assert!(out.contains(line), "{line} is not in: {out}");
        }
        let (_, json, _) = run(&desk, &["models", "--json"]).await;
        let listed: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(listed["default"], "here/model");
        let providers = listed["providers"].as_array().unwrap();
        let here = providers
            .iter()
            .find(|provider| provider["provider"] == "here")
            .unwrap();
        assert_eq!(
            (&here["key"], &here["usable"]),
            (&json!("HERE_KEY"), &json!(true))
        );
        assert_eq!(here["models"][1]["name"], "here/scripted-small");
        assert!(!format!("{out}{err}{json}").contains("a-secret-key"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_tested_and_the_reason_of_a_failure_is_said() {
    for protocol in PROTOCOLS {
        let answers = vec![
            Answer::text("ok"),
            Answer::failure(401, "authentication_error", "invalid key a-secret-key"),
            Answer::failure(529, "overloaded_error", "busy\u{1b}[2J"),
        ];
        let desk = Desk::new(
            protocol,
            "[models.\"here/other\"]\n",
            ScriptedModel::start(answers),
        );
        let (status, out, err) = run(&desk, &["models", "--test", "here/model"]).await;
        assert_eq!(status, 0, "{out}{err}");
        assert!(out.starts_with("here/model: ok, "), "{out}");
        let (status, out, _) = run(&desk, &["models", "--test", "here/model"]).await;
        assert_eq!(status, 1, "{out}");
        let why = "here/model: failed to ask here/model: here does not accept the key from HERE_KEY: invalid key [key]\n";
        assert_eq!(out, why);
        let (status, out, _) = run(&desk, &["models", "--test", "here/other"]).await;
        assert_eq!(status, 1);
        let why = "here/other: failed to ask here/other: it is overloaded: busy\\u{1b}[2J\n";
        assert_eq!(out, why);
        // The default and those in the file.
        let (status, out, _) = run(&desk, &["models", "--test", "--json"]).await;
        let tested: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (status, tested.as_array().map(Vec::len)),
            (1, Some(2)),
            "{out}"
        );
        assert_eq!(desk.model.requests().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_file_is_said() {
    let desk = Desk::new(
        "chat",
        "kye_env = \"X\"\n",
        ScriptedModel::start(Vec::new()),
    );
    let (status, _, err) = run(&desk, &["models"]).await;
    assert_eq!(status, 125, "{err}");
    assert!(
        err.contains("agent.toml: line 6: unknown key `kye_env`; did you mean `key_env`?"),
        "{err}"
    );
}

/// Failures that pass are waited for and told; the answer is printed once, whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_after_failures_that_pass() {
    for protocol in PROTOCOLS {
        let model = ScriptedModel::start(vec![
            Answer::failure(429, "rate_limit_error", "slow down").header("retry-after", "1"),
            Answer::text("half an ").broken(),
            Answer::reasoning("I think. ")
                .and_text("The whole 日本 answer. ")
                .chopped(2),
        ]);
        let desk = Desk::new(protocol, "", model);
        let (status, out, err) = run(&desk, &["-p", "hello"]).await;
        assert_eq!(
            (status, out.as_str()),
            (0, "The whole 日本 answer.\n"),
            "{protocol}: {err}"
        );
        assert!(err.contains("it limits the rate: slow down"), "{err}");
        assert!(err.contains("the connection broke"), "{err}");
        assert_eq!(desk.model.requests().len(), 3);
    }
}

/// The variables for proxies count, as for other programs.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used() {
    let desk = Desk::new("chat", "", ScriptedModel::start(vec![Answer::text("ok")]));
    let file = desk.place.dir.path().join("config/snowglobe/agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(&desk.model.url(), "http://models.example");
    std::fs::write(&file, text).unwrap();
    let mut command = desk.command(&["models", "--test"]);
    command
        .env("http_proxy", desk.model.url())
        .stdin(Stdio::null());
    let done = command.output().await.unwrap();
    let (out, err) = (lossy(&done.stdout), lossy(&done.stderr));
    assert!(out.starts_with("here/model: ok"), "{out}{err}");
    let asked = desk.model.requests();
    assert_eq!(asked[0].path, "http://models.example/v1/chat/completions");
}
