//! How a VM starts and ends, and that nothing of it stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::{Vm, Watched, processes_with, share_servers};
use rustix::process::{Pid, Signal, kill_process};
use snowglobe_runner::{Action, Answer, Event};

#[test]
fn a_guest_boots_talks_and_powers_off() {
    let mut vm = Vm::new();
    vm.spec.cpus = 2;
    vm.spec.kernel_args = vec!["said=this".into()];
    let (gone, kept) = (vm.file("gone"), vm.file("kept"));
    vm.spec.remove = vec![gone.clone(), vm.path("absent")];
    vm.spec.remove_if_orphaned = vec![kept.clone()];
    let (mut runner, mut guest, engine) = vm.boot();

    let socket = fs::metadata(&vm.spec.link_socket).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o077, 0, "others can connect");
    assert_eq!(guest.run("nproc"), "2\n");
    assert!(guest.run("cat /proc/cmdline").contains(" said=this"));
    match runner.request(Action::Console { lines: 3 }) {
        Ok(Answer::Console { lines }) => {
            assert!(
                lines.len() <= 3 && lines.iter().any(|l| l == "guest is up"),
                "{lines:?}"
            );
        }
        other => panic!("{other:?}"),
    }

    guest.send("printf 'last\\033[31m words\\n' > /dev/console; reboot -f");
    let (clean, reason, console) = runner.exited();
    assert!(clean, "{reason}");
    assert!(console.iter().any(|l| l == "last[31m words"), "{console:?}");
    assert!(runner.end().success());
    engine.ended();
    assert!(!gone.exists() && kept.exists());
    assert!(!vm.spec.link_socket.exists(), "the link's socket is left");
    assert!(
        fs::read_to_string(&vm.spec.console_log)
            .unwrap()
            .contains("guest is up")
    );
}

#[test]
fn one_connection_after_another_is_served() {
    let vm = Vm::new();
    let (runner, guest, _) = vm.boot();
    drop(guest);
    for n in 0..5 {
        let mut guest = runner.connect();
        assert_eq!(guest.run(&format!("echo {n}")), format!("{n}\n"));
    }
}

#[test]
fn a_kernel_panic_is_named() {
    let mut vm = Vm::new();
    vm.spec.kernel_args = vec!["rdinit=/absent".into()];
    let runner = vm.run();
    runner.started();
    let (clean, reason, console) = runner.exited();
    assert!(!clean);
    assert!(
        reason.contains("panic") && reason.contains("root fs"),
        "{reason}: {console:?}"
    );
}

#[test]
fn stop_answers_when_everything_is_removed() {
    let mut vm = Vm::new();
    let (gone, kept) = (vm.file("gone"), vm.file("kept"));
    vm.spec.remove = vec![gone.clone()];
    vm.spec.remove_if_orphaned = vec![kept.clone()];
    vm.share();
    let (mut runner, _guest, engine) = vm.boot();
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    assert!(!gone.exists() && kept.exists());
    engine.ended();
    assert!(runner.end().success());
    assert!(processes_with(&vm.spec.name).is_empty());
}

#[test]
fn a_signal_ends_the_vm_and_removes_its_files() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut vm = Vm::new();
        let (gone, kept) = (vm.file("gone"), vm.file("kept"));
        vm.spec.remove = vec![gone.clone()];
        vm.spec.remove_if_orphaned = vec![kept.clone()];
        let mut runner = vm.run();
        let engine = runner.started();
        kill_process(Pid::from_child(&runner.child), signal).unwrap();
        let (clean, reason, _) = runner.exited();
        assert!(!clean && reason.contains("signal"), "{reason}");
        runner.end();
        engine.ended();
        assert!(!gone.exists() && kept.exists());
    }
}

