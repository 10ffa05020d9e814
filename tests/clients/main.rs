//! The official clients, as `.ci/clients` installs them, with a real VM behind the server: the SDKs of Python and
//! TypeScript and the inspector, each on stdio and HTTP, each in both eras of the protocol.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

#[path = "../integration/common/mod.rs"]
mod common;
mod models;

use std::path::{Path, PathBuf};

use common::http::{Served, serve_http};
use common::{PROGRAM, Place, TOOLS};
use serde_json::{Map, Value, json};

/// The directory into which `.ci/clients` installs.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path);
    assert!(
        path.exists(),
        "{} is missing: run `.ci/clients`",
        path.display()
    );
    path
}

/// A client's own description of a server on standard streams.
fn stdio(place: &Place, mode: &str) -> Value {
    let command = place.command(&[]);
    let value = |value: &std::ffi::OsStr| Value::from(value.to_string_lossy());
    let env: Map<String, Value> = command
        .as_std()
        .get_envs()
        .filter_map(|(name, it)| Some((name.to_string_lossy().into_owned(), value(it?))))
        .collect();
    let command = json!([
        PROGRAM,
        "serve",
        "--rm",
        "--workspace",
        place.workspace,
        "--confirm",
        "ask"
    ]);
    json!({"transport": "stdio", "mode": mode, "command": command, "env": env})
}

/// A client's own description of a server over HTTP.
fn http(served: &Served, mode: &str) -> Value {
    let url = format!("http://{}/mcp", served.address);
    json!({"transport": "http", "mode": mode, "url": url, "token": served.token})
}

/// Runs a test client on an SDK, and returns what it saw.
async fn run(program: &Path, script: &Path, server: Value) -> Value {
    let done = tokio::process::Command::new(program)
        .arg(script)
        .arg(server.to_string())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{} {server}: {said}",
        script.display()
    );
    serde_json::from_slice(&done.stdout).unwrap()
}

