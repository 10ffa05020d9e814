//! The agent and a model that is others' software, in every provider's protocol.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::common::{self, Place, lossy};
use super::installed;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_others_is_asked_in_every_protocol() {
    let script = installed("clients").join("models.mjs");
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/models.mjs"),
        &script,
    )
    .unwrap();
    let mut model = tokio::process::Command::new(common::node())
        .arg(&script)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(model.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("the model starts");
    let place = Place::new("minimal");
    let config = place.dir.path().join("config");
    std::fs::create_dir_all(config.join("snowglobe")).unwrap();
    let protocols = ["messages", "responses", "chat", "gemini"];
    let provider = |protocol: &str| {
        format!("[providers.{protocol}]\nprotocol = '{protocol}'\nurl = '{url}'\nkey_env = 'KEY'\n")
    };
    let file: String = protocols.map(provider).concat();
    std::fs::write(config.join("snowglobe/agent.toml"), file).unwrap();
    let run = async |key: &str, arguments: &[&str]| {
        let mut command = place.command(&[&["agent"], arguments].concat());
        command.env("XDG_CONFIG_HOME", &config).env("KEY", key);
        command.env("SNOWGLOBE_DATA_DIR", Place::data_dir());
        let done = command.stdin(Stdio::null()).output().await.unwrap();
        (done.status.code(), lossy(&done.stdout), lossy(&done.stderr))
    };
    for protocol in protocols {
        let name = match protocol {
            "responses" => "responses/gpt-6-sol".to_owned(),
            "messages" => "messages/claude-sonnet-5-5".to_owned(),
            "gemini" => "gemini/gemini-4-argon".to_owned(),
            protocol => format!("{protocol}/model"),
        };
        let (status, out, err) = run("a-secret-key", &["models", "--test", &name]).await;
        assert_eq!(status, Some(0), "{out}{err}");
        let (status, out, _) = run("another-key", &["models", "--test", &name]).await;
        assert_eq!(status, Some(1), "{out}");
        assert!(out.contains("does not accept the key from KEY"), "{out}");
        let (status, out, err) = run("a-secret-key", &["-p", "Run both.", "--model", &name]).await;
        assert_eq!(
            (status, out.as_str()),
            (Some(0), "Both ran.\n"),
            "{name}: {err}"
        );
    }
}
