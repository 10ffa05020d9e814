//! What can't be run is refused, with the reason and where to look.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::Vm;
use snowglobe_runner::{Accel, Disk, DiskFormat, EngineSpec};

/// The failure of a VM whose spec was changed so.
fn failure(change: impl FnOnce(&mut Vm)) -> (String, String) {
    let mut vm = Vm::new();
    let (gone, kept) = (vm.file("gone"), vm.file("kept"));
    vm.spec.remove = vec![gone.clone()];
    vm.spec.remove_if_orphaned = vec![kept.clone()];
    change(&mut vm);
    let failure = vm.run().failed();
    // A spec that is wrong itself may be wrong about what to remove.
    assert_eq!(gone.exists(), failure.0 == "spec", "{failure:?}");
    assert!(kept.exists());
    assert!(!vm.spec.link_socket.exists(), "a socket is left");
    failure
}

#[test]
fn a_missing_file_is_named() {
    for (stage, change) in [
        (
            "kernel",
            (|vm: &mut Vm| vm.spec.kernel = vm.path("missing")) as fn(&mut Vm),
        ),
        ("initramfs", |vm| vm.spec.initramfs = vm.path("missing")),
        ("disk", |vm| {
            vm.spec.disks = vec![Disk {
                path: vm.path("missing"),
                format: DiskFormat::Raw,
                read_only: false,
                backing: Vec::new(),
                flushes: false,
            }];
        }),
        ("share", |vm| {
            vm.share();
            vm.spec.shares[0].path = vm.path("missing");
        }),
        ("qemu", |vm| {
            vm.spec.engine = EngineSpec::Qemu {
                binary: vm.path("missing"),
                accel: Accel::Tcg,
            };
        }),
    ] {
        let (at, message) = failure(change);
        assert!(
            at.contains(stage) && message.contains("missing"),
            "{at}: {message}"
        );
    }
}

#[test]
fn a_missing_qemu_comes_with_its_package() {
    let (_, message) = failure(|vm| {
        vm.spec.engine = EngineSpec::Qemu {
            binary: "no-such-qemu".into(),
            accel: Accel::Tcg,
        };
    });
    assert!(message.contains("qemu-system-x86"), "{message}");
}

#[test]
fn numbers_and_names_have_bounds() {
    for change in [
        (|vm: &mut Vm| vm.spec.cpus = 0) as fn(&mut Vm),
        |vm| vm.spec.cpus = 1000,
        |vm| vm.spec.memory_mib = 127,
        |vm| vm.spec.name = "a,b".into(),
        |vm| vm.spec.name = String::new(),
        |vm| vm.spec.link_name = "a=b,c".into(),
        |vm| {
            vm.share();
            vm.spec.shares[0].tag = "x".repeat(37);
        },
        |vm| {
            let share = vm.share();
            let spec = vm.spec.shares[0].clone();
            vm.spec.shares = vec![spec; 6];
            assert!(share.exists());
        },
        |vm| {
            vm.share();
            let second = vm.spec.shares[0].clone();
            vm.spec.shares.push(snowglobe_runner::Share {
                tag: "second".into(),
                ..second
            });
        },
        |vm| {
            vm.share();
            vm.spec.shares[0].hooks = vec!["../hooks".into()];
        },
        |vm| {
            vm.share();
            vm.spec.shares[0].repository = Some(snowglobe_runner::Repository {
                worktree: Some("..".into()),
            });
        },
    ] {
        let (stage, message) = failure(change);
        assert_eq!(stage, "spec", "{message}");
    }
}

#[test]
fn qemu_refuses_a_file_that_is_no_disk() {
    let (stage, message) = failure(|vm| {
        vm.spec.disks = vec![Disk {
            path: vm.file("text"),
            format: DiskFormat::Qcow2,
            read_only: false,
            backing: Vec::new(),
            flushes: false,
        }];
    });
    assert!(stage.contains("disk") || stage.contains("qemu"), "{stage}");
    assert!(message.contains("qcow2"), "{message}");
}

#[test]
fn what_belongs_to_another_user_is_neither_written_nor_removed() {
    let root = rustix::process::geteuid().is_root();
    let theirs = |vm: &Vm| {
        if !root {
            return PathBuf::from("/etc/passwd");
        }
        let file = vm.file("theirs");
        std::os::unix::fs::chown(&file, Some(4321), None).unwrap();
        file
    };
    let (stage, message) = failure(|vm| {
        vm.spec.disks = vec![Disk {
            path: theirs(vm),
            format: DiskFormat::Raw,
            read_only: false,
            backing: Vec::new(),
            flushes: false,
        }];
    });
    assert_eq!(stage, "spec");
    assert!(message.contains("which belongs to user"), "{message}");
    let mut vm = Vm::new();
    let file = theirs(&vm);
    vm.spec.remove = vec![file.clone()];
    let (stage, message) = vm.run().failed();
    assert_eq!(stage, "spec");
    assert!(message.contains("a path to remove is"), "{message}");
    assert!(file.exists());
}

#[test]
fn too_much_memory_is_refused_at_once() {
    let (stage, message) = failure(|vm| vm.spec.memory_mib = u32::MAX);
    assert!(!message.is_empty(), "{stage}");
}

#[test]
fn a_socket_in_use_is_not_taken_away() {
    let vm = Vm::new();
    let mut listener = Some(std::os::unix::net::UnixListener::bind(&vm.spec.link_socket).unwrap());
    let (_, message) = vm.run().failed();
    assert!(
        message.contains(vm.spec.link_socket.to_str().unwrap()),
        "{message}"
    );
    assert!(
        vm.spec.link_socket.exists(),
        "the socket of another process was removed"
    );
    // A socket whose owner has ended is replaced.
    listener.take();
    let mut runner = vm.run();
    runner.started();
    assert!(runner.request(snowglobe_runner::Action::Stop).is_ok());
    assert!(!vm.spec.link_socket.exists());
}

#[test]
fn input_that_is_no_spec_is_refused() {
    use std::io::Write;
    for line in ["", "{}", "nonsense", "{\"name\":\"x\",\"unknown\":1}"] {
        let vm = Vm::new();
        let mut runner = vm.run_with(std::process::Stdio::piped());
        let mut input = runner.child.stdin.take().unwrap();
        writeln!(input, "{line}").unwrap();
        let (stage, _) = runner.failed();
        assert_eq!(stage, "spec", "{line}");
        assert!(fs::read_dir(vm.directory.path()).unwrap().next().is_none());
    }
}