fn check(seen: &Value, version: &str, is_given_handle: bool) {
    assert_eq!(seen["version"], version, "{seen}");
    assert_eq!(seen["server"], "snowglobe");
    assert_eq!(seen["tools"], json!(TOOLS));
    assert_eq!(seen["first"]["exit_code"], 3);
    assert_eq!(seen["first"]["stdout"], "hello\n");
    let text = seen["text"].as_str().unwrap();
    assert!(
        text.starts_with("hello\n[stderr]\nproblem\n[exit code 3"),
        "{text}"
    );
    let kept = &seen["second"]["stdout"];
    assert_eq!(kept, "kept\n", "the sandbox is the same: {seen}");
    assert_eq!(seen["refused"][0], true);
    let progress = seen["progress"].as_u64().unwrap();
    assert!(progress > 0, "the boot is told: {seen}");
    // A session has a sandbox, which ends with it; a client without a session gets a handle.
    assert_eq!(seen["handle"].is_string(), is_given_handle, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_speaks_both_eras_on_both_transports() {
    let python = installed("python/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python_sdk.py");
    let place = Place::new("minimal");
    let served = serve_http(&["--max-sandboxes", "2", "--confirm", "ask"]).await;
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let on_stdio = run(&python, &script, stdio(&place, mode)).await;
        check(&on_stdio, version, false);
        let on_http = run(&python, &script, http(&served, mode)).await;
        check(&on_http, version, mode != "legacy");
        for seen in [on_stdio, on_http] {
            assert_eq!(seen["updated"][0], seen["updated"][1], "{seen}");
            assert_eq!(seen["asked"].as_array().map(Vec::len), Some(2), "{seen}");
            assert_eq!(seen["declined"][0], true, "{seen}");
            assert_eq!(
                (&seen["kept"], &seen["gone"]),
                (&json!(0), &json!(1)),
                "{seen}"
            );
            assert_eq!(seen["rebooted"], false, "{seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_typescript_sdks_speak_on_both_transports_and_the_newer_in_both_eras() {
    // Node searches modules in the program's directory.
    let script = installed("clients").join("typescript_sdk.mjs");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/clients/typescript_sdk.mjs"
    );
    std::fs::copy(source, &script).unwrap();
    let place = Place::new("minimal");
    let served = serve_http(&["--max-sandboxes", "3"]).await;
    for (mode, version) in [
        ("v1", "2025-11-25"),
        ("legacy", "2025-11-25"),
        ("2026-07-28", "2026-07-28"),
    ] {
        let seen = run(&common::node(), &script, stdio(&place, mode)).await;
        check(&seen, version, false);
        let seen = run(&common::node(), &script, http(&served, mode)).await;
        check(&seen, version, mode == "2026-07-28");
    }
}

/// Runs the inspector once; returns its output.
async fn inspect(home: &Path, target: &[String], arguments: &[&str]) -> Value {
    let inspector = "clients/node_modules/@modelcontextprotocol/inspector/clients/launcher/build";
    let done = tokio::process::Command::new(common::node())
        .arg(installed(inspector).join("index.js"))
        .args(["--cli", "--format", "json"])
        .args(arguments)
        .args(target)
        .env("HOME", home)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?} {target:?}: {said}");
    let printed: Value = serde_json::from_slice(&done.stdout).unwrap();
    printed["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_finds_no_fault_on_either_transport_in_either_era() {
    let place = Place::new("minimal");
    let home = place.dir.path();
    let server = stdio(&place, "");
    let mut on_stdio: Vec<String> = Vec::new();
    for (name, value) in server["env"].as_object().unwrap() {
        on_stdio.extend(["-e".into(), format!("{name}={}", value.as_str().unwrap())]);
    }
    on_stdio.push("--".into());
    on_stdio.extend(
        server["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned()),
    );
    let served = serve_http(&["--max-sandboxes", "2"]).await;
    let url = format!("http://{}/mcp", served.address);
    let header = format!("Authorization: {}", served.bearer());
    let on_http = [
        "--transport",
        "http",
        "--server-url",
        &url,
        "--header",
        &header,
    ];
    let on_http: Vec<String> = on_http.iter().map(|it| it.to_string()).collect();
    for target in [&on_stdio, &on_http] {
        for era in ["legacy", "modern"] {
            let era = ["--protocol-era", era];
            // The status is 6 if some client can't use a schema.
            let list = ["--method", "tools/list", "--strict"];
            let listed = inspect(home, target, &[&era[..], &list].concat()).await;
            let names = listed["tools"].as_array().unwrap().iter();
            let names: Vec<&Value> = names.map(|tool| &tool["name"]).collect();
            assert_eq!(json!(names), json!(TOOLS));
            let call = ["--method", "tools/call", "--tool-name", "exec"];
            let call = [&call[..], &["--tool-arg", "command=echo inspected"]].concat();
            let called = inspect(home, target, &[&era[..], &call].concat()).await;
            let seen = &called["structuredContent"];
            assert_eq!(seen["stdout"], "inspected\n", "{called}");
            assert_eq!(seen["exit_code"], 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_passes_the_official_packer_and_what_is_unpacked_serves() {
    let place = Place::new("minimal");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = async |command: &mut tokio::process::Command| {
        let done = command.current_dir(repository).output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command:?}: {said}");
    };
    let made = place.dir.path().join("bundle");
    let url = "https://example.com/releases/snowglobe.mcpb";
    run(tokio::process::Command::new(".ci/bundle")
        .arg(&made)
        .arg(url))
    .await;
    let bundle = made.join("snowglobe.mcpb");
    let unpacked = place.dir.path().join("unpacked");
    let packer = "clients/node_modules/@anthropic-ai/mcpb/dist/cli/cli.js";
    let mut unpack = tokio::process::Command::new(common::node());
    unpack.arg(installed(packer)).arg("unpack");
    run(unpack.arg(&bundle).arg(&unpacked)).await;

    let read =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let manifest = read(&unpacked.join("manifest.json"));
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    let names: Vec<&Value> = manifest["tools"].as_array().unwrap().iter().collect();
    let names: Vec<&Value> = names.iter().map(|tool| &tool["name"]).collect();
    assert_eq!(json!(names), json!(TOOLS));
    let fill = |text: &Value| {
        let text = text.as_str().unwrap();
        let text = text.replace("${__dirname}", unpacked.to_str().unwrap());
        text.replace(
            "${user_config.workspace}",
            place.workspace.to_str().unwrap(),
        )
    };
    let config = &manifest["server"]["mcp_config"];
    let mut server = tokio::process::Command::new(fill(&config["command"]));
    server.args(config["args"].as_array().unwrap().iter().map(fill));
    let env = stdio(&place, "")["env"].clone();
    let env = env.as_object().unwrap();
    server
        .env_clear()
        .envs(env.iter().map(|(k, v)| (k, v.as_str().unwrap())));
    let session = common::Session::over(server).await;
    assert_eq!(session.stdout("echo bundled").await, "bundled\n");
    session.close().await;

    let registered = read(&made.join("server.json"));
    assert_eq!(registered["version"], env!("CARGO_PKG_VERSION"));
    // The requirements of the registry's schema.
    let about = registered["description"].as_str().unwrap();
    assert!((1..=100).contains(&about.len()), "{about}");
    assert_eq!(registered["name"].as_str().unwrap().split('/').count(), 2);
    let package = &registered["packages"][0];
    assert_eq!(package["registryType"], "mcpb");
    assert_eq!(package["identifier"], url);
    let bytes = std::fs::read(&bundle).unwrap();
    let sum: String =
        sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(bytes))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
    assert_eq!(package["fileSha256"], sum);
}
