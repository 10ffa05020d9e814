//! Guests, engines and disks that fail or hang, with a real VM: every wait for them is bounded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Place, Session, Small, descendants, soon};
use rmcp::model::{
    CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientRequest,
    Request,
};
use rmcp::service::PeerRequestOptions;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::AsyncReadExt;

/// Stops every thread of init while the job runs.
const SEIZE: &str = "exec python3 -c '
import ctypes, os, time
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
for thread in os.listdir(\"/proc/1/task\"):
    for request in 0x4206, 0x4207:
        if ptrace(request, int(thread), 0, 0): raise OSError(ctypes.get_errno())
time.sleep(1000)
'";

async fn seize(session: &Session) {
    let job = json!({"command": SEIZE, "user": "root", "background": true});
    // Init may be stopped before it answers.
    let _ = session.raw("exec", job).await;
    let exec = json!({"command": "true", "timeout_s": 0.1});
    while session.raw("exec", exec.clone()).await.is_error != Some(true) {}
}

/// A command in a guest that does not answer ends with an error, in time.
async fn unanswered(session: &Session) {
    let began = Instant::now();
    let exec = json!({"command": "true", "timeout_s": 3});
    let said = session.error("exec", exec).await;
    assert!(
        said.contains("`exec` within 8 s") && said.contains("`reboot`"),
        "{said}"
    );
    soon(began);
}

/// Ends the server while its machine runs.
async fn terminate(session: &Session) {
    let below = descendants(session.pid);
    assert!(below.len() >= 2, "{below:?}");
    session.terminate().await;
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).unwrap()
}

/// The engine's process among the server's descendants.
fn engine(session: &Session) -> u32 {
    let is_engine = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("qemu-system")
    };
    let below = descendants(session.pid);
    below.into_iter().find(is_engine).expect("qemu runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_guest_or_engine_can_be_rebooted_and_stopped() {
    let place = Place::new("debian");
    let session = place.serve().await;
    session.exec("echo kept >kept").await;
    seize(&session).await;
    unanswered(&session).await;
    let began = Instant::now();
    session.call("reboot", json!({})).await;
    eprintln!("rebooted a wedged guest in {:?}", began.elapsed());
    assert_eq!(session.stdout("cat kept").await, "kept\n");

    kill_process(pid(engine(&session)), Signal::STOP).unwrap();
    unanswered(&session).await;
    session.call("reboot", json!({})).await;
    assert_eq!(session.stdout("cat kept").await, "kept\n");

    seize(&session).await;
    terminate(&session).await;
    let left = std::fs::read_dir(place.store().join("layers")).unwrap();
    assert_eq!(left.count(), 0, "a layer is left");
}

/// Cancels a call with endless output.
async fn give_up(session: &Session) {
    let arguments = json!({"command": "touch /tmp/began; exec yes", "timeout_s": 600});
    let call =
        CallToolRequestParams::new("exec").with_arguments(arguments.as_object().cloned().unwrap());
    let handle = session
        .client
        .send_cancellable_request(
            ClientRequest::CallToolRequest(Request::new(call)),
            PeerRequestOptions::no_options(),
        )
        .await
        .unwrap();
    while session.exec("rm /tmp/began").await["exit_code"] != 0 {}
    let given_up = CancelledNotificationParam::new(Some(handle.id.clone()), None);
    let given_up = CancelledNotification::new(given_up).into();
    session.client.send_notification(given_up).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_output_ends_no_vm_and_a_stopped_engine_ends_with_its_server() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = session.stdout(boot).await;
    for _ in 0..4 {
        give_up(&session).await;
        assert_eq!(
            session.stdout(boot).await,
            first,
            "the machine was rebooted"
        );
        // A client that joined through the server's link, and is killed.
        let mut joined = place.command(&["exec", "yes"]);
        let mut joined = joined.stdout(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 100_000];
        let mut out = joined.stdout.take().unwrap();
        out.read_exact(&mut some).await.unwrap();
        joined.kill().await.unwrap();
        assert_eq!(
            session.stdout(boot).await,
            first,
            "the machine was rebooted"
        );
    }
    kill_process(pid(engine(&session)), Signal::STOP).unwrap();
    terminate(&session).await;
}

