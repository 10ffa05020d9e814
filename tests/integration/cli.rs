//! The command line as a person uses it: exit codes, images, attaching with the real ssh, a shell on a real terminal.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::tmux::Tmux;
use crate::common::{Place, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn exec_boots_runs_and_exits_with_the_commands_status() {
    let place = Place::new("minimal");
    let (code, out, err) = place
        .run(&[
            "-v",
            "exec",
            "--rm",
            "--",
            "echo out; echo err >&2; exit 42",
        ])
        .await;
    assert_eq!((code, out.as_str()), (42, "out\n"), "{err}");
    assert!(
        err.contains("booting the guest") && err.ends_with("err\n"),
        "{err}"
    );
    let (code, out, err) = place
        .run(&["-vv", "exec", "--rm", "--timeout", "1", "--", "sleep 60"])
        .await;
    assert_eq!((code, out.as_str()), (124, ""), "{err}");
    assert!(
        err.contains("console: ") && err.contains("runner: {"),
        "{err}"
    );
    let (code, _, err) = place
        .run(&["-q", "exec", "--rm", "--", "no-such-program", "x"])
        .await;
    assert_eq!(code, 127);
    assert!(
        err.contains("no-such-program") && err.lines().count() == 1,
        "-q says nothing but the error: {err}"
    );
    assert_eq!(
        std::fs::read_dir(place.runtime_dir()).unwrap().count(),
        0,
        "nothing is left"
    );
}

/// All commands for a running sandbox, with a path that is too long for a socket's address.
#[tokio::test(flavor = "multi_thread")]
async fn exec_in_a_running_sandbox_is_what_scripts_expect() {
    let place = Place::deep("minimal");
    std::fs::write(
        place.workspace.join("snowglobe.toml"),
        "exec_timeout_s = 2\nworkspace_mode = 'none'\n[env]\nFROM_FILE = 'yes'",
    )
    .unwrap();
    let session = place.serve_kept().await;
    session.exec("true").await;
    let shell = |script: &str| {
        let mut shell = place.command(&[]);
        let mut script_of = tokio::process::Command::new("sh");
        script_of
            .args(["-c", script, crate::common::PROGRAM])
            .current_dir(&place.workspace)
            .env_clear();
        for (name, value) in shell.kill_on_drop(true).as_std().get_envs() {
            if let Some(value) = value {
                script_of.env(name, value);
            }
        }
        async move { script_of.output().await.unwrap() }
    };
    let looped =
        "printf 'a\\nb\\nc\\n' | while read x; do \"$0\" exec -n -- \"echo $x; cat\"; done";
    let output = shell(looped).await;
    assert_eq!(
        crate::common::lossy(&output.stdout),
        "a\nb\nc\n",
        "{output:?}"
    );
    let piped =
        "printf 'in\\n' | \"$0\" exec -- 'cat /dev/stdin; readlink /proc/self/fd/0 | cut -c-5'";
    assert_eq!(
        crate::common::lossy(&shell(piped).await.stdout),
        "in\npipe:\n"
    );
    let null = "\"$0\" exec -- readlink /proc/self/fd/0 </dev/null";
    assert_eq!(
        crate::common::lossy(&shell(null).await.stdout),
        "/dev/null\n"
    );

    for (signal, status) in [(31, 159), (24, 152), (16, 144), (36, 164), (15, 143)] {
        let line = format!("kill -{signal} $$");
        let (code, _, err) = place.run(&["exec", "--", &line]).await;
        assert_eq!(code, status, "{err}");
    }
    let line = "echo $FROM_FILE $FROM_FLAG";
    let (_, out, _) = place
        .run(&["exec", "--env", "FROM_FLAG=too", "--", line])
        .await;
    assert_eq!(out, "yes too\n");
    let slow = "trap 'echo put away; exit 3' TERM; while :; do sleep 0.1; done";
    let (code, out, err) = place.run(&["exec", "--", slow]).await;
    assert_eq!((code, out.as_str()), (124, "put away\n"), "{err}");
    assert!(err.contains("exec_timeout_s"), "{err}");
    let (code, _, err) = place
        .run(&["exec", "--timeout", "0", "--", "sleep 3"])
        .await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = place.run(&["exec", "--timeout=-1", "--", "true"]).await;
    assert!(
        code == 2 && err.contains("such as 90, 1m30s or 2h"),
        "{code} {err}"
    );

    // The user's own ssh uses the same socket.
    let (_, config, err) = place.run(&["ssh-config"]).await;
    let file = place.dir.path().join("ssh.conf");
    std::fs::write(&file, config).unwrap();
    let line = format!(
        "ssh -F {} snowglobe-{} 'kill -31 $$'; echo $?",
        file.display(),
        place.name()
    );
    let output = shell(&line).await;
    assert_eq!(
        crate::common::lossy(&output.stdout),
        "159\n",
        "{err}{output:?}"
    );
    session.close().await;
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(place.runtime_dir().read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_fails_with_the_reason_before_a_boot() {
    let place = Place::new("minimal");
    let (code, _, err) = place
        .run(&["exec", "--image", "no-such-image", "--", "true"])
        .await;
    assert_eq!(code, 125);
    assert!(
        err.contains("no-such-image") && err.contains("minimal"),
        "{err}"
    );
    let (code, _, err) = place
        .run(&["exec", "--snapshot", "../evil", "--", "true"])
        .await;
    assert_eq!(code, 2);
    assert!(err.contains("1 to 64"), "{err}");
    std::fs::write(place.workspace.join("snowglobe.toml"), "imagee = 'x'").unwrap();
    let (code, _, err) = place.run(&["exec", "--", "true"]).await;
    assert_eq!(code, 125);
    assert!(err.contains("did you mean `image`?"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_works() {
    let place = Place::new("minimal");
    let (code, out, err) = place.run(&["doctor", "--json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["works"], true);
    let names: Vec<_> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "kvm",
        "engine qemu",
        "image",
        "fence processes",
        "fence calls",
        "fence bounds",
    ] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    let (code, out, _) = place.run(&["doctor", "--image", "nothing"]).await;
    assert!(code == 0 && out.contains("the first boot gets it"), "{out}");
    let (code, out, _) = place.run(&["doctor", "--image", "no/Such"]).await;
    assert!(code == 1 && out.contains("must be lowercase"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_becomes_an_image_and_garbage_does_not() {
    let place = Place::new("minimal");
    let name = format!("t{}", place.name().to_lowercase().replace('_', "-"));
    let garbage = place.dir.path().join("garbage.tar.gz");
    std::fs::write(&garbage, b"\x1f\x8b not gzip at all").unwrap();
    let (code, _, err) = place
        .run(&["image", "import", &name, garbage.to_str().unwrap()])
        .await;
    assert_eq!(code, 125);
    assert!(err.contains("garbage.tar.gz"), "{err}");
    // A root with one static program, and attributes that only an exact unpacking keeps.
    let root = place.dir.path().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    std::fs::create_dir_all(root.join("data")).unwrap();
    std::fs::write(root.join("data/héllo"), "x").unwrap();
    let tar = place.dir.path().join("root.tar.xz");
    let made = Command::new("tar")
        .args(["--owner=5", "--group=6", "--mode=u=rwxs,g=rx,o=rx", "-cJf"])
        .arg(&tar)
        .args(["-C", root.to_str().unwrap(), "."])
        .status()
        .unwrap();
    assert!(made.success());
    let (code, _, err) = place
        .run(&["image", "import", &name, tar.to_str().unwrap()])
        .await;
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = place
        .run(&[
            "exec",
            "--rm",
            "--image",
            &name,
            "--",
            "/bin/busybox stat -c '%u %g %a' /data/*; /bin/busybox id -un",
        ])
        .await;
    assert_eq!((code, out.as_str()), (0, "5 6 4755\nsandbox\n"), "{err}");
    let (code, out, _) = place.run(&["image", "ls"]).await;
    assert!(code == 0 && out.contains(&name), "{out}");
    let (code, _, err) = place.run(&["image", "rm", &name]).await;
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_ssh_attaches_to_the_running_sandbox() {
    let place = Place::new("minimal");
    let session = place.serve_kept().await;
    session.exec("echo from-mcp >/tmp/seen").await;
    let (code, config, err) = place.run(&["ssh-config"]).await;
    assert_eq!(code, 0, "{err}");
    let file = place.dir.path().join("ssh.conf");
    std::fs::write(&file, config).unwrap();
    let ssh = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command
            .arg("-F")
            .arg(&file)
            .args(arguments)
            .env("SNOWGLOBE_RUNTIME_DIR", place.runtime_dir());
        command
            .current_dir(&place.workspace)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let host = format!("snowglobe-{}", place.name());
    let output = ssh("ssh", &[&host, "cat /tmp/seen; whoami; exit 9"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "from-mcp\nsandbox\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(9));
    let output = ssh("ssh", &[&format!("{host}-root"), "whoami"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "root\n");
    // `exec` joins the same machine.
    let (code, out, err) = place.run(&["exec", "--", "cat /tmp/seen"]).await;
    assert_eq!((code, out.as_str()), (0, "from-mcp\n"), "{err}");
    // `snapshot` joins it, too.
    let (code, _, err) = place.run(&["snapshot", "save", "by-hand"]).await;
    assert_eq!(code, 0, "{err}");
    let (_, out, _) = place.run(&["snapshot", "list"]).await;
    assert!(out.contains("by-hand"), "{out}");
    let (code, _, err) = place.run(&["snapshot", "restore", "not-there"]).await;
    assert_eq!(code, 125);
    assert!(err.contains("not-there"), "{err}");
    session.close().await;
}

/// Snowglobe trusts the owner of the runtime directory, so each reader and writer checks it first.
#[tokio::test(flavor = "multi_thread")]
async fn every_subcommand_refuses_a_runtime_directory_that_is_not_private() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let place = Place::new("minimal");
    let at = |name: &str| place.dir.path().join(name);
    crate::common::private_dir(&at("private"));
    symlink(at("private"), at("link")).unwrap();
    std::fs::create_dir(at("open")).unwrap();
    std::fs::set_permissions(at("open"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut cases = vec![(at("link"), "link"), (at("open"), "mode 0755")];
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        crate::common::private_dir(&at("other"));
        chown(at("other"), Some(12_345), Some(12_345)).unwrap();
        cases.push((at("other"), "user 12345"));
    }
    let tar = at("root.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .args(["-C", "/bin", "busybox"])
        .status();
    assert!(packed.unwrap().success());
    let data = at("data");
    let token = at("token").to_string_lossy().into_owned();
    let subcommands: [&[&str]; 10] = [
        &["exec", "--", "true"],
        &["exec", "--fresh", "--", "true"],
        &["ssh-config"],
        &["ssh-proxy"],
        &["snapshot", "save", "a"],
        &["snapshot", "restore", "a"],
        &["serve"],
        &["serve", "--http", "127.0.0.1:0", "--token-file", &token],
        &["image", "import", "never-made", tar.to_str().unwrap()],
        &["doctor"],
    ];
    for (dir, says) in &cases {
        // Files that an attacker places there.
        let instance = dir.join("0123abcd");
        crate::common::private_dir(&instance);
        let lock = std::fs::File::create(instance.join("lock")).unwrap();
        lock.lock().unwrap();
        let info = json!({"name": place.name(), "workspace": place.workspace, "pid": 1, "image": "minimal",
                          "id": "$(touch owned)", "started": "2026-01-02T03:04:05Z"});
        std::fs::write(instance.join("instance.json"), info.to_string()).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(instance.join("ssh.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        for arguments in subcommands {
            let mut command = place.command(arguments);
            command
                .env("SNOWGLOBE_DATA_DIR", &data)
                .env("SNOWGLOBE_RUNTIME_DIR", dir);
            let output = command.stdin(Stdio::null()).output().await.unwrap();
            let said = crate::common::lossy(&[output.stdout, output.stderr].concat());
            assert!(!output.status.success(), "{arguments:?}: {said}");
            assert!(
                said.contains(says) && said.contains("SNOWGLOBE_RUNTIME_DIR"),
                "{arguments:?}: {said}"
            );
        }
        assert!(listener.accept().is_err(), "a client connected to it");
        std::fs::remove_dir_all(&instance).unwrap();
    }
    assert!(!place.workspace.join("owned").exists());
    if is_root {
        // The reverse case: another user does not use root's directory.
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
            crate::common::PROGRAM,
            "ls",
        ]);
        let output = command
            .current_dir("/")
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("SNOWGLOBE_RUNTIME_DIR", place.runtime_dir())
            .output()
            .unwrap();
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}

/// A project's file that the guest wrote causes no request to a registry before a person allows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_projects_file_causes_no_packet_until_it_is_allowed() {
    let place = Place::new("minimal");
    let data = place.dir.path().join("data");
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = registry.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = registry.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            use tokio::io::AsyncWriteExt;
            let _ = stream
                .write_all(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .await;
        }
    });
    let asked = || asked.load(std::sync::atomic::Ordering::SeqCst);
    let file = place.workspace.join("snowglobe.toml");
    std::fs::write(&file, format!("image = '{address}/exfil/secret:tag'")).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command
            .env_remove("SNOWGLOBE_IMAGE")
            .env("SNOWGLOBE_DATA_DIR", &data)
            .env("NO_PROXY", "*")
            .stdin(Stdio::null());
        let output = command.output().await.unwrap();
        (
            output.status.success(),
            crate::common::lossy(&output.stderr),
        )
    };
    for arguments in [
        &["exec", "--", "true"] as &[_],
        &["ssh-config"],
        &["image", "ls"],
        &["snapshot", "list"],
        &["doctor"],
    ] {
        let (_, err) = run(arguments).await;
        assert!(
            err.contains("does not count") && err.contains("snowglobe allow"),
            "{arguments:?}: {err}"
        );
    }
    assert_eq!(asked(), 0, "the registry was asked");
    let (allowed, err) = run(&["allow", "--yes"]).await;
    assert!(allowed && asked() == 0, "{err}");
    let (_, err) = run(&["exec", "--", "true"]).await;
    assert!(asked() > 0 && !err.contains("does not count"), "{err}");
    // A changed file must be allowed again.
    let before = asked();
    std::fs::write(&file, format!("image = '{address}/exfil/another:tag'")).unwrap();
    let (_, err) = run(&["exec", "--", "true"]).await;
    assert!(err.contains("does not count") && asked() == before, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_is_a_real_terminal() {
    let place = Place::new("minimal");
    let tmux = Tmux::start(&place, 90, 30);
    tmux.kind(&format!("{} shell; echo left with $?", tmux.program));
    eventually("a prompt", || {
        tmux.screen()
            .lines()
            .any(|line| line.contains("~ $") || line.trim_end().ends_with('$'))
    })
    .await;
    tmux.kind("clear; stty size; echo a''b");
    eventually("the size", || {
        tmux.screen().contains("30 90") && tmux.screen().contains("ab")
    })
    .await;
    tmux.run(&["resize-window", "-x", "70", "-y", "20"]);
    eventually("the new size", || {
        tmux.kind("stty size");
        tmux.screen().contains("20 70")
    })
    .await;
    // Wait until the shell has released the terminal: a key typed before reaches the line editor, not the command.
    tmux.kind("clear; echo be''gun; sleep 300");
    eventually("the sleep", || tmux.screen().contains("begun")).await;
    tmux.run(&["send-keys", "C-c"]);
    // The shell goes on in the machine that takes the place of its own.
    for arguments in [
        ["snapshot", "save", "good"],
        ["snapshot", "restore", "good"],
    ] {
        let (code, _, err) = place.run(&arguments).await;
        assert_eq!(code, 0, "{err}");
    }
    eventually("a new shell", || {
        let screen = tmux.screen();
        screen.contains("restored to a snapshot; this is a new shell")
            && screen.trim_end().ends_with('$')
    })
    .await;
    tmux.kind("exit 5");
    eventually("the end", || tmux.screen().contains("left with 5")).await;
}

#[tokio::test]
async fn the_runners_messages_cannot_control_a_terminal() {
    let place = Place::new("minimal");
    let libexec = place.dir.path().join("libexec");
    std::fs::create_dir(&libexec).unwrap();
    let beside = Path::new(crate::common::PROGRAM).with_file_name("snowglobe-init");
    std::os::unix::fs::symlink(beside, libexec.join("snowglobe-init")).unwrap();
    let script = libexec.join("snowglobe-runner");
    let said = r#"#!/bin/sh
printf 'snowglobe-runner: warning: \033]0;title\007\302\233 was said\n' >&2
printf '{"event":"failed","stage":"here","message":"no reason","console":[]}\n'
"#;
    crate::common::executable(&script, said);
    let mut command = place.command(&["exec", "--rm", "true"]);
    command
        .env("SNOWGLOBE_LIBEXEC", &libexec)
        .env("SNOWGLOBE_ENGINE", "qemu");
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let said = crate::common::lossy(&output.stderr);
    assert!(
        said.contains(r"warning: \u{1b}]0;title\u{7}\u{9b} was said") && said.contains("no reason"),
        "{said}"
    );
    assert!(!said.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{said:?}");
}
