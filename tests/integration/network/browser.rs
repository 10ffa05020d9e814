//! A browser on this machine, and a development server in a sandbox.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::guest::Guest;
use super::installs::{NPM, npm};
use crate::common::{SOON, node};

const PAGE: &str = r#"<!doctype html>
<body><p id="text">nothing yet</p><script type="module" src="/main.js"></script></body>
"#;

/// Takes a new text without being loaded anew.
const MAIN: &str = r#"import { text } from "./text.js";
const show = (text) => { document.getElementById("text").textContent = text; };
show(text);
import.meta.hot.accept("./text.js", (changed) => show(changed.text));
"#;

/// Waits until the page shows this. Gives the time when it was loaded.
async fn shows(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> Value {
    loop {
        let line = tokio::time::timeout(SOON, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("the page does not show `{text}`"));
        let line = line.unwrap().expect("the browser runs");
        let shown: Value = serde_json::from_str(&line).unwrap();
        if shown["text"] == text {
            return shown["loaded"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium, and takes minutes: run `make browser`"]
async fn a_page_of_the_sandbox_changes_in_a_browser() {
    let guest = Guest::with_packages(1024).await;
    npm(&guest).await;
    guest
        .run(&format!(
            "mkdir /tmp/tools && cd /tmp/tools && {NPM} install --no-audit vite"
        ))
        .await;
    let site = guest.place.workspace.join("site");
    std::fs::create_dir(&site).unwrap();
    for (name, content) in [
        ("index.html", PAGE),
        ("main.js", MAIN),
        ("text.js", "export const text = \"the first text\";\n"),
    ] {
        std::fs::write(site.join(name), content).unwrap();
    }
    let serve = "exec ./node /tmp/tools/node_modules/vite/bin/vite.js --port 5173 site";
    let ask = json!({"command": serve, "background": true});
    guest.session.call("exec", ask).await;
    let listens = "curl -sS --retry 300 --retry-connrefused --retry-delay 1 http://localhost:5173/";
    guest.run(listens).await;
    let ask = json!({"action": "open", "port": 5173});
    let opened = guest.session.call("port", ask).await;
    let url = opened["url"].as_str().unwrap();

    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new(node())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/integration/network/browser.mjs"
        ))
        .arg(profile.path())
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(browser.stdout.take().unwrap()).lines();
    let loaded = shows(&mut lines, "the first text").await;
    let edit = json!({"path": "site/text.js", "old_string": "first", "new_string": "second"});
    guest.session.call("edit", edit).await;
    // The WebSocket told the page, which was not loaded anew.
    assert_eq!(shows(&mut lines, "the second text").await, loaded);
    drop(browser.stdin.take());
    browser.wait().await.unwrap();
    guest.session.close().await;
}