/// The parent, as the runner sees it: the process that holds the other end of its input.
#[test]
fn nothing_is_left_when_the_parent_is_killed() {
    let mut vm = Vm::new();
    vm.share();
    let gone = vm.path("gone");
    fs::create_dir_all(gone.join("deep")).unwrap();
    vm.spec.remove = vec![gone.clone(), vm.spec.console_log.clone()];
    let orphan = vm.file("orphan");
    vm.spec.remove_if_orphaned = vec![orphan.clone()];

    let (input, mut writer) = std::io::pipe().unwrap();
    writeln!(writer, "{}", vm.line()).unwrap();
    let mut parent = Command::new("sleep")
        .arg("1000")
        .stdout(writer)
        .spawn()
        .unwrap();
    let mut runner = vm.run_with(Stdio::from(input));
    let engine = runner.started();
    let mut guest = runner.connect();
    guest.mount("workspace", "/mnt");

    parent.kill().unwrap();
    parent.wait().unwrap();
    runner.end();
    engine.ended();
    assert!(processes_with(&vm.spec.name).is_empty());
    assert!(!gone.exists() && !orphan.exists() && !vm.spec.console_log.exists());
    assert!(!vm.spec.link_socket.exists());
}

#[test]
fn the_engine_and_the_shares_go_when_the_runner_is_killed() {
    let mut vm = Vm::new();
    vm.share();
    let (mut runner, _guest, engine) = vm.boot();
    let share = share_servers(&vm);
    let share: Vec<Watched> = share.into_iter().map(Watched::new).collect();
    assert_eq!(share.len(), 1, "one process serves the share");
    runner.child.kill().unwrap();
    runner.child.wait().unwrap();
    engine.ended();
    share.iter().for_each(Watched::ended);
}

#[test]
fn nothing_is_left_when_the_input_ends_at_once() {
    let mut vm = Vm::new();
    let orphan = vm.file("orphan");
    vm.spec.remove_if_orphaned = vec![orphan.clone()];
    let mut runner = vm.run();
    drop(runner.input.take());
    runner.end();
    assert!(!orphan.exists());
}

#[test]
fn a_vm_that_fails_to_start_is_an_orphan_too() {
    let mut vm = Vm::new();
    vm.spec.kernel = vm.path("missing");
    let orphan = vm.file("orphan");
    vm.spec.remove_if_orphaned = vec![orphan.clone()];
    let (input, mut writer) = std::io::pipe().unwrap();
    writeln!(writer, "{}", vm.line()).unwrap();
    drop(writer);
    let (stage, _) = vm.run_with(Stdio::from(input)).failed();
    assert_eq!(stage, "kernel");
    assert!(!orphan.exists());
}

#[test]
fn invalid_requests_do_not_end_the_runner() {
    let vm = Vm::new();
    let mut runner = vm.run();
    runner.started();
    let mut input = runner.input.take().unwrap();
    writeln!(
        input,
        "nonsense\n{{\"id\":7,\"action\":{{\"action\":\"fly\"}}}}"
    )
    .unwrap();
    runner.input = Some(input);
    match runner.event() {
        Event::Reply { id: 7, result } => {
            let error = result.unwrap_err();
            assert!(error.contains("fly"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(runner.request(Action::Console { lines: 1 }).is_ok());
}

#[test]
fn the_engine_has_no_privileges_environment_or_files_that_it_does_not_need() {
    let vm = Vm::new();
    let runner = vm.run();
    let Event::Started { pid, .. } = runner.event() else {
        panic!("not started");
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(of("NoNewPrivs:"), "1");
    assert_eq!(of("Seccomp:"), "2");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(
        environment.len() < 200,
        "{}",
        String::from_utf8_lossy(&environment)
    );
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    for space in ["net", "ipc"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{space}");
    }
}

#[test]
fn a_paused_vm_can_be_resumed_or_stopped() {
    let vm = Vm::new();
    let mut runner = vm.run();
    let Event::Started { pid, .. } = runner.event() else {
        panic!("the VM did not start");
    };
    let mut guest = runner.connect();
    guest.run("true");
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim().starts_with('T')
    };
    assert_eq!(runner.request(Action::Pause), Ok(Answer::Done));
    guest.send("echo here");
    while !is_stopped() {
        std::thread::yield_now();
    }
    assert_eq!(runner.request(Action::Resume), Ok(Answer::Done));
    assert_eq!(guest.answer(), (0, "here\n".into()));
    assert!(!is_stopped());
    assert_eq!(runner.request(Action::Pause), Ok(Answer::Done));
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    assert!(runner.end().success());
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}
