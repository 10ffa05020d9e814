//! A sandbox that stays: a process keeps it, and clients come and go.

use std::process::Stdio;

use crate::common::{PROGRAM, Place, Session, descendants, eventually, runs, soon};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What `status --json` says.
async fn status(place: &Place) -> Value {
    let (code, out, err) = place.run(&["status", "--json"]).await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Runs a command in the place's sandbox; it must work.
async fn exec(place: &Place, arguments: &[&str]) -> String {
    let (code, out, err) = place.run(&[&["exec"], arguments].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

fn kill(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_stays_until_it_is_stopped_whoever_leaves() {
    let place = Place::new("minimal");
    let (code, out, err) = place.run(&["ls"]).await;
    assert!(
        code == 0 && out.is_empty() && err.contains("no sandbox runs"),
        "{out}{err}"
    );
    assert_eq!(status(&place).await, Value::Null);
    let out = exec(
        &place,
        &["--env", "ONCE=1", "--", "echo first >/tmp/mark; echo $ONCE"],
    )
    .await;
    assert_eq!(out, "1\n");
    assert_eq!(exec(&place, &["--", "echo $ONCE"]).await, "\n");
    assert_eq!(exec(&place, &["--", "cat", "/tmp/mark"]).await, "first\n");
    let seen = status(&place).await;
    assert_eq!(seen["status"]["machine"]["state"], "running", "{seen}");
    assert_eq!(
        (&seen["kept"], &seen["image"]),
        (&json!(true), &json!("minimal"))
    );

    // MCP clients join it; one that crashes leaves it as it is.
    let session = place.serve_kept().await;
    assert_eq!(session.stdout("cat /tmp/mark").await, "first\n");
    let other = place.serve_kept().await;
    other.exec("echo second >/tmp/mark").await;
    kill(session.pid.into(), Signal::KILL);
    assert_eq!(other.stdout("cat /tmp/mark").await, "second\n");
    other.close().await;
    assert_eq!(exec(&place, &["--", "cat /tmp/mark"]).await, "second\n");

    // Restored from the command line, the sandbox goes on for everybody.
    let (code, _, err) = place.run(&["snapshot", "save", "good"]).await;
    assert_eq!(code, 0, "{err}");
    exec(&place, &["--root", "--", "rm -rf /tmp/mark"]).await;
    let (code, _, err) = place.run(&["snapshot", "restore", "good"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(exec(&place, &["--", "cat /tmp/mark"]).await, "second\n");
    let seen = status(&place).await;
    assert_eq!(
        seen["status"]["last_end"], "restored to a snapshot",
        "{seen}"
    );

    let (code, out, _) = place.run(&["ls"]).await;
    assert!(
        code == 0 && out.contains("running") && out.contains("minimal"),
        "{out}"
    );
    let keeper = u32::try_from(seen["pid"].as_u64().unwrap()).unwrap();
    let below = descendants(keeper);
    assert!(!below.is_empty());
    let (code, _, err) = place.run(&["stop"]).await;
    assert!(code == 0 && err.contains("stopped the sandbox"), "{err}");
    eventually("the sandbox's processes are gone", || {
        !runs(keeper) && !below.iter().any(|pid| runs(*pid))
    })
    .await;
    assert_eq!(place.runtime_dir().read_dir().unwrap().count(), 0);
    let (code, _, err) = place.run(&["stop"]).await;
    assert!(code == 0 && err.contains("no sandbox runs"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_drops_no_flag() {
    let place = Place::new("minimal");
    let (code, _, err) = place.run(&["start", "--cpus", "1", "--env", "A=1"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("stays until"), "{err}");
    for (flags, key) in [
        (&["--cpus", "2"][..], "cpus"),
        (&["--memory-mib", "400"], "memory_mib"),
        (&["--image", "debian"], "image"),
        (&["--snapshot", "good"], "snapshot"),
        (&["--workspace-mode", "none"], "workspace_mode"),
        (&["--git-identity", "false"], "git_identity"),
    ] {
        for command in [&["exec"][..], &["serve"], &["start"]] {
            let mut arguments = [command, flags].concat();
            if command == ["exec"] {
                arguments.extend(["--", "true"]);
            }
            let (code, out, err) = place.run(&arguments).await;
            assert_eq!(code, 125, "{arguments:?}: {out}{err}");
            assert!(err.contains(key) && err.contains("snowglobe stop"), "{err}");
        }
    }
    // What can be had is applied, and what is the same is no difference.
    let out = exec(
        &place,
        &[
            "--cpus",
            "1",
            "--env",
            "B=2",
            "--cwd",
            "/tmp",
            "--",
            "echo $B $PWD",
        ],
    )
    .await;
    assert_eq!(out, "2 /tmp\n");
    // A file that was changed meanwhile counts from the next start on, and that is said.
    std::fs::write(place.workspace.join("snowglobe.toml"), "nofile = 100").unwrap();
    let (code, _, err) = place.run(&["exec", "--", "true"]).await;
    assert!(
        code == 0 && err.contains("nofile") && err.contains("snowglobe stop"),
        "{err}"
    );
    // One for a single command has what it asks for, and leaves the other as it is.
    let out = exec(
        &place,
        &[
            "--rm",
            "--memory-mib",
            "300",
            "--",
            "echo alone >/tmp/mark; cat /tmp/mark",
        ],
    )
    .await;
    assert_eq!(out, "alone\n");
    assert_eq!(
        exec(
            &place,
            &["--", "ls /tmp/mark 2>&1 | wc -l; test ! -e /tmp/mark"]
        )
        .await,
        "1\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_has_one_sandbox_wherever_in_it_one_is() {
    let place = Place::new("minimal");
    let inner = place.workspace.join("src/deep");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir(place.workspace.join(".git")).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = place.command(arguments);
        let output = command
            .current_dir(&inner)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        crate::common::lossy(&output.stdout)
    };
    assert_eq!(
        run(&["exec", "--", "pwd; touch here"]).await,
        "/workspace/src/deep\n"
    );
    assert!(inner.join("here").exists());
    assert_eq!(
        exec(&place, &["--", "pwd; touch /tmp/mark"]).await,
        "/workspace\n"
    );
    assert_eq!(
        run(&["exec", "--cwd", "/tmp", "--", "ls mark"]).await,
        "mark\n"
    );
    let found: Value = serde_json::from_str(&run(&["status", "--json"]).await).unwrap();
    assert_eq!(
        found["directory"],
        place.workspace.canonicalize().unwrap().to_str().unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_nothing_uses_is_stopped_but_not_while_a_job_runs() {
    let place = Place::new("minimal");
    let mut serve = place.command(&["serve"]);
    serve.env("SNOWGLOBE_IDLE_STOP_S", "1");
    let session = Session::over(serve).await;
    let job =
        json!({"command": "until [ -e /workspace/done ]; do sleep 0.1; done", "background": true});
    session.call("exec", job).await;
    session.close().await;
    let keeper = status(&place).await["pid"].as_u64().unwrap();
    // Its idle time passes several times.
    for _ in 0..5 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(status(&place).await["status"]["jobs"], 1);
    }
    std::fs::write(place.workspace.join("done"), "").unwrap();
    let keeper = u32::try_from(keeper).unwrap();
    eventually("it is stopped", || !runs(keeper)).await;
    let (code, out, err) = place.run(&["logs"]).await;
    assert!(code == 0 && err.is_empty(), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_it_boots_leaves_nothing_behind() {
    let place = Place::new("minimal");
    let began = std::time::Instant::now();
    let keeper = loop {
        soon(began);
        let mut start = place
            .command(&["start", "-v"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keeper = loop {
            soon(began);
            let (_, out, _) = place.run(&["ls", "--json"]).await;
            let rows: Value = serde_json::from_str(&out).unwrap();
            if let Some(pid) = rows[0]["pid"].as_u64() {
                break u32::try_from(pid).unwrap();
            }
        };
        kill(start.id().unwrap().into(), Signal::INT);
        if start.wait().await.unwrap().code() == Some(130) {
            break keeper;
        }
        // The machine had booted before the signal came.
        let (code, _, err) = place.run(&["stop"]).await;
        assert_eq!(code, 0, "{err}");
    };
    eventually("nothing is left", || {
        !runs(keeper) && place.runtime_dir().read_dir().unwrap().count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_it_is_stopped_gets_the_next_one() {
    let place = Place::new("minimal");
    let session = place.serve_kept().await;
    let job = "trap 'touch /workspace/ending; sleep 1; exit' TERM; touch /workspace/begun; while :; do sleep 0.1; done";
    let job = json!({"command": job, "background": true});
    session.call("exec", job).await;
    let is_there = |name: &str| place.workspace.join(name).exists();
    eventually("the job", || is_there("begun")).await;
    let mut stop = place.command(&["stop"]).spawn().unwrap();
    eventually("the job's end", || is_there("ending")).await;
    assert_eq!(exec(&place, &["--", "echo again"]).await, "again\n");
    assert!(stop.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_start_at_once_one_does_and_all_join_it() {
    let place = Place::new("minimal");
    let arguments = ["exec", "--", "cat /proc/sys/kernel/random/boot_id"];
    let all = futures_util::future::join_all((0..6).map(|_| place.run(&arguments))).await;
    let ids: std::collections::BTreeSet<_> = all
        .iter()
        .map(|(code, out, err)| {
            assert_eq!(*code, 0, "{err}");
            out.clone()
        })
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_does_not_answer_is_named_and_stopped() {
    let place = Place::new("minimal");
    let (code, _, err) = place.run(&["start"]).await;
    assert_eq!(code, 0, "{err}");
    let pid = status(&place).await["pid"].as_u64().unwrap();
    let below = descendants(u32::try_from(pid).unwrap());
    kill(pid, Signal::STOP);
    let seen = status(&place).await;
    assert!(
        seen["problem"]
            .as_str()
            .unwrap()
            .contains("no answer within"),
        "{seen}"
    );
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    eventually("its machine is gone, too", || {
        !below.iter().any(|pid| runs(*pid))
    })
    .await;
    // The next command starts another one.
    assert_eq!(exec(&place, &["--", "echo again"]).await, "again\n");
}

/// A program that a script started with a lock or a pipe does not hold them for as long as the sandbox is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_sandbox_holds_nothing_of_its_first_client() {
    let place = Place::new("minimal");
    let mut script = tokio::process::Command::new("sh");
    script
        .args([
            "-c",
            "exec 9>lock; flock -n 9 && \"$0\" start 2>/dev/null && echo done",
        ])
        .arg(PROGRAM)
        .current_dir(&place.workspace)
        .env_clear();
    for (name, value) in place.command(&[]).as_std().get_envs() {
        script.env(name, value.unwrap());
    }
    // The end of the script's output is seen, although the sandbox stays.
    let output = script.stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(crate::common::lossy(&output.stdout), "done\n");
    let lock = std::fs::File::open(place.workspace.join("lock")).unwrap();
    lock.try_lock().expect("nobody holds the lock");
    assert!(!status(&place).await.is_null());
}

/// The directory of the place's only running sandbox.
fn instance(place: &Place) -> std::path::PathBuf {
    let mut all = place.runtime_dir().read_dir().unwrap();
    all.next().expect("a sandbox runs").unwrap().path()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_bears_bad_clients_and_another_release_and_ends_with_its_directory() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let place = Place::new("minimal");
    exec(&place, &["--", "true"]).await;
    let keeper = u32::try_from(status(&place).await["pid"].as_u64().unwrap()).unwrap();
    let dir = instance(&place);
    let socket = dir.join("control.sock");

    // What no whole question is, and far too many connections: others are answered meanwhile, or soon.
    let ask = |text: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The keeper may have closed it already.
        let _ = stream.write_all(text);
        stream
    };
    drop(ask(b"{\"ask\":\"boo"));
    let mut long = ask(&vec![b' '; 10 << 20]);
    let mut said = String::new();
    let _ = long.read_to_string(&mut said);
    let flood: Vec<_> = (0..1000)
        .filter_map(|_| UnixStream::connect(&socket).ok())
        .collect();
    assert!(flood.len() > 500);
    let began = std::time::Instant::now();
    while status(&place).await["status"].is_null() {
        soon(began);
    }
    drop(flood);
    assert_eq!(
        exec(&place, &["--", "echo still here"]).await,
        "still here\n"
    );

    // A sandbox that another release keeps is named, not talked to.
    let file = dir.join("instance.json");
    let own = std::fs::read_to_string(&file).unwrap();
    let mut other: Value = serde_json::from_str(&own).unwrap();
    other["protocol"] = json!("0.0");
    other["program"] = json!("0.0.9");
    other["settings"] = json!({"in": "another form"});
    std::fs::write(&file, other.to_string()).unwrap();
    for arguments in [
        &["exec", "--", "true"][..],
        &["start"],
        &["serve"],
        &["shell", "true"],
    ] {
        let (code, _, err) = place.run(arguments).await;
        assert!(code != 0, "{arguments:?}");
        if arguments[0] != "shell" {
            assert!(
                err.contains("0.0.9") && err.contains("snowglobe stop"),
                "{arguments:?}: {err}"
            );
        }
    }
    assert!(
        status(&place).await["problem"]
            .as_str()
            .unwrap()
            .contains("snowglobe stop")
    );
    let (code, out, err) = place.run(&["ls"]).await;
    assert!(code == 0 && out.contains("no answer"), "{out}{err}");
    std::fs::write(&file, own).unwrap();

    // As at a logout: its directory goes, and so does it.
    std::fs::rename(&dir, place.dir.path().join("away")).unwrap();
    eventually("the keeper has ended", || !runs(keeper)).await;
    let (code, out, err) = place.run(&["logs"]).await;
    let last = out.lines().last().unwrap_or_default();
    assert!(
        code == 0 && last.contains("stopped: ") && last.contains("is gone"),
        "{out}{err}"
    );
    let (code, out, err) = place.run(&["logs", "--console"]).await;
    assert!(code == 0 && out.contains("stage"), "{out}{err}");
    // One that is killed can't say why; that is said for it.
    exec(&place, &["--", "true"]).await;
    let pid = status(&place).await["pid"].as_u64().unwrap();
    kill(pid, Signal::KILL);
    eventually("it is gone", || !runs(u32::try_from(pid).unwrap())).await;
    let (code, _, err) = place.run(&["logs"]).await;
    assert!(code == 0 && err.contains("without saying why"), "{err}");
}
