//! The MCP surface with a real VM behind it: jobs, output, edit, search, resources.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rmcp::model::ReadResourceRequestParams;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::common::{Place, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_beside_other_calls_takes_input_and_ends_with_all_its_processes() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let list = json!({"action": "list"});
    assert_eq!(session.call("job", list.clone()).await["jobs"], json!([]));
    assert!(
        place.runtime_dir().read_dir().is_ok()
            && crate::common::descendants(session.pid).is_empty(),
        "listing the jobs must not boot the VM"
    );
    let line = "echo ready; while read line; do echo \"got $line\"; done; exit 4";
    let started = session
        .call(
            "exec",
            json!({"command": line, "background": true, "keep_stdin": true}),
        )
        .await;
    let id = started["job_id"].as_str().expect("it is a job").to_owned();
    assert!(started.get("exit_code").is_none_or(Value::is_null));
    assert_eq!(session.stdout("echo beside").await, "beside\n");
    let send = json!({"action": "input", "id": id, "input": "a\nb\n", "end": true});
    session.call("job", send).await;
    let wait = json!({"action": "wait", "id": id, "offset": 0, "timeout_s": 20});
    let ended = session.call("job", wait).await;
    assert_eq!(ended["jobs"][0]["exit_code"], 4, "{ended}");
    assert_eq!(ended["output"], "ready\ngot a\ngot b\n");
    let next = ended["next_offset"].as_u64().unwrap();
    let rest = json!({"action": "output", "id": id, "offset": next});
    assert_eq!(session.call("job", rest).await["output"], "");

    let line = "(setsid sleep 311 &); sleep 311";
    let started = session
        .call("exec", json!({"command": line, "background": true}))
        .await;
    let id = &started["job_id"];
    let killed = session
        .call("job", json!({"action": "kill", "id": id}))
        .await;
    assert_eq!(killed["jobs"][0]["state"], "killed");
    assert_eq!(session.exec("pidof sleep").await["exit_code"], 1);
    assert_eq!(
        session.call("job", list).await["jobs"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    session.call("reboot", json!({})).await;
    let gone = session
        .error("job", json!({"action": "output", "id": id}))
        .await;
    assert!(gone.contains("reboot"), "{gone}");
    session.close().await;
}

/// The result's note that begins with `begin`; it must exist.
fn note<'a>(result: &'a Value, begin: &str) -> &'a str {
    let notes = result["notes"].as_array().into_iter().flatten();
    let mut notes = notes.filter_map(Value::as_str);
    notes
        .find(|note| note.starts_with(begin))
        .unwrap_or_else(|| panic!("a note {begin:?} in {result}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_shown_as_on_a_terminal_and_arguments_are_read_as_they_were_meant() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    // A title without an end, then an error, then a progress bar.
    let line = "printf '\\033]0;title\\nerror: no such file\\n'; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); \
                printf '%s%% [####      ]\\r' $i; done; printf '\\033[Kdone\\r\\n'; printf '\\033[1mbad\\033[0m' >&2";
    let came = session
        .raw("exec", json!({"command": line, "description": "Shows it"}))
        .await;
    let result = came.structured_content.clone().unwrap();
    let shown = "0;title\nerror: no such file\ndone\n";
    assert_eq!(result["stdout"], shown);
    assert_eq!(result["stderr"], "bad");
    assert_eq!(result["truncated"], false);
    let text = crate::common::text(&came);
    assert!(
        text.starts_with(&format!("{shown}[stderr]\nbad\n[exit code 0")),
        "{text}"
    );
    let ignored = "no argument of `exec`, so ignored: `description`";
    let file = result["stdout_file"].as_str().unwrap();
    let said = format!("stdout is as a terminal shows it in the end; unchanged: {file}, or `raw`");
    for note in [ignored, &said] {
        assert!(text.contains(&format!("[{note}]")), "{text}");
        assert!(
            result["notes"]
                .as_array()
                .unwrap()
                .iter()
                .any(|it| it == note),
            "{result}"
        );
    }
    // The file, the resource and `raw` have the raw bytes.
    let bytes = result["stdout_bytes"].as_u64().unwrap();
    assert_eq!(
        session.stdout(&format!("wc -c <{file}")).await.trim(),
        bytes.to_string()
    );
    let uri = result["stdout_uri"].as_str().unwrap();
    let read = ReadResourceRequestParams::new(uri);
    let read = serde_json::to_value(session.client.read_resource(read).await.unwrap()).unwrap();
    let resource = read["contents"][0]["text"].as_str().unwrap();
    assert!(
        resource.starts_with("\u{1b}]0;title\nerror") && resource.ends_with("\u{1b}[Kdone\r\n")
    );
    let raw = json!({"command": "printf '\\033[1mbold\\r\\n'", "raw": true});
    let raw = session.call("exec", raw).await;
    assert_eq!(raw["stdout"], "\u{1b}[1mbold\r\n");
    assert_eq!(raw.get("notes"), None);
    assert_eq!(session.exec("echo plain").await.get("stdout_file"), None);

    // A job's output is shown in the same way; offsets count raw bytes.
    let bars = json!({"command": "printf '10%%\\r100%%\\r\\n\\033[32mok\\033[0m\\n'", "background": "true"});
    let id = session.call("exec", bars).await["job_id"].clone();
    let wait = json!({"action": "wait", "id": id, "offset": 0, "timeout_s": "20s"});
    let ended = session.call("job", wait).await;
    assert_eq!(ended["output"], "100%\nok\n", "{ended}");
    assert_eq!(ended["next_offset"], 22);
    note(&ended, "output is as a terminal shows it in the end");
    let raw = json!({"action": "output", "id": id, "offset": 0, "raw": true, "limit": 0});
    let raw = session.call("job", raw).await;
    assert_eq!(raw["output"], "10%\r100%\r\n\u{1b}[32mok\u{1b}[0m\n");
    note(&raw, "`limit` was 0");

    // A list is a program and its arguments, also a list that was sent as text.
    let list = json!(["printf", "%s|", "a b", "$HOME", "&"]);
    for command in [list.clone(), list.to_string().into()] {
        let ran = session
            .call(
                "exec",
                json!({"command": command, "env": "{\"A\": 1}", "timeout_s": "0"}),
            )
            .await;
        assert_eq!(ran["stdout"], "a b|$HOME|&|");
        note(&ran, "`timeout_s` was 0, so the default held");
    }
    let absent = session
        .error("exec", json!({"command": ["no-such", "x"]}))
        .await;
    assert!(
        absent.contains("no-such") && absent.contains("so it was run without a shell"),
        "{absent}"
    );
    let refused = session
        .error("exec", json!({"command": "true", "workdir": "/tmp"}))
        .await;
    assert!(refused.contains("did you mean `cwd`?"), "{refused}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_becomes_a_job_if_its_client_gets_no_progress() {
    let place = Place::new("minimal");
    let mut command = place.command(&["serve", "--rm"]);
    command.env("SNOWGLOBE_BACKGROUND_AFTER_S", "2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = command.spawn().unwrap();
    // The library's client always asks for progress, so this client sends plain lines.
    let mut input = server.stdin.take().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut ask = async |method: &str, params: Value| -> Value {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        let line = lines.next_line().await.unwrap().expect("an answer");
        serde_json::from_str::<Value>(&line).unwrap()["result"].clone()
    };
    let about = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    ask("initialize", about).await;
    let exec = |command: &str| json!({"name": "exec", "arguments": {"command": command}});
    ask("tools/call", exec("true")).await;
    let line = "echo early; until [ -e /tmp/go ]; do sleep 0.1; done; echo late";
    let began = Instant::now();
    let result = ask("tools/call", exec(line)).await;
    soon(began);
    let id = &result["structuredContent"]["job_id"];
    assert!(id.is_string(), "{result}");
    assert_eq!(result["structuredContent"]["stdout"], "early\n");
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(id.as_str().unwrap()), "{text}");
    ask("tools/call", exec("touch /tmp/go")).await;
    let offset = &result["structuredContent"]["job_offset"];
    let wait = json!({"action": "wait", "id": id, "offset": offset});
    let ended = ask("tools/call", json!({"name": "job", "arguments": wait})).await;
    assert_eq!(ended["structuredContent"]["output"], "late\n", "{ended}");
    assert_eq!(ended["structuredContent"]["jobs"][0]["exit_code"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_edited_and_searched_in_an_image_without_tools() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    std::fs::write(place.workspace.join("dos.txt"), "one\r\ntwo\r\nthree\r\n").unwrap();
    let edit = json!({"path": "dos.txt", "old_string": "two\nthree", "new_string": "2\n3"});
    let done = session.call("edit", edit.clone()).await;
    assert_eq!(done["replacements"], 1);
    assert!(done["diff"].as_str().unwrap().contains("-two"), "{done}");
    let text = std::fs::read(place.workspace.join("dos.txt")).unwrap();
    assert_eq!(text, b"one\r\n2\r\n3\r\n");
    let refused = session.error("edit", edit).await;
    assert!(refused.contains("not in it"), "{refused}");

    session
        .exec("mkdir -p src && printf 'fn main() {}\\n' >src/main.rs && printf 'fn x' >notes")
        .await;
    let found = session
        .call("search", json!({"pattern": "fn \\w+\\(", "glob": "*.rs"}))
        .await;
    assert_eq!(found["matches"], 1, "{found}");
    assert_eq!(found["lines"][0]["path"], "/workspace/src/main.rs");
    assert_eq!(found["lines"][0]["text"], "fn main() {}");
    session.close().await;
}

/// A resource's first content.
async fn resource(session: &crate::common::Session, uri: &str) -> Value {
    let params = ReadResourceRequestParams::new(uri);
    let read = session.client.read_resource(params).await.unwrap();
    serde_json::to_value(&read.contents[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_jobs_files_and_the_console_are_resources() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let long = session.exec("seq 1 20000").await;
    let uri = long["stdout_uri"]
        .as_str()
        .expect("the whole of it has an address");
    let whole = resource(&session, uri).await;
    let text = whole["text"].as_str().unwrap();
    assert!(
        text.starts_with("1\n2\n") && text.ends_with("\n20000\n"),
        "{}",
        text.len()
    );
    let part = resource(&session, &format!("{uri}?offset=2&limit=4")).await;
    assert_eq!(part["text"], "2\n3\n");
    assert_eq!(
        part["_meta"]["snowglobe/next"],
        format!("{uri}?offset=6&limit=4")
    );
    assert_eq!(part["_meta"]["snowglobe/size"], text.len());

    std::fs::write(place.workspace.join("it é.txt"), "content").unwrap();
    let file = resource(&session, "snowglobe://workspace/it%20%C3%A9.txt").await;
    assert_eq!(file["text"], "content");
    let entries = resource(&session, "snowglobe://workspace/").await;
    assert!(
        entries["text"].as_str().unwrap().contains("it é.txt"),
        "{entries}"
    );
    let console = resource(&session, "snowglobe://console").await;
    assert!(
        console["text"].as_str().unwrap().contains("snowglobe-init"),
        "{console}"
    );

    let line = json!({"command": "echo begun; read line; echo \"got $line\"", "background": true,
        "keep_stdin": true});
    let job = session.call("exec", line).await;
    let uri = job["job_uri"].as_str().unwrap();
    let send = json!({"action": "input", "id": job["job_id"], "input": "more\n", "end": true});
    session.call("job", send).await;
    session
        .call("job", json!({"action": "wait", "id": job["job_id"]}))
        .await;
    assert_eq!(resource(&session, uri).await["text"], "begun\ngot more\n");
    let listed = session.client.list_all_resources().await.unwrap();
    assert!(listed.iter().any(|listed| listed.uri == uri), "{listed:?}");
    session.call("reboot", json!({})).await;
    // Under another address, since the client caches what it read for a moment.
    let again = ReadResourceRequestParams::new(format!("{uri}?offset=0"));
    let gone = session.client.read_resource(again).await;
    assert!(
        gone.unwrap_err().to_string().contains("job"),
        "a job must end with its VM"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_notified_when_a_jobs_output_grows() {
    let place = Place::new("minimal");
    let mut server = place.command(&["serve", "--rm"]);
    let mut server = server
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut ask = async |method: &str, params: Value| {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        loop {
            let line = lines.next_line().await.unwrap().expect("an answer");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["method"].is_string() == (method == "ping") {
                return message;
            }
        }
    };
    let about = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    ask("initialize", about).await;
    let line = "read line; echo $line";
    let arguments = json!({"command": line, "background": true, "keep_stdin": true});
    let exec = json!({"name": "exec", "arguments": arguments});
    let job = ask("tools/call", exec).await["result"]["structuredContent"].clone();
    ask("resources/subscribe", json!({"uri": job["job_uri"]})).await;
    let send = json!({"action": "input", "id": job["job_id"], "input": "more\n", "end": true});
    ask("tools/call", json!({"name": "job", "arguments": send})).await;
    // Skips a ping's answer and waits for the next notification.
    let told = tokio::time::timeout(Duration::from_secs(30), ask("ping", json!({}))).await;
    let told = told.expect("the change is told");
    assert_eq!(told["method"], "notifications/resources/updated", "{told}");
    assert_eq!(told["params"]["uri"], job["job_uri"]);
}

/// The same command on a simulated host that forbids PID namespaces, as some hosts do.
fn without_namespaces(command: &tokio::process::Command) -> tokio::process::Command {
    let inner = command.as_std();
    let mut outer = tokio::process::Command::new("unshare");
    outer
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 >/proc/sys/user/max_pid_namespaces && exec \"$@\"")
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .kill_on_drop(true);
    if let Some(dir) = inner.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_fence_is_in_the_first_result_or_fatal() {
    let place = Place::new("minimal");
    let session =
        crate::common::Session::over(without_namespaces(&place.command(&["serve"]))).await;
    let first = session.raw("exec", json!({"command": "true"})).await;
    let said = crate::common::text(&first);
    assert!(
        said.contains("without namespaces: the kernel refuses them"),
        "{said}"
    );
    assert!(
        said.contains("a root directory of its own") && said.contains("snowglobe doctor"),
        "{said}"
    );
    let structured = first.structured_content.expect("a structured result");
    assert!(
        structured["notes"]
            .to_string()
            .contains("without namespaces"),
        "{structured}"
    );
    let second = crate::common::text(&session.raw("exec", json!({"command": "true"})).await);
    assert!(!second.contains("without"), "{second}");
    // The session that started the running sandbox was told.
    let (code, _, said) = place.run(&["exec", "true"]).await;
    assert!(code == 0 && !said.contains("without"), "{said}");
    session.close().await;
    let (code, _, said) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{said}");

    let alone = place.command(&["exec", "--rm", "echo", "out"]);
    let alone = without_namespaces(&alone)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = crate::common::lossy(&alone.stderr);
    assert_eq!(
        (alone.status.code(), &alone.stdout[..]),
        (Some(0), &b"out\n"[..]),
        "{said}"
    );
    for lack in [
        "namespaces: the kernel refuses them",
        "a root directory of its own",
    ] {
        let line = format!(
            "snowglobe: this host shuts the VM off less than it could: it runs without {lack}"
        );
        let lines = said.lines().filter(|said| said.starts_with(&line));
        assert_eq!(lines.count(), 1, "{lack}: {said}");
    }

    let mut required = place.command(&["serve", "--rm"]);
    required.env("SNOWGLOBE_ISOLATION", "require");
    let session = crate::common::Session::over(without_namespaces(&required)).await;
    let error = session.error("exec", json!({"command": "true"})).await;
    assert!(
        error.contains("isolation") && error.contains("without namespaces"),
        "{error}"
    );
    session.close().await;
    for (how, status, code) in [("best", "note", Some(0)), ("require", "problem", Some(1))] {
        let doctor = place.command(&["doctor", "--isolation", how]);
        let doctor = without_namespaces(&doctor).output().await.unwrap();
        let said = crate::common::lossy(&doctor.stdout);
        let line = said.lines().find(|line| line.contains("fence processes"));
        assert!(
            line.is_some_and(|line| line.starts_with(status)),
            "{how}: {said}"
        );
        assert_eq!(doctor.status.code(), code, "{how}: {said}");
    }
}