/// Every file below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.symlink_metadata().unwrap() {
            meta if meta.is_dir() => files_below(&path),
            meta if meta.is_file() => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

/// Another user of the host sees only which processes run.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_line_names_a_file_and_no_file_is_open_to_others() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("echo kept >/var/tmp/kept; sync").await;
    let save = json!({"action": "save", "name": "kept"});
    session.call("snapshot", save).await;
    session.exec("true").await;
    let below = descendants(session.pid);
    assert!(below.len() >= 2, "a runner and an engine: {below:?}");
    let secret = [Place::data_dir(), place.dir.path().to_owned()];
    for process in below {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
        // The first word is the program.
        for word in line.split(|byte| *byte == 0).skip(1) {
            let word = crate::common::lossy(word);
            let named = secret
                .iter()
                .find(|path| word.contains(path.to_str().unwrap()));
            assert_eq!(named, None, "{word}");
        }
    }
    for dir in [place.store(), place.runtime_dir()] {
        let files = files_below(&dir);
        assert!(files.len() >= 2, "{}: {files:?}", dir.display());
        for file in files {
            let mode = file.metadata().unwrap().mode() & 0o7777;
            assert_eq!(mode & 0o7077, 0, "{}: {mode:o}", file.display());
        }
    }
    session.close().await;
}

/// The message of a call. An engine that can't handle a failed write stops before a write fails.
fn full(said: &str) -> bool {
    said.contains("the host's disk is full") || said.contains("the host's disk is almost full")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_disk_is_named_and_the_sandbox_continues_once_there_is_room() {
    let place = Place::new("minimal");
    let layers = place.store().join("layers");
    std::fs::create_dir_all(&layers).unwrap();
    let small = Small::mount(&layers, 160 << 20);
    let session = place.serve().await;
    session.exec("true").await;
    // Not earlier: the start sweeps every file that is no layer.
    let ballast = small.path.join("ballast");
    std::fs::write(&ballast, vec![1; 136 << 20]).unwrap();
    let job = json!({
        "command": "yes 0123456789abcdef | head -c 33554432 >/var/tmp/wanted; sync; sha1sum </var/tmp/wanted",
        "background": true,
    });
    let job = session.call("exec", job).await;
    let began = Instant::now();
    let said = session
        .error("exec", json!({"command": "sleep 100", "timeout_s": 100}))
        .await;
    assert!(full(&said), "{said}");
    eprintln!("named after {:?}: {said}", began.elapsed());
    let began = Instant::now();
    let said = session.error("exec", json!({"command": "true"})).await;
    assert!(full(&said), "{said}");
    soon(began);
    let said = session
        .error("snapshot", json!({"action": "save", "name": "full"}))
        .await;
    assert!(full(&said), "{said}");

    std::fs::remove_file(&ballast).unwrap();
    let wait = json!({"action": "wait", "id": job["job_id"], "timeout_s": 50, "offset": 0});
    let until = Instant::now() + Duration::from_secs(150);
    let ended = loop {
        // For a moment the calls may still report the full disk.
        let waited = session.raw("job", wait.clone()).await;
        let result = waited.structured_content.unwrap_or_default();
        if waited.is_error != Some(true) && result["jobs"][0]["state"] != "running" {
            break result;
        }
        assert!(Instant::now() < until, "{result}");
    };
    assert_eq!(ended["jobs"][0]["exit_code"], 0, "{ended}");
    let sum = session
        .stdout("yes 0123456789abcdef | head -c 33554432 | sha1sum")
        .await;
    assert_eq!(ended["output"], sum.as_str());
    session.close().await;
}

/// The message that a directory has no room, with advice.
fn names_room(said: &str, dir: &Path) -> bool {
    said.contains(dir.to_str().unwrap()) && said.contains("make room there")
}

/// Mounts a small file system for the snapshots' records, which needs root.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_room_for_its_record_fails_and_can_be_saved_later() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("echo first >/var/tmp/mark; sync").await;
    let records = place.store().join("snapshots");
    let small = Small::mount(&records, 64 << 10);
    small.fill(0);
    let save = json!({"action": "save", "name": "full"});
    let said = session.error("snapshot", save.clone()).await;
    assert!(names_room(&said, &records), "{said}");
    assert_eq!(session.snapshots().await, [""; 0]);
    assert_eq!(
        std::fs::read_dir(&records).unwrap().count(),
        1,
        "but the ballast"
    );
    assert_eq!(session.stdout("cat /var/tmp/mark").await, "first\n");

    small.empty();
    session.call("snapshot", save).await;
    session.exec("echo second >/var/tmp/mark; sync").await;
    let restore = json!({"action": "restore", "name": "full"});
    session.call("snapshot", restore).await;
    assert_eq!(session.stdout("cat /var/tmp/mark").await, "first\n");
    // No record names the layer that was frozen for the failed snapshot; the next machine sweeps it.
    session.call("reboot", json!({})).await;
    session.close().await;
}

