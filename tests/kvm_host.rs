//! Runs other tests again with a working KVM: on an emulated host (`tests/kvm-host/`).
//!
//! Each test here boots one such host, runs test programs in it and passes their output on. A host that panics,
//! hangs or does not start fails the test with the last lines of its console.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::print_stdout,
    reason = "the host's output explains a failed test"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The newest test program of that name in this program's directory. If several fit, the newest has the current sources.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    let beside = this.parent().expect("it is in a directory");
    let ours = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let hash = file
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'));
        hash.is_some_and(|hash| {
            !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let newest = std::fs::read_dir(beside)
        .expect("it can be read")
        .map(|entry| entry.expect("it can be read").path())
        .filter(ours)
        .max_by_key(|path| path.metadata().and_then(|of| of.modified()).ok());
    newest.unwrap_or_else(|| {
        panic!(
            "no test program {name} in {}: run cargo test --no-run --workspace --release",
            beside.display()
        )
    })
}

/// The exit status of `run` if the emulated host itself fails.
const HOST_FAILED: i32 = 125;

/// How many hosts may fail in this way before the test fails.
const HOSTS: usize = 3;

/// A shell line, to be run in an emulated host.
fn in_a_host(limit_s: u32, line: &str) -> Command {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kvm-host/run");
    let mut command = Command::new(run);
    command
        .args(["--limit", &limit_s.to_string(), "bash", "-c", line])
        .stdin(Stdio::null());
    command
}

/// Runs a shell line in the emulated host; it must end with 0.
///
/// The emulation has flaws: rarely the host's kernel panics, through no fault of the line. Then the line runs in a new host.
fn on_a_kvm_host(limit_s: u32, variables: &[(&str, &str)], line: &str) {
    let mut command = in_a_host(limit_s, line);
    command.envs(variables.iter().copied());
    let status = (0..HOSTS)
        .map(|_| command.status().expect("bash runs"))
        .find(|status| status.code() != Some(HOST_FAILED))
        .unwrap_or_else(|| panic!("{HOSTS} emulated hosts failed one after another"));
    assert!(status.success(), "{line}: {status}");
}

/// Runs integration tests on krun in the emulated host, one after the other.
fn on_krun(limit_s: u32, tests: &str) {
    let engine = [("SNOWGLOBE_ENGINE", "krun")];
    on_a_kvm_host(limit_s, &engine, &suite_in_turn("integration", tests));
}

/// A test program's name and the arguments that select its tests. Those that boot a translated machine in the emulated
/// host run one after the other: each takes a minute of its one processor.
fn suite_in_turn(name: &str, arguments: &str) -> String {
    format!("{} --test-threads 1 {arguments}", program(name).display())
}

/// A test program's name and the arguments that select its tests.
fn suite(name: &str, arguments: &str) -> String {
    format!("{} --test-threads 2 {arguments}", program(name).display())
}

#[test]
#[ignore = "takes ten minutes: `make kvm`"]
fn every_tool_holds_on_qemu_with_kvm() {
    let variables = [("SNOWGLOBE_ENGINE", "qemu"), ("SNOWGLOBE_ACCEL", "kvm")];
    on_a_kvm_host(
        1100,
        &variables,
        &suite("integration", "--include-ignored vm::"),
    );
}

#[test]
#[ignore = "takes eleven minutes: `make kvm`"]
fn every_tool_holds_on_krun() {
    let variables = [("SNOWGLOBE_ENGINE", "krun")];
    on_a_kvm_host(
        1100,
        &variables,
        &suite("integration", "--include-ignored vm::"),
    );
}

/// The tests of what depends on the engine most: its disks, workspace, start and end. The other test has the rest.
#[test]
fn snapshots_and_ends_hold_on_krun() {
    let tests = "--include-ignored vm::lifecycle vm::snapshots workspace::a_change";
    on_a_kvm_host(
        800,
        &[("SNOWGLOBE_ENGINE", "krun")],
        &suite("integration", tests),
    );
}

/// What the guest's root tries against the fences of the network.
#[test]
#[ignore = "takes ten minutes: `make kvm`"]
fn attacks_on_the_network_fail_on_krun() {
    on_krun(1100, "network::attacks::");
}

/// The workspace's port is vsock there.
#[test]
#[ignore = "takes ten minutes: `make kvm`"]
fn the_workspace_holds_on_krun() {
    let tests = "workspace::it_is workspace::a_change workspace::programs workspace::both_sides workspace::if_its \
                 workspace::a_tree_may";
    on_krun(1100, tests);
}

/// The rules of the shared files, which the share's server enforces.
#[test]
#[ignore = "takes ten minutes: `make kvm`"]
fn the_workspace_stays_guarded_on_krun() {
    on_krun(1100, "guarded::");
}

/// The copy's disk is frozen by copying there.
#[test]
#[ignore = "takes fifteen minutes: `make kvm`"]
fn a_copied_workspace_holds_on_krun() {
    let tests = "copied::changes_are copied::the_copy copied::nothing_that copied::killed copied::worktrees";
    on_krun(1500, tests);
}

/// Snapshots, ends and removals of a sandbox whose copy has changes.
#[test]
#[ignore = "takes fifteen minutes: `make kvm`"]
fn a_copied_workspace_loses_no_change_on_krun() {
    on_krun(1500, "copied::losses");
}

/// A worktree has two shares, each with a vsock port.
#[test]
#[ignore = "takes sixteen minutes: `make kvm`"]
fn a_worktree_has_its_repository_on_krun() {
    let tests =
        "worktrees::git_works_in_a_worktree worktrees::if_the_server worktrees::a_repository";
    on_krun(1500, tests);
}

/// The network's second port is vsock there.
#[test]
#[ignore = "takes two minutes: `make kvm`"]
fn programs_reach_the_network_and_ports_are_reached_on_krun() {
    let tests = "network::programs_see network::a_network_that_is_off ports::";
    on_krun(460, tests);
}

#[test]
fn a_krun_vm_is_isolated_and_stalls_while_the_disk_is_full() {
    let tests =
        "--include-ignored stuck::a_krun_vm stuck::a_full_host_disk no_command_line deep::a_chain";
    on_a_kvm_host(
        460,
        &[("SNOWGLOBE_ENGINE", "krun")],
        &suite("integration", tests),
    );
}

#[test]
fn kvm_is_seen_to_work_and_krun_is_chosen() {
    let check = format!(
        "{} && {} doctor --image minimal >report; cat report; grep -E '^ok +engine krun ' report",
        suite("probe", ""),
        env!("CARGO_BIN_EXE_snowglobe")
    );
    on_a_kvm_host(120, &[], &format!("cd $TMPDIR && {check}"));
}

/// Cuts a host's power while it saves snapshots, then boots the host again.
fn a_power_cut(engine: &str, cut_after_ms: u64) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let host = |test: &str, variables: &[(&str, &str)]| {
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kvm-host/run");
        let line = suite(
            "integration",
            &format!("--include-ignored --nocapture {test}"),
        );
        let output = Command::new(run)
            .args(["--limit", "240", "--disk"])
            .arg(dir.path().join("disk"))
            .args(["bash", "-c", &line])
            .env("SNOWGLOBE_ENGINE", engine)
            .env("SNOWGLOBE_ACCEL", "kvm")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        (output.status, said)
    };
    let after = cut_after_ms.to_string();
    let (status, said) = host("saves_until", &[("SNOWGLOBE_TEST_CUT_AFTER_MS", &after)]);
    assert_eq!(status.code(), Some(HOST_FAILED), "the power did not go");
    let saved: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("saved "))
        .collect();
    assert!(saved.len() >= 2, "the power went too early");
    let (status, _) = host(
        "what_was_saved",
        &[("SNOWGLOBE_TEST_SAVED", &saved.join(" "))],
    );
    assert!(status.success());
}

#[test]
fn a_power_cut_loses_no_snapshot_on_krun() {
    a_power_cut("krun", 40);
}

#[test]
fn a_power_cut_loses_no_snapshot_on_qemu() {
    a_power_cut("qemu", 150);
}

#[test]
fn the_fences_hold_on_krun() {
    let fences = suite_in_turn("fences", "--include-ignored");
    let layers = suite_in_turn("disk", "--ignored");
    on_a_kvm_host(900, &[], &format!("{fences} && {layers}"));
}

#[test]
#[ignore = "takes two minutes: `make kvm`"]
fn a_host_that_fails_is_told_from_a_program_that_does() {
    for (line, status, said) in [
        ("exit 3", 3, ""),
        ("echo c >/proc/sysrq-trigger", HOST_FAILED, "panicked"),
        // The host's only processor runs nothing else from then on.
        (
            "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; exec chrt -f 99 bash -c 'while :; do :; done'",
            HOST_FAILED,
            "stood still",
        ),
    ] {
        let ended = in_a_host(100, line).output().expect("bash runs");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(status), "{line}: {stderr}");
        assert!(stderr.contains(said), "{line}: {stderr}");
    }
}
