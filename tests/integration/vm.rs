//! The tools' promises, tested over MCP with a real VM.

#[path = "../../images/init/tests/common/acl.rs"]
mod access;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{
    CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientRequest,
    Request,
};
use rmcp::service::PeerRequestOptions;
use serde_json::json;

use self::access::{ACL, acl};
use crate::common::{Place, descendants, eventually, runs, soon, text};

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
    assert!(
        said.contains("parent\n") && said.contains("child\n"),
        "{killed}"
    );
    assert_eq!(killed["jobs"][0]["state"], "killed");

    // Processes that ignore SIGTERM are killed after two seconds, also fork bombs.
    let bomb = "trap '' TERM; f() { while :; do sleep 0.2 & done; }; f & f & wait";
    let started = Instant::now();
    let result = session
        .call(
            "exec",
            json!({"command": format!("bash -c \"{bomb}\""), "timeout_s": 1}),
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
async fn every_process_ends_when_its_client_disconnects() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let (pid, below) = (session.pid, descendants(session.pid));
    assert!(below.len() >= 2, "the runner and the engine must run");
    let arguments = json!({"command": "sleep 300"})
        .as_object()
        .cloned()
        .unwrap();
    let peer = session.client.peer().clone();
    tokio::spawn(async move {
        peer.call_tool(CallToolRequestParams::new("exec").with_arguments(arguments))
            .await
    });
    eventually("the command runs", || !below.is_empty()).await;
    session.close().await;
    eventually("the server has left", || !runs(pid)).await;
    eventually("so have runner and engine", || {
        !below.iter().any(|pid| runs(*pid))
    })
    .await;
    assert_eq!(
        std::fs::read_dir(place.runtime_dir()).unwrap().count(),
        0,
        "no socket is left"
    );
    assert_eq!(
        std::fs::read_dir(place.store().join("layers"))
            .unwrap()
            .count(),
        0,
        "no disk is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_no_engine_and_no_file() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let below = descendants(session.pid);
    assert!(below.len() >= 2);
    let pid = rustix::process::Pid::from_raw(session.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("runner and engine are gone", || {
        !below.iter().any(|pid| runs(*pid))
    })
    .await;
    eventually("no socket is left", || {
        std::fs::read_dir(place.runtime_dir()).unwrap().count() == 0
    })
    .await;
    assert_eq!(
        std::fs::read_dir(place.store().join("layers"))
            .unwrap()
            .count(),
        0,
        "no disk is left"
    );
    assert_eq!(
        std::fs::read_dir(place.store().join("run"))
            .unwrap()
            .count(),
        0,
        "no directory is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a host with unified control groups; tests/kvm_host.rs runs it on one"]
async fn a_control_group_bounds_the_engine_and_is_removed_with_it() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let below = descendants(session.pid);
    let group = |runner: &u32| Path::new("/sys/fs/cgroup").join(format!("snowglobe-{runner}"));
    let runner = *below
        .iter()
        .find(|pid| group(pid).exists())
        .expect("it has a group");
    let group = group(&runner);
    let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap();
    assert_eq!(
        read("memory.max").trim(),
        ((384_u64 + 512) << 20).to_string()
    );
    assert_eq!(read("pids.max").trim(), "512");
    let held: Vec<u32> = read("cgroup.procs")
        .lines()
        .map(|id| id.parse().unwrap())
        .collect();
    let started = descendants(runner);
    assert!(!started.is_empty() && started.iter().all(|pid| held.contains(pid)));
    assert!(
        !held.contains(&runner),
        "the runner must not be in the group that it bounds"
    );
    session.close().await;
    eventually("the group is gone", || !group.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_with_another_host_key_is_refused() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let joined = place.run(&["exec", "--", "echo", "joined"]).await;
    assert_eq!((joined.0, joined.1.as_str()), (0, "joined\n"), "{joined:?}");
    let instances = std::fs::read_dir(place.runtime_dir()).unwrap();
    let instance = instances.flatten().next().unwrap().path();
    let pinned = instance.join("known_hosts");
    let (own, other) = (
        std::fs::read_to_string(&pinned).unwrap(),
        place.dir.path().join("key"),
    );
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other)
        .status();
    assert!(made.unwrap().success());
    let other = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let host = own.split_whitespace().next().unwrap();
    std::fs::write(&pinned, format!("{host} {other}")).unwrap();
    let (status, out, err) = place.run(&["exec", "--", "echo", "joined"]).await;
    assert_eq!((status, out.as_str()), (125, ""), "{err}");
    assert!(err.contains("its host key is not the one"), "{err}");
    std::fs::write(&pinned, "no key at all\n").unwrap();
    let (status, out, err) = place.run(&["exec", "--", "echo", "joined"]).await;
    assert_eq!((status, out.as_str()), (125, ""), "{err}");
    session.close().await;
    assert!(!instance.exists(), "keys are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_is_the_same_on_both_sides() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new("minimal");
    let every: Vec<u8> = (0..4096).map(|n| (n % 256) as u8).collect();
    std::fs::write(place.workspace.join("from-host"), &every).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", place.workspace.join("escape")).unwrap();
    std::fs::write(place.dir.path().join("secret"), "host secret").unwrap();
    std::os::unix::fs::symlink("../secret", place.workspace.join("up")).unwrap();
    let session = place.serve().await;
    let host_sum = session.stdout("md5sum <from-host").await;
    assert_eq!(
        session
            .stdout("cp from-host from-guest && md5sum <from-guest")
            .await,
        host_sum
    );
    assert_eq!(
        std::fs::read(place.workspace.join("from-guest")).unwrap(),
        every
    );
    assert_eq!(
        session.stdout("stat -c '%U %G' from-host from-guest").await,
        "sandbox sandbox\nsandbox sandbox\n"
    );
    let ours = std::fs::metadata(place.workspace.join("from-host"))
        .unwrap()
        .uid();
    assert_eq!(
        std::fs::metadata(place.workspace.join("from-guest"))
            .unwrap()
            .uid(),
        ours
    );
    assert_eq!(
        session
            .root("touch by-root && mkdir -p a/b && chown 33:33 by-root; stat -c %U by-root")
            .await["stdout"],
        "sandbox\n"
    );
    assert_eq!(
        std::fs::metadata(place.workspace.join("by-root"))
            .unwrap()
            .uid(),
        ours
    );
    // Files written before are older: the guest's clock is not behind.
    std::fs::write(place.workspace.join("before"), "x").unwrap();
    assert_eq!(
        session
            .stdout("touch /tmp/after; test before -nt /tmp/after || echo older")
            .await,
        "older\n"
    );
    // A link is resolved in the guest, never on the host.
    assert_eq!(session.stdout("cat escape").await, "snowglobe\n");
    assert_ne!(session.exec("cat up").await["exit_code"], 0);
    assert_ne!(
        session.root("cat /workspace/up /workspace/../secret").await["exit_code"],
        0
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_and_written() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let written = session
        .call(
            "write",
            json!({"path": "a/b/hello.txt", "content": "one\ntwo\nthree\n"}),
        )
        .await;
    assert_eq!(written["bytes"], 14);
    assert_eq!(
        std::fs::read_to_string(place.workspace.join("a/b/hello.txt")).unwrap(),
        "one\ntwo\nthree\n"
    );
    let read = session
        .call(
            "read",
            json!({"path": "/workspace/a/b/hello.txt", "offset": 2, "limit": 1}),
        )
        .await;
    assert!(read["content"].as_str().unwrap().contains("two"), "{read}");
    assert_eq!(
        (read["total_lines"].as_u64(), read["next_offset"].as_u64()),
        (Some(3), Some(3))
    );
    session
        .call(
            "write",
            json!({"path": "bin", "content": "AAEC/w==", "encoding": "base64", "mode": "0755"}),
        )
        .await;
    assert_eq!(
        std::fs::read(place.workspace.join("bin")).unwrap(),
        [0, 1, 2, 255]
    );
    assert_eq!(session.stdout("stat -c %a bin").await, "755\n");
    session
        .call(
            "write",
            json!({"path": "bin", "content": "x", "append": true}),
        )
        .await;
    assert_eq!(session.stdout("stat -c '%a %s' bin").await, "755 5\n");
    // Root reads the file; the kernel does not follow another user's link in /tmp.
    session
        .exec("ln -s /workspace/a/b/hello.txt /tmp/link; ln -s loop /tmp/loop")
        .await;
    let linked = session.call("read", json!({"path": "/tmp/link"})).await;
    assert_eq!(linked["path"], "/workspace/a/b/hello.txt", "{linked}");
    let looped = session.error("read", json!({"path": "/tmp/loop"})).await;
    assert!(looped.contains("symbolic links"), "{looped}");
    let missing = session.error("read", json!({"path": "nothing-here"})).await;
    assert!(missing.contains("nothing-here"), "{missing}");
    let refused = session
        .error("write", json!({"path": "/proc/nope/x", "content": ""}))
        .await;
    assert!(refused.contains("/proc/nope"), "{refused}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_of_the_workspace_keeps_its_mode_links_and_attributes() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const NOTE: &str = "user.note";
    let place = Place::new("minimal");
    let at = |name: &str| place.workspace.join(name);
    let attribute = |name: &str, attribute: &str| {
        let mut value = vec![0; 100];
        let length = rustix::fs::getxattr(at(name), attribute, value.as_mut_slice()).unwrap();
        value.truncate(length);
        value
    };
    let give = |name: &str, attribute: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at(name), attribute, value, flags).unwrap();
    };
    for name in ["plain", "linked", "listed", "noted", "script"] {
        std::fs::write(at(name), "one old\r\ntwo\n").unwrap();
    }
    std::fs::hard_link(at("linked"), at("other name")).unwrap();
    std::fs::set_permissions(at("script"), PermissionsExt::from_mode(0o755)).unwrap();
    give("noted", NOTE, b"kept");
    give("listed", ACL, &acl());
    let decomposed = "re\u{301}sume\u{301} 3\u{202f}PM.txt";
    std::fs::write(at(decomposed), "old\n").unwrap();
    let long = "ä".repeat(116) + ".rs";
    std::fs::write(at(&long), "old\n").unwrap();

    let session = place.serve().await;
    for name in ["plain", "linked", "listed", "noted", "script"] {
        let edit =
            json!({"path": name, "old_string": "one old\ntwo", "new_string": "one new\ntwo"});
        session.call("edit", edit).await;
        assert_eq!(
            std::fs::read_to_string(at(name)).unwrap(),
            "one new\r\ntwo\n",
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(at("other name")).unwrap(),
        "one new\r\ntwo\n"
    );
    assert_eq!(at("linked").metadata().unwrap().nlink(), 2);
    assert_eq!(at("script").metadata().unwrap().mode() & 0o777, 0o755);
    assert_eq!(attribute("noted", NOTE), b"kept");
    assert_eq!(attribute("listed", ACL), acl());
    // Also a write.
    for name in ["linked", "listed", "noted"] {
        session
            .call("write", json!({"path": name, "content": "all new\n"}))
            .await;
    }
    assert_eq!(
        std::fs::read_to_string(at("other name")).unwrap(),
        "all new\n"
    );
    assert_eq!(attribute("noted", NOTE), b"kept");
    assert_eq!(attribute("listed", ACL), acl());

    // Under the spellings that a model types.
    for (typed, real) in [
        ("r\u{e9}sum\u{e9} 3 PM.txt", decomposed),
        (&long, &long),
        ("~/../../workspace/plain", "plain"),
        ("file:///workspace/plain", "plain"),
    ] {
        let edit = json!({"path": typed, "old_string": "new", "new_string": "newer"});
        let edit = match real {
            "plain" => edit,
            _ => json!({"path": typed, "old_string": "old", "new_string": "newer"}),
        };
        session.call("edit", edit).await;
        let now = std::fs::read_to_string(at(real)).unwrap();
        assert!(now.contains("newer"), "{typed}: {now}");
    }
    let many = std::fs::read_dir(&place.workspace).unwrap().count();
    assert_eq!(
        many, 8,
        "a file was made under another spelling of its name"
    );

    // Two calls append to one file at once, while a program has it open.
    std::fs::write(at("log"), "").unwrap();
    let add = |who: &'static str| {
        let session = &session;
        async move {
            for _ in 0..20 {
                let line = json!({"path": "log", "content": format!("{who}\n"), "append": true});
                session.call("write", line).await;
            }
        }
    };
    let held = session.exec("exec 3>>log; for n in $(seq 20); do echo three >&3; done");
    let ((), (), held) = tokio::join!(add("one"), add("two"), held);
    assert_eq!(held["exit_code"], 0, "{held}");
    let log = std::fs::read_to_string(at("log")).unwrap();
    for who in ["one", "two", "three"] {
        assert_eq!(log.lines().filter(|line| *line == who).count(), 20, "{who}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_save_list_restore_and_delete() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let snapshot = async |action: &str, name: &str| {
        session
            .call("snapshot", json!({"action": action, "name": name}))
            .await
    };
    session
        .root("echo marker >/etc/marker; echo work >/workspace/kept")
        .await;
    // The snapshot is saved while a command writes.
    let busy = session
        .root("(while true; do date >>/var/busy; done) >/dev/null 2>&1 &")
        .await;
    assert_eq!(busy["exit_code"], 0);
    snapshot("save", "b.with-marker_1").await;
    assert_eq!(
        session.root("rm /etc/marker; cat /etc/marker").await["exit_code"],
        1
    );
    snapshot("save", "a").await;
    let listed = session.call("snapshot", json!({"action": "list"})).await;
    let names: Vec<_> = listed["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "b.with-marker_1"], "sorted");
    assert!(
        listed["snapshots"][0]["bytes"].as_u64().unwrap() > 0
            && listed["snapshots"][0]["created"].is_string()
    );

    let restored = snapshot("restore", "b.with-marker_1").await;
    assert!(restored["took_ms"].as_u64().unwrap() > 0);
    assert_eq!(
        session.stdout("cat /etc/marker /workspace/kept").await,
        "marker\nwork\n"
    );
    let taken = session
        .error("snapshot", json!({"action": "save", "name": "a"}))
        .await;
    assert!(taken.contains("already"), "{taken}");
    for action in ["restore", "delete"] {
        let missing = session
            .error("snapshot", json!({"action": action, "name": "none"}))
            .await;
        assert!(
            missing.contains("none") && missing.contains("there are a, b.with-marker_1"),
            "{missing}"
        );
    }
    for name in ["", "../evil", "a/b", "a b", "a\nb", "a@b", ".", "..", "-a"] {
        for action in ["save", "restore", "delete"] {
            let refused = session
                .error("snapshot", json!({"action": action, "name": name}))
                .await;
            assert!(refused.contains("1 to 64"), "{name:?}: {refused}");
        }
    }
    // A stray file among the snapshots is no snapshot, and stays.
    let stray = place.store().join("snapshots/stray.json");
    std::fs::write(&stray, "?").unwrap();
    let listed = session.call("snapshot", json!({"action": "list"})).await;
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    session
        .error("snapshot", json!({"action": "restore", "name": "stray"}))
        .await;
    session
        .error("snapshot", json!({"action": "save", "name": "stray"}))
        .await;
    assert!(stray.exists());
    assert_eq!(
        session.stdout("cat /etc/marker").await,
        "marker\n",
        "the system runs on"
    );
    snapshot("delete", "a").await;
    let gone = session
        .error("snapshot", json!({"action": "restore", "name": "a"}))
        .await;
    assert!(gone.contains("`a`"), "{gone}");
    session.close().await;

    // A new server starts from the snapshot.
    let (code, out, err) = place
        .run(&[
            "exec",
            "--snapshot",
            "b.with-marker_1",
            "--",
            "cat /etc/marker",
        ])
        .await;
    assert_eq!((code, out.as_str()), (0, "marker\n"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_the_running_system() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.root("echo one >/etc/state").await;
    session
        .call("snapshot", json!({"action": "save", "name": "one"}))
        .await;
    session.root("echo two >/etc/state").await;
    // The snapshot's layer exists but does not boot: the new machine fails, and the old one continues.
    let record = std::fs::read_to_string(place.store().join("snapshots/one.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let layer = place
        .store()
        .join("layers")
        .join(record["layers"][0].as_str().unwrap());
    let whole = std::fs::read(&layer).unwrap();
    let aside = layer.with_extension("aside");
    std::fs::rename(&layer, &aside).unwrap();
    std::fs::write(&layer, vec![0; 4096]).unwrap();
    let failed = session
        .error("snapshot", json!({"action": "restore", "name": "one"}))
        .await;
    assert!(!failed.is_empty());
    assert_eq!(session.stdout("cat /etc/state").await, "two\n");
    std::fs::rename(&aside, &layer).unwrap();
    assert_eq!(std::fs::read(&layer).unwrap().len(), whole.len());
    session
        .call("snapshot", json!({"action": "restore", "name": "one"}))
        .await;
    assert_eq!(session.stdout("cat /etc/state").await, "one\n");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_forgets_the_system_and_keeps_the_workspace() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session
        .exec("echo x >/tmp/state-file; echo y >/workspace/kept")
        .await;
    let rebooted = session.call("reboot", json!({})).await;
    assert!(rebooted["took_ms"].as_u64().unwrap() > 0);
    assert_eq!(session.exec("cat /tmp/state-file").await["exit_code"], 1);
    assert_eq!(session.stdout("cat /workspace/kept").await, "y\n");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_vm_is_a_clear_error_and_the_next_call_boots() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("echo kept >/workspace/kept").await;
    let arguments = json!({"command": "echo c >/proc/sysrq-trigger; sleep 60", "user": "root"});
    let died = session.error("exec", arguments).await;
    assert!(died.contains("next call boots"), "{died}");
    assert_eq!(session.stdout("cat /workspace/kept").await, "kept\n");
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
