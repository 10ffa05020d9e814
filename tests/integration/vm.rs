//! The tools' promises, tested over MCP with a real VM: commands here, the rest in modules.

mod files;
mod lifecycle;
mod snapshots;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{
    CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientRequest,
    Request,
};
use rmcp::service::PeerRequestOptions;
use serde_json::json;

use crate::common::{Place, eventually, soon, text};

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_comes_back_as_it_is() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    // Also 256 commands in a row.
    for code in 0..=255 {
        let result = session.exec(&format!("exit {code}")).await;
        assert_eq!(result["exit_code"], code);
        assert_eq!(result["timed_out"], false);
    }
    let result = session.exec("kill -TERM $$").await;
    assert!(
        result
            .get("exit_code")
            .is_none_or(serde_json::Value::is_null),
        "{result}"
    );
    assert_eq!(result["signal"], "SIGTERM");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_line_is_run_as_the_shell_would_run_it() {
    // Bash adds its own variables.
    let place = Place::new("debian");
    let session = place.serve().await;
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let direct = lines(session.stdout("env").await);
    let through_the_shell = lines(session.stdout("bash -c 'env'").await);
    assert_eq!(direct, through_the_shell);
    let absent = session.exec("no-such-program --at all").await;
    assert_eq!(absent["exit_code"], 127, "{absent}");
    let said = absent["stderr"].as_str().unwrap();
    assert!(
        said.contains("no-such-program: command not found"),
        "{said}"
    );
    session
        .exec("printf 'echo by $0: $*' >/workspace/script && chmod +x script")
        .await;
    assert_eq!(
        session.stdout("./script a b").await,
        "by ./script: a b\n",
        "a script without an interpreter's name"
    );
    assert_eq!(session.exec("/workspace a").await["exit_code"], 126);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_output_of_commands_pass_unchanged() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let hard = "it's \"quoted\" $dollar `tick` \\back\nsecond line\théllo wörld 世界";
    let result = session
        .call("exec", json!({"command": "printf %s \"$HARD\"; printf err >&2; cat", "env": {"HARD": hard}, "stdin": "from stdin 世界"}))
        .await;
    assert_eq!(result["stdout"], format!("{hard}from stdin 世界"));
    assert_eq!(result["stderr"], "err");
    let quoted = format!("printf %s '{}'", hard.replace('\'', "'\\''"));
    assert_eq!(session.stdout(&quoted).await, hard);
    assert_eq!(
        session.stdout("pwd; whoami; ulimit -n").await,
        "/workspace\nsandbox\n65536\n"
    );
    let result = session.exec(STREAMS).await;
    assert_eq!(
        result["stdout"],
        format!("sandbox\n{}", STREAMED.0),
        "{result}"
    );
    let windows =
        "for x in 1 2; do\r\n  echo $x\r\ndone\r\ncat <<E >/tmp/e\r\ntext\r\nE\r\nwc -c </tmp/e";
    assert_eq!(session.stdout(windows).await, "1\n2\n6\n");
    let names = "hostname -i && stat -c %a /dev/fuse /dev/net/tun";
    assert_eq!(session.stdout(names).await, "127.0.0.1\n666\n666\n");
    // The machine has only the loopback, also for root.
    let devices = session.root("ls /sys/class/net; ip -o link | wc -l").await;
    assert_eq!(devices["stdout"], "lo\n1\n", "{devices}");
    assert_eq!(session.root("whoami").await["stdout"], "root\n");
    assert_eq!(
        session
            .call("exec", json!({"command": "pwd", "cwd": "/tmp"}))
            .await["stdout"],
        "/tmp\n"
    );
    let refused = session
        .error("exec", json!({"command": "true", "cwd": "/no/such/dir"}))
        .await;
    assert!(
        refused.contains("/no/such/dir") && refused.contains("cwd"),
        "{refused}"
    );
    let refused = session.error("exec", json!({"comand": "true"})).await;
    assert!(refused.contains("command"), "{refused}");
    session.close().await;
}