/// Mounts small file systems for a machine's directories, which needs root.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_without_room_names_the_place_leaves_no_files_and_works_later() {
    let place = Place::new("minimal");
    let runtime = place.runtime_dir();
    let small = Small::mount(&runtime, 1 << 20);
    let mut failed = 0;
    // Each file in the running sandbox's directory needs a page.
    for free in (0..6).map(|pages| pages << 12) {
        small.fill(free);
        let (code, _, said) = place.run(&["exec", "--rm", "true"]).await;
        let left: Vec<_> = std::fs::read_dir(&runtime).unwrap().collect();
        assert_eq!(left.len(), 1, "{free}: {left:?}");
        if code != 0 {
            failed += 1;
            assert!(names_room(&said, &runtime), "{free}: {said}");
        }
    }
    assert!((3..6).contains(&failed), "{failed} boots found no room");
    small.empty();
    let (code, _, said) = place.run(&["exec", "--rm", "true"]).await;
    assert_eq!(code, 0, "{said}");
    drop(small);

    let session = place.serve().await;
    let run = place.store().join("run");
    std::fs::create_dir_all(&run).unwrap();
    let small = Small::mount(&run, 16 << 10);
    // First without room for the directory, then without room for its files.
    for free in [0, 4 << 10] {
        small.fill(free);
        let said = session.error("exec", json!({"command": "true"})).await;
        assert!(names_room(&said, &run), "{said}");
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1, "{free}");
        let layers = std::fs::read_dir(place.store().join("layers")).unwrap();
        assert_eq!(layers.count(), 0, "{free}: a layer is left");
    }
    drop(small);
    session.exec("true").await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_stays_the_directory_that_was_opened_at_the_start() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let (moved, elsewhere) = (
        place.dir.path().join("moved"),
        place.dir.path().join("elsewhere"),
    );
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("secret"), "secret").unwrap();
    session.exec("echo mine >mine").await;
    std::fs::rename(&place.workspace, &moved).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &place.workspace).unwrap();
    session.call("reboot", json!({})).await;
    assert_eq!(session.stdout("ls; echo new >new").await, "mine\n");
    assert_eq!(std::fs::read(moved.join("new")).unwrap(), b"new\n");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1);
    let listed = session.client.list_all_resources().await.unwrap();
    let names: Vec<_> = listed.iter().map(|resource| resource.uri.clone()).collect();
    assert!(!names.iter().any(|uri| uri.contains("secret")), "{names:?}");
    assert!(names.iter().any(|uri| uri.contains("mine")), "{names:?}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the engine krun; tests/kvm_host.rs runs it there"]
async fn a_krun_vm_has_no_file_of_the_runtime_directory() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let mounts: Vec<String> = descendants(session.pid)
        .iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok())
        .filter(|mounts| mounts.contains(" /snowglobe-link "))
        .collect();
    assert_eq!(mounts.len(), 1, "exactly one process must be the VM");
    let runtime = place.runtime_dir();
    assert!(
        !mounts[0].contains(runtime.to_str().unwrap()),
        "{}",
        mounts[0]
    );
    let link = mounts[0]
        .lines()
        .find(|mount| mount.contains(" /snowglobe-link "))
        .unwrap();
    assert!(
        link.contains(" - tmpfs ") && link.contains("size=4k"),
        "{link}"
    );
    session.close().await;
}
