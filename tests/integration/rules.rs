//! What a person configures of the network, and changes while a sandbox runs: without a machine.

use std::process::Stdio;

use rmcp::model::ReadResourceRequestParams;
use serde_json::Value;

use crate::common::{Place, Session, lossy};

/// The program at a place with a configuration of its own.
fn command(place: &Place, arguments: &[&str]) -> tokio::process::Command {
    let mut command = place.command(arguments);
    command
        .env("XDG_CONFIG_HOME", place.dir.path().join("config"))
        .stdin(Stdio::null());
    command
}

async fn run(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let output = command(place, arguments).output().await.unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, lossy(&output.stdout), lossy(&output.stderr))
}

async fn json(place: &Place, arguments: &[&str]) -> Value {
    let (code, out, err) = run(place, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{code} {error}: {out}{err}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_shown_explained_and_saved_without_a_sandbox() {
    let place = Place::new("minimal");
    let file = place.dir.path().join("config/snowglobe/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(
        &file,
        "# mine\n[network]\nallow = [\"packages\"] # what I need\n",
    )
    .unwrap();
    let (code, out, err) = run(&place, &["network", "show"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("mode      list\nallow     packages  ") && out.contains("config.toml"),
        "{out}"
    );
    let (code, out, _) = run(&place, &["network", "check", "https://pypi.org/simple/"]).await;
    assert!(
        code == 0 && out.contains("allowed by the rule `packages (pypi.org)`"),
        "{out}"
    );
    let (code, out, _) = run(&place, &["network", "check", "evil.example"]).await;
    assert_eq!(code, 1);
    assert!(
        out.contains("refused: no rule allows it")
            && out.contains("snowglobe network allow evil.example"),
        "{out}"
    );
    let (code, _, err) = run(&place, &["network", "allow", "x.example"]).await;
    assert!(
        code == 125 && err.contains("--save") && err.contains("snowglobe start --allow x.example"),
        "{err}"
    );
    let saved = json(&place, &["network", "allow", "x.example", "--save"]).await;
    assert_eq!(
        (&saved["applied"], saved["saved"].as_str()),
        (&Value::Bool(false), file.to_str())
    );
    let (code, _, err) = run(&place, &["network", "deny", "upload.pypi.org", "--save"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "# mine\n[network]\nallow = [\"packages\", \"x.example\"] # what I need\ndeny = [\"upload.pypi.org\"]\n"
    );
    let (code, _, err) = run(&place, &["network", "allow", "pakages", "--save"]).await;
    assert!(
        code == 2 && err.contains("did you mean `packages`?"),
        "{err}"
    );
    let explained = json(&place, &["network", "explain", "packages"]).await;
    let rules = explained["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["rule"] == "pypi.org"));
    let settings = json(&place, &["config"]).await;
    let denied = settings
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["key"] == "network.deny");
    assert_eq!(
        denied.unwrap()["value"],
        serde_json::json!(["upload.pypi.org"])
    );
}

/// A sandbox whose machine is off has a network, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_sandbox_follows_changes_at_once() {
    let place = Place::new("minimal");
    let session = Session::over(command(&place, &["serve"])).await;
    let told = session.client.peer_info().unwrap();
    let instructions = told.instructions.clone().unwrap_or_default();
    assert!(
        instructions.contains("There is no network"),
        "{instructions}"
    );
    let changed = json(&place, &["network", "allow", "packages", "db.example:5432"]).await;
    assert_eq!(changed["applied"], true);
    assert_eq!(changed["network"]["mode"], "list");
    let changed = json(&place, &["network", "deny", "db.example:5432"]).await;
    assert_eq!(changed["network"]["allow"].as_array().unwrap().len(), 1);
    let shown = json(&place, &["network", "show"]).await;
    assert_eq!(
        (&shown["running"], &shown["allow"][0]["origin"]),
        (
            &Value::Bool(true),
            &Value::String("snowglobe network".into())
        )
    );
    let (code, out, _) = run(&place, &["network", "check", "pypi.org"]).await;
    assert!(code == 0 && out.contains("from snowglobe network"), "{out}");
    let row = json(&place, &["status"]).await;
    assert_eq!(
        (&row["network"], row["network_rules"].as_str()),
        (
            &Value::String("list".into()),
            Some("list: packages, but not db.example:5432")
        )
    );
    // Another client is told what holds now, and one that asks for the same joins.
    let second = Session::over(command(&place, &["serve", "--allow", "packages"])).await;
    let told = second.client.peer_info().unwrap();
    let instructions = told.instructions.clone().unwrap_or_default();
    assert!(
        instructions.contains("reaches only: packages"),
        "{instructions}"
    );
    let read = ReadResourceRequestParams::new("snowglobe://network");
    let read = second.client.read_resource(read).await.unwrap();
    let read = serde_json::to_value(read).unwrap();
    let text = read["contents"][0]["text"].as_str().unwrap();
    let resource: Value = serde_json::from_str(text).unwrap();
    assert_eq!(resource["now"]["deny"][0]["rule"], "db.example:5432");
    assert_eq!(resource["log"], serde_json::json!([]));
    let (code, _, err) = run(&place, &["network", "log"]).await;
    assert!(code == 0 && err.contains("nothing of the network"), "{err}");
    second.close().await;
    session.close().await;
}