/// Checks standard input and the streams' names as a user of the guest; prints `ok` if all is as on any Linux machine.
const STREAMS: &str = "set -e; id -un; test $(readlink /proc/self/fd/0) = /dev/null; echo out >/dev/stdout; \
    echo err >/dev/stderr; cat /dev/stdin; echo tee | tee /dev/stderr >/proc/self/fd/1; exec 3>/dev/stdout; \
    echo three >&3; echo fd >/dev/fd/1; echo ok";

const STREAMED: (&str, &str) = ("out\ntee\nthree\nfd\nok\n", "err\ntee\n");

#[tokio::test(flavor = "multi_thread")]
async fn a_command_finds_what_any_linux_machine_has() {
    let place = Place::new("debian");
    let host = place.dir.path().join("gitconfig");
    std::fs::write(
        &host,
        "[user]\n\tname = \"A \\\"B\\\" # é\"\n\temail = a@b.example\n",
    )
    .unwrap();
    let mut server = place.command(&["serve", "--rm"]);
    server.env("GIT_CONFIG_GLOBAL", &host);
    let session = crate::common::Session::over(server).await;

    // Every user can open the streams by name, including those of another user's command.
    for (line, user, name) in [
        (STREAMS.to_owned(), "sandbox", "sandbox"),
        (STREAMS.to_owned(), "root", "root"),
        (format!("su sandbox -c '{STREAMS}'"), "root", "sandbox"),
        (format!("sudo -n sh -c '{STREAMS}'"), "sandbox", "root"),
        (
            format!("sudo -n -u nobody sh -c '{STREAMS}'"),
            "sandbox",
            "nobody",
        ),
    ] {
        let result = session
            .call("exec", json!({"command": line, "user": user}))
            .await;
        assert_eq!(
            result["stdout"],
            format!("{name}\n{}", STREAMED.0),
            "{result}"
        );
        assert_eq!(result["stderr"], STREAMED.1, "{line}");
    }
    let python =
        "python3 -c 'import sys; open(\"/dev/stdout\", \"w\").write(open(\"/dev/stdin\").read())'";
    let result = session
        .call("exec", json!({"command": python, "stdin": "piped\n"}))
        .await;
    assert_eq!(result["stdout"], "piped\n");
    let job = session
        .call("exec", json!({"command": STREAMS, "background": true}))
        .await;
    let wait = json!({"action": "wait", "id": job["job_id"], "offset": 0});
    let ended = session.call("job", wait).await;
    assert!(
        ended["output"].as_str().unwrap().ends_with("ok\n"),
        "{ended}"
    );

    // A search without a path finds matches, and ends if it runs in the background.
    session.exec("echo needle >/workspace/hay").await;
    assert_eq!(session.stdout("rg -N needle").await, "hay:needle\n");
    let job = json!({"command": "rg -N needle", "background": true});
    let job = session.call("exec", job).await;
    let wait = json!({"action": "wait", "id": job["job_id"], "offset": 0});
    assert_eq!(session.call("job", wait).await["output"], "hay:needle\n");

    // The machine's names, and devices that every user may open.
    let resolve = "python3 -c 'import socket as s; print(s.gethostbyname(s.gethostname()), s.gethostbyname(\"localhost\"), \
                   s.getaddrinfo(s.gethostname(), 1, s.AF_INET6)[0][4][0])'; getent hosts $(cat /etc/hostname) >/dev/null && \
                   stat -c '%a %n' /dev/fuse /dev/net/tun /dev/shm /dev/mqueue /run/lock";
    assert_eq!(
        session.stdout(resolve).await,
        "127.0.0.1 127.0.0.1 ::1\n666 /dev/fuse\n666 /dev/net/tun\n1777 /dev/shm\n1777 /dev/mqueue\n1777 /run/lock\n"
    );
    assert_eq!(session.exec("sudo -n true").await["stderr"], "");

    // git accepts the workspace and knows the author; settings of the repository and the image win.
    let made = "git init -q . && git init -q sub && git add hay && git commit -qm one && git log -1 --format='%an <%ae>'";
    let who = "A \"B\" # é <a@b.example>\n";
    assert_eq!(session.stdout(made).await, who);
    let as_root =
        "git -C sub status -s && git log -1 --format='%cn <%ce>' && sudo -n git status -s hay";
    assert_eq!(session.root(as_root).await["stdout"], who);
    let nearer = "git config user.name Nearer && git commit -q --allow-empty -m two && git log -1 --format=%an";
    assert_eq!(session.stdout(nearer).await, "Nearer\n");
    session.call("reboot", json!({})).await;
    assert_eq!(
        session.stdout("git config --get-all user.email").await,
        "a@b.example\n"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_times_out_can_clean_up_the_workspace() {
    let place = Place::new("debian");
    let mut server = place.command(&["serve", "--rm"]);
    server.env("SNOWGLOBE_GIT_IDENTITY", "false");
    let session = crate::common::Session::over(server).await;
    let email = "git config --get user.email";
    assert_eq!(
        session.exec(email).await["exit_code"],
        1,
        "the git identity is switched off"
    );
    session
        .stdout("git init -q . && git config user.name n && git config user.email e && touch a && git add a && git commit -qm a")
        .await;
    let commit = "echo x >>a; GIT_EDITOR='touch /tmp/begun; sleep 300;:' git commit -a";
    let lock = place.workspace.join(".git/index.lock");
    let result = session
        .call("exec", json!({"command": commit, "timeout_s": 6}))
        .await;
    assert_eq!(
        (&result["timed_out"], result.get("killed")),
        (&json!(true), None),
        "{result}"
    );
    assert_eq!(
        session.stdout("cat /tmp/begun; git status -s").await,
        " M a\n"
    );
    assert!(!lock.exists());

    // Every process gets the signal, in every session; output printed before is kept.
    let line = "import signal,subprocess,sys,time\nsignal.signal(15, lambda *_: sys.exit(print('parent')))\nsubprocess.Popen(['sh','-c','trap \\\"echo child; exit\\\" TERM; echo ready; while :; do sleep 0.1; done'], \
                start_new_session=True)\nprint('begun')\ntime.sleep(300)";
    let job = json!({"command": format!("python3 -c \"{line}\""), "background": true});
    let job = session.call("exec", job).await;
    let id = &job["job_id"];
    let output = json!({"action": "output", "id": id, "offset": 0});
    let started = Instant::now();
    while !session.call("job", output.clone()).await["output"]
        .as_str()
        .unwrap()
        .contains("ready")
    {
        // Output comes as it is printed.
        soon(started);
    }
    let kill = json!({"action": "kill", "id": id, "offset": 0});
    let killed = session.call("job", kill).await;
    let said = killed["output"].as_str().unwrap();
    // What a shell says of its own child that was ended may come in the middle of a line.
    assert!(
        said.contains("parent") && said.contains("child"),
        "{killed}"
    );
    assert_eq!(killed["jobs"][0]["state"], "killed");

    // Processes that ignore SIGTERM are killed after two seconds, also fork bombs.
    // On a slow host a shell takes seconds until it ignores the signal; the bomb itself needs few.
    let bomb = "trap '' TERM; sleep 3; f() { while :; do sleep 0.2 & done; }; f & f & wait";
    let started = Instant::now();
    let result = session
        .call(
            "exec",
            json!({"command": format!("bash -c \"{bomb}\""), "timeout_s": 5}),
        )
        .await;
    assert_eq!(
        (&result["timed_out"], &result["killed"]),
        (&json!(true), &json!(true))
    );
    soon(started);

    // The client disconnects during a commit.
    let arguments = json!({"command": format!("rm /tmp/begun; {commit}")});
    let arguments = arguments.as_object().cloned().unwrap();
    let peer = session.client.peer().clone();
    let call = tokio::spawn(async move {
        let _ = peer
            .call_tool(CallToolRequestParams::new("exec").with_arguments(arguments))
            .await;
    });
    while !lock.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    session.close().await;
    let _ = call.await;
    eventually("the lock is gone", || !lock.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_keeps_head_and_tail_and_the_rest_can_be_read() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let result = session
        .exec("echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last")
        .await;
    assert_eq!(
        (result["truncated"].as_bool(), result["exit_code"].as_i64()),
        (Some(true), Some(0))
    );
    let shown = result["stdout"].as_str().unwrap();
    assert!(
        shown.starts_with("first\n") && shown.ends_with("last\n") && shown.len() < 20_000,
        "{} bytes",
        shown.len()
    );
    assert_eq!(result["stdout_bytes"], 5_000_012);
    let file = result["stdout_file"].as_str().unwrap();
    assert_eq!(
        session.stdout(&format!("wc -c <{file}")).await.trim(),
        "5000012"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_commands_at_once_all_answer() {
    let place = Place::new("minimal");
    let session = Arc::new(place.serve().await);
    session.exec("true").await;
    let calls: Vec<_> = (0..32)
        .map(|number| {
            let session = session.clone();
            tokio::spawn(async move {
                (
                    number,
                    session
                        .exec(&format!("sleep 1; echo {number}; exit {number}"))
                        .await,
                )
            })
        })
        .collect();
    for call in calls {
        let (number, result) = call.await.unwrap();
        assert_eq!(
            (result["exit_code"].as_i64(), result["stdout"].as_str()),
            (Some(number), Some(format!("{number}\n").as_str()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_the_whole_line_with_every_child() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let started = Instant::now();
    let command = "sleep 300 && echo x; sleep 300";
    let result = session
        .call("exec", json!({"command": command, "timeout_s": 1}))
        .await;
    soon(started);
    assert_eq!(result["timed_out"], true);
    assert!(
        result
            .get("exit_code")
            .is_none_or(serde_json::Value::is_null)
    );
    let result = session
        .call(
            "exec",
            json!({"command": "(setsid sleep 300 &) ; (sleep 300 & sleep 300)", "timeout_s": 1}),
        )
        .await;
    assert_eq!(result["timed_out"], true);
    assert_eq!(
        session.exec("pidof sleep").await["exit_code"],
        1,
        "no sleep is left"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_ends_its_command() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let arguments =
        json!({"command": "touch /tmp/started; sleep 301; sleep 301", "timeout_s": 600});
    let request =
        CallToolRequestParams::new("exec").with_arguments(arguments.as_object().cloned().unwrap());
    let request = ClientRequest::CallToolRequest(Request::new(request));
    let handle = session
        .client
        .send_cancellable_request(request, PeerRequestOptions::no_options())
        .await
        .unwrap();
    while session.exec("test -e /tmp/started").await["exit_code"] != 0 {}
    let id = handle.id.clone();
    let cancelled = CancelledNotification::new(CancelledNotificationParam::new(
        Some(id),
        Some("changed my mind".into()),
    ));
    session
        .client
        .send_notification(cancelled.into())
        .await
        .unwrap();
    let started = Instant::now();
    while session.exec("pidof sleep").await["exit_code"] == 0 {
        soon(started);
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_runs_out_of_memory_is_reported_as_such() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    // Each doubling of a shell variable takes memory that can't be reclaimed.
    let result = session
        .raw(
            "exec",
            json!({"command": "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done", "timeout_s": 300}),
        )
        .await;
    assert!(text(&result).contains("memory"), "{}", text(&result));
    assert_eq!(session.stdout("echo alive").await, "alive\n");
    session.close().await;
}
