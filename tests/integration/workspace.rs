//! The workspace in a real VM: a file system as programs expect it, whose changes are seen from both sides.

mod suites;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::common::{Place, Session, eventually};

/// Runs the trials of a file system in `directory`.
async fn try_out(session: &Session, directory: &str, user: &str) -> String {
    let command = format!("python3 - {directory}");
    let script = include_str!("workspace.py");
    let call = json!({"command": command, "stdin": script, "user": user, "timeout_s": 300});
    let result = session.call("exec", call).await;
    assert_eq!(result["exit_code"], 0, "{result}");
    result["stdout"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_file_system_as_programs_expect_it() {
    let place = Place::new("debian");
    let session = place.serve().await;
    for user in ["sandbox", "root"] {
        let faults = try_out(&session, "/workspace", user).await;
        assert_eq!(faults, "0 faults\n", "{user}");
    }
    assert_eq!(fs::read_dir(&place.workspace).unwrap().count(), 0);
    session.close().await;
}

/// Waits until a command prints `expected`: a change on the host is reported at once, but not at the same time.
async fn sees(session: &Session, command: &str, expected: &str) {
    let mut last = String::new();
    for _ in 0..100 {
        last = session.stdout(command).await;
        if last == expected {
            return;
        }
    }
    panic!("{command}: {last:?} is not {expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_the_host_is_seen_although_the_guest_keeps_what_it_knows() {
    let place = Place::new("minimal");
    let host = &place.workspace;
    fs::create_dir(host.join("dir")).unwrap();
    fs::write(host.join("dir/file"), "old").unwrap();
    fs::create_dir(host.join("hidden")).unwrap();
    fs::write(host.join("one"), "linked").unwrap();
    fs::hard_link(host.join("one"), host.join("hidden/name")).unwrap();
    let session = place.serve().await;
    // All of it is known now, also what is not there.
    let known = "ls -l . dir; cat dir/file; stat none dir/none other/none; true";
    session.exec(known).await;
    let read = "cat dir/file";

    fs::write(host.join("dir/file"), "in place").unwrap();
    sees(&session, read, "in place").await;
    fs::write(host.join("dir/new"), "replaced").unwrap();
    fs::rename(host.join("dir/new"), host.join("dir/file")).unwrap();
    sees(&session, read, "replaced").await;
    let mode = fs::Permissions::from_mode(0o751);
    fs::set_permissions(host.join("dir/file"), mode).unwrap();
    sees(&session, "stat -c %a dir/file", "751\n").await;
    fs::write(host.join("none"), "there").unwrap();
    sees(&session, "cat none 2>/dev/null; true", "there").await;
    fs::write(host.join("dir/none"), "there, too").unwrap();
    sees(&session, "cat dir/none 2>/dev/null; true", "there, too").await;
    fs::create_dir(host.join("other")).unwrap();
    fs::write(host.join("other/none"), "new").unwrap();
    sees(&session, "cat other/none 2>/dev/null; true", "new").await;
    fs::rename(host.join("dir"), host.join("moved")).unwrap();
    sees(&session, "ls -d dir moved 2>/dev/null; true", "moved\n").await;
    sees(&session, "cat moved/file", "replaced").await;
    fs::write(host.join("moved/file"), "again").unwrap();
    sees(&session, "cat moved/file", "again").await;
    fs::remove_file(host.join("moved/file")).unwrap();
    symlink("none", host.join("moved/file")).unwrap();
    sees(&session, "readlink moved/file; true", "none\n").await;
    fs::remove_dir_all(host.join("moved")).unwrap();
    sees(&session, "ls", "hidden\nnone\none\nother\n").await;
    // A file with two names changes under one whose directory nobody has looked into.
    assert_eq!(session.stdout("cat one").await, "linked");
    fs::write(host.join("hidden/name"), "by another name").unwrap();
    sees(&session, "cat one", "by another name").await;
    session.close().await;
}

/// Watches a directory, and prints each event with its file.
const WATCHER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
names = {libc.inotify_add_watch(watch, path.encode(), 0xfff): path for path in sys.argv[1:]}
print("ready", flush=True)
while True:
    events = os.read(watch, 65536)
    while events:
        number, mask, _, length = struct.unpack("iIII", events[:16])
        name = events[16 : 16 + length].rstrip(b"\0").decode()
        events = events[16 + length :]
        kinds = {2: "modify", 4: "attrib", 0x400: "delete self"}
        for bit, kind in kinds.items():
            if mask & bit:
                print(kind, names[number], name, flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_watch_files_hear_of_a_save_on_the_host() {
    let place = Place::new("debian");
    let host = &place.workspace;
    fs::create_dir_all(host.join("src/deep")).unwrap();
    for file in ["src/a", "src/b", "src/deep/c"] {
        fs::write(host.join(file), "old").unwrap();
    }
    let session = place.serve().await;
    session
        .call(
            "write",
            json!({"path": "/tmp/watch.py", "content": WATCHER}),
        )
        .await;
    let line = "python3 /tmp/watch.py src src/deep src/b >/tmp/heard";
    session
        .call("exec", json!({"command": line, "background": true}))
        .await;
    heard(&session, "ready").await;
    let before = fs::metadata(host.join("src/a")).unwrap();
    // An editor's save: in place, then by a new file that takes the old one's name.
    fs::write(host.join("src/a"), "new").unwrap();
    heard(&session, "modify src a").await;
    fs::write(host.join("src/deep/.c.swp"), "new").unwrap();
    fs::rename(host.join("src/deep/.c.swp"), host.join("src/deep/c")).unwrap();
    heard(&session, "modify src/deep c").await;
    fs::write(host.join("src/created"), "new").unwrap();
    heard(&session, "modify src created").await;
    fs::remove_file(host.join("src/b")).unwrap();
    heard(&session, "delete self src/b").await;
    heard(&session, "modify src").await;
    // Nothing but the host's own change happened to the file.
    let after = fs::metadata(host.join("src/a")).unwrap();
    assert!(after.mtime() >= before.mtime());
    let times = session.stdout("stat -c '%Y %Z' src/a").await;
    assert_eq!(times, format!("{} {}\n", after.mtime(), after.ctime()));
    session.close().await;
}

/// Waits until the watcher has printed a line.
async fn heard(session: &Session, line: &str) {
    let mut all = String::new();
    for _ in 0..200 {
        all = session.stdout("cat /tmp/heard 2>/dev/null; true").await;
        if all.lines().any(|heard| heard.trim_end() == line) {
            return;
        }
    }
    panic!("{line:?} is not in {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_append_to_a_file_that_the_host_cuts() {
    let place = Place::new("minimal");
    let log = place.workspace.join("log");
    let session = place.serve().await;
    let client = session.client.peer().clone();
    // The guest's kernel need not ask where the file ends.
    let line = "exec 3>>log; echo 1 >&3; for turn in 2 3; do : >ready$turn; \
                until [ -e go$turn ]; do :; done; echo $turn >&3; cat log; done";
    let guest = tokio::spawn(async move {
        let call = json!({"command": line, "timeout_s": 300});
        client.call_tool(crate::common::request("exec", call)).await
    });
    let mine = place.workspace.join("ready2");
    eventually("the guest has the file open", || mine.exists()).await;
    let mut host = fs::File::options().append(true).open(&log).unwrap();
    host.write_all(b"host\n").unwrap();
    fs::write(place.workspace.join("go2"), "").unwrap();
    let mine = place.workspace.join("ready3");
    eventually("the guest has appended", || mine.exists()).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "1\nhost\n2\n");
    host.set_len(0).unwrap();
    fs::write(place.workspace.join("go3"), "").unwrap();
    let result = guest.await.unwrap().unwrap();
    assert_eq!(
        result.structured_content.unwrap()["stdout"],
        "1\nhost\n2\n3\n"
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), "3\n");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_stays_although_its_other_names_are_unknown() {
    let place = Place::new("minimal");
    let host = &place.workspace;
    fs::write(host.join("one"), "linked").unwrap();
    fs::create_dir(host.join("unseen")).unwrap();
    fs::hard_link(host.join("one"), host.join("unseen/two")).unwrap();
    let session = place.serve().await;
    let line = "exec 3<one; rm one; cat <&3";
    assert_eq!(session.stdout(line).await, "linked");
    assert_eq!(session.stdout("cat unseen/two").await, "linked");
    session.close().await;
}

/// A day's mix of edits from both sides, compared in the end.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_change_the_tree_and_agree_in_the_end() {
    let place = Place::new("debian");
    let session = place.serve().await;
    let guest = tokio::spawn(async move {
        let line = "set -e; mkdir -p guest; for i in $(seq 60); do echo $i >guest/$((i % 40)); \
                    mv guest/$((i % 40)) guest/m$((i % 30)); cat host/* >/dev/null 2>&1 || true; \
                    mkdir -p guest/d$((i % 9)); rm -rf guest/d$(((i + 4) % 9)); ln -f guest/m$((i % 30)) guest/l$((i % 7)); \
                    done";
        session.exec(line).await;
        session
    });
    let host = place.workspace.clone();
    let edits = tokio::task::spawn_blocking(move || {
        fs::create_dir(host.join("host")).unwrap();
        for round in 0..3000 {
            let file = host.join(format!("host/{}", round % 50));
            fs::write(&file, format!("{round}")).unwrap();
            match round % 7 {
                0 => fs::rename(&file, host.join(format!("host/m{}", round % 20))).unwrap(),
                3 => fs::remove_file(&file).unwrap(),
                5 => drop(fs::create_dir(host.join(format!("host/d{}", round % 30)))),
                _ => {}
            }
        }
    });
    edits.await.unwrap();
    let session = guest.await.unwrap();
    for list in [
        "find . | sort",
        "find . -type f -exec sha256sum {} + | sort -k2",
        "find . -type f -printf '%p %s %m %n %T@\\n' | sort",
    ] {
        let ours = Command::new("sh")
            .args(["-c", list])
            .current_dir(&place.workspace)
            .output()
            .unwrap();
        let ours = String::from_utf8(ours.stdout).unwrap();
        assert!(ours.lines().count() > 80, "{ours}");
        // Longer than a result may be.
        session.exec(&format!("{list} >/tmp/list")).await;
        for (number, line) in ours.lines().enumerate().step_by(50) {
            let part: Vec<&str> = ours.lines().skip(number).take(50).collect();
            let print = format!("tail -n +{} /tmp/list | head -n 50", number + 1);
            assert_eq!(
                session.stdout(&print).await,
                part.join("\n") + "\n",
                "from {line}"
            );
        }
    }
    session.close().await;
}

/// Makes a tree of so many files, a thousand in each directory.
fn plant(root: &Path, files: usize) {
    for dir in 0..files / 1000 {
        let path = root.join(dir.to_string());
        fs::create_dir(&path).unwrap();
        for file in 0..1000 {
            fs::write(path.join(file.to_string()), "x").unwrap();
        }
    }
}

/// A server whose processes may open few files.
async fn with_few_descriptors(place: &Place) -> Session {
    let program = place.command(&["serve", "--rm"]);
    let mut limited = tokio::process::Command::new("prlimit");
    limited
        .arg("--nofile=1024:1024")
        .arg(program.as_std().get_program());
    limited.args(program.as_std().get_args());
    for (name, value) in program.as_std().get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(directory) = program.as_std().get_current_dir() {
        limited.current_dir(directory);
    }
    Session::over(limited).await
}

async fn walk(files: usize) {
    let place = Place::new("debian");
    plant(&place.workspace, files);
    let session = with_few_descriptors(&place).await;
    let count = format!("{files}\n");
    let walk = json!({"command": "find . -type f -size 1c | wc -l", "timeout_s": 3000});
    for _ in 0..2 {
        assert_eq!(session.call("exec", walk.clone()).await["stdout"], count);
    }
    assert_eq!(
        session.stdout("cat */7 | wc -c").await,
        format!("{}\n", files / 1000)
    );
    // Open files stay usable while many others are opened, and while more are removed than can be.
    let held = "exec 3<0/1 4>>1/1 5<1/1; cat */*[05] >/dev/null; echo y >&4; cat <&3; cat 1/1; \
                rm -r 0 1; echo z >&4; cat <&5; ls -d 0 1";
    let held = json!({"command": held, "timeout_s": 3000});
    let held = session.call("exec", held).await;
    assert_eq!(held["stdout"], "xxy\nxy\nz\n", "{held}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_may_have_more_files_than_can_be_open() {
    walk(6_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make workspace`"]
async fn six_hundred_thousand_files_need_a_thousand_descriptors() {
    walk(600_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_host_wrote_stays_as_it_is() {
    let place = Place::new("debian");
    plant(&place.workspace, 1000);
    let git = |line: &str| {
        let run = format!("git -c user.name=a -c user.email=a@b {line}");
        let done = Command::new("sh")
            .args(["-c", &run])
            .current_dir(&place.workspace)
            .status();
        assert!(done.unwrap().success(), "{line}");
    };
    git("init -q");
    // Git reads files again that are as young as its index.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for file in 0..1000 {
        let file = fs::File::options()
            .write(true)
            .open(place.workspace.join(format!("0/{file}")));
        file.unwrap().set_modified(old).unwrap();
    }
    git("add -A");
    git("commit -qm all");
    git("status");
    let index = place.workspace.join(".git/index");
    let before = (
        fs::read(&index).unwrap(),
        fs::metadata(&index).unwrap().ino(),
    );
    let session = place.serve().await;
    let status = session.stdout("git status --porcelain").await;
    assert_eq!(status, "");
    let after = (
        fs::read(&index).unwrap(),
        fs::metadata(&index).unwrap().ino(),
    );
    assert!(before == after, "the guest's git read every file anew");
    session.close().await;
}

/// The process that serves the workspace.
fn server(session: &Session) -> Pid {
    let server = crate::common::descendants(session.pid)
        .into_iter()
        .find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"share")
        })
        .expect("a process serves the workspace");
    Pid::from_raw(server.cast_signed()).unwrap()
}

fn signal(process: Pid, signal: Signal) {
    rustix::process::kill_process(process, signal).unwrap();
}

/// How many writers there are in [`stall`], and how much each writes, in MiB. A request has up to 1 MiB, so theirs are more
/// than the stream takes while nobody reads it.
const WRITERS: usize = 16;
const EACH: usize = 4;

/// Starts the writers, and stops the server before they write, so that all of them wait for it. The task gives the result of
/// the command, which prints how many of them failed.
async fn stall(session: &Session) -> tokio::task::JoinHandle<Value> {
    let writers = format!(
        "for n in $(seq {WRITERS}); do
            {{ touch /tmp/opened$n; until [ -e /tmp/go ]; do sleep 0.1; done
              yes \"of $n\" | dd bs=1M count={EACH} iflag=fullblock status=none; }} >w$n &
            all=\"$all $!\"
        done
        failed=0; for one in $all; do wait $one || failed=$((failed + 1)); done; echo $failed"
    );
    let call = json!({"command": writers, "timeout_s": 300});
    let call = crate::common::request("exec", call);
    let client = session.client.peer().clone();
    let writers = tokio::spawn(async move {
        let result = client.call_tool(call).await;
        result
            .map(|result| result.structured_content.unwrap_or_default())
            .unwrap_or_default()
    });
    let opened = format!(
        "until [ -e /tmp/opened{WRITERS} ] && [ $(ls /tmp/opened* | wc -l) = {WRITERS} ]; do sleep 0.1; done"
    );
    session.exec(&opened).await;
    signal(server(session), Signal::STOP);
    // The kernel counts the requests that are not answered.
    let wait = format!(
        "import ctypes, glob, time
all = '/sys/fs/fuse/connections'
ctypes.CDLL(None).mount(b'none', all.encode(), b'fusectl', 0, None)
while not any(int(open(one).read()) >= {WRITERS} for one in glob.glob(all + '/*/waiting')): time.sleep(0.1)"
    );
    let command = "touch /tmp/go; exec python3 -";
    let wait =
        json!({"command": command, "stdin": wait, "user": "root", "cwd": "/", "timeout_s": 120});
    assert_eq!(session.call("exec", wait).await["exit_code"], 0);
    writers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_does_not_take_at_once_arrives_later() {
    let place = Place::new("debian");
    let session = place.serve().await;
    let writers = stall(&session).await;
    signal(server(&session), Signal::CONT);
    assert_eq!(writers.await.unwrap()["stdout"], "0\n");
    for number in 1..=WRITERS {
        let written = fs::read(place.workspace.join(format!("w{number}"))).unwrap();
        let line = format!("of {number}\n");
        let mut expected = line.as_bytes().iter().cycle().take(EACH << 20);
        assert_eq!(written.len(), EACH << 20, "w{number}");
        assert!(
            written.iter().all(|byte| expected.next() == Some(byte)),
            "w{number}"
        );
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn if_its_server_is_killed_before_a_full_stream_no_command_waits_for_ever() {
    let place = Place::new("debian");
    let session = place.serve().await;
    let writers = stall(&session).await;
    signal(server(&session), Signal::KILL);
    // The machine ends, too; it may do so before the writers have said that they failed.
    let writers = writers.await.unwrap();
    assert_ne!(writers["stdout"], "0\n", "{writers}");
    let _ = session.raw("exec", json!({"command": "true"})).await;
    assert_eq!(session.stdout("echo there").await, "there\n");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn if_its_server_is_killed_no_command_waits_for_ever() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("echo kept >kept; sync").await;
    let client = session.client.peer().clone();
    let calls = (0..32).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let line = format!("while :; do echo {number} >f{number}; cat f* >/dev/null; done");
            let call = crate::common::request("exec", json!({"command": line, "timeout_s": 600}));
            client.call_tool(call).await
        })
    });
    let calls: Vec<_> = calls.collect();
    let host = place.workspace.clone();
    eventually("all of them write", || {
        (0..32).all(|number| host.join(format!("f{number}")).exists())
    })
    .await;
    signal(server(&session), Signal::KILL);
    for call in calls {
        let ended = call.await.unwrap();
        assert!(ended.is_err() || ended.is_ok_and(|result| result.is_error == Some(true)));
    }
    // It may report the loss first.
    let _ = session.raw("exec", json!({"command": "true"})).await;
    assert_eq!(session.stdout("cat kept").await, "kept\n");
    session.close().await;
}
