//! How VMs and their servers end, and how the next call gets a new VM.

use std::path::Path;

use rmcp::model::CallToolRequestParams;
use serde_json::json;

use crate::common::{Place, descendants, eventually, runs};

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
    let session = place.serve_kept().await;
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
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(!instance.exists(), "keys are left behind");
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
