//! Disks, and switching the first one to a new layer while the guest writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Vm;
use rustix::mount::{MountFlags, UnmountFlags};
use snowglobe_runner::{Action, Answer, Disk, DiskFormat, EngineSpec, Event};

const SIZE: u64 = 64 << 20;

/// A base of zeroes, and the first layer over it.
fn layered(vm: &mut Vm) -> (PathBuf, PathBuf) {
    let (base, first) = (vm.path("base"), vm.path("layer-0,\"quoted\""));
    fs::File::create(&base).unwrap().set_len(SIZE).unwrap();
    vm.add_layer(&first, SIZE, Some(&base));
    vm.spec.disks.push(Disk {
        path: base.clone(),
        format: DiskFormat::Raw,
        read_only: true,
        backing: Vec::new(),
        flushes: false,
    });
    (base, first)
}

/// What a guest would read of the disk whose newest layer is `layer`.
fn contents(vm: &Vm, layer: &Path) -> Vec<u8> {
    let raw = vm.path("raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-U", "-O", "raw"])
        .args([layer, &raw])
        .status();
    assert!(converted.unwrap().success());
    fs::read(&raw).unwrap()
}

fn check(layer: &Path) {
    let checked = Command::new("qemu-img")
        .arg("check")
        .arg(layer)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn disks_keep_their_order_and_the_read_only_one_its_contents() {
    let mut vm = Vm::new();
    let (base, first) = layered(&mut vm);
    let (mut runner, mut guest, _) = vm.boot();
    assert_eq!(
        guest.run("cat /sys/block/vda/ro /sys/block/vdb/ro"),
        "0\n1\n"
    );
    guest.run("echo mark | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null");
    assert_ne!(
        guest
            .try_run("echo mark | dd of=/dev/vdb conv=notrunc,fsync")
            .0,
        0
    );
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    assert!(contents(&vm, &first).starts_with(b"mark\n"));
    assert!(fs::read(&base).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn layers_are_switched_while_the_guest_writes() {
    let mut vm = Vm::new();
    let (base, first) = layered(&mut vm);
    vm.spec.remove = vec![first.clone()];
    let (mut runner, mut guest, _) = vm.boot();
    // Every block in turn is written with its number, over and over, in no order with the switches.
    guest.run(
        "(n=0; while [ ! -e /stop ]; do n=$((n + 1)); echo \"block $n\" | \
         dd of=/dev/vda bs=4096 seek=$((n % 1000)) conv=notrunc,fsync 2> /dev/null || touch /failed; \
         echo $n > /count; done; touch /stopped) > /dev/null 2>&1 &",
    );
    let wait_for_more =
        "was=$(cat /count); while [ \"$(cat /count)\" -lt $((was + 20)) ]; do usleep 1000; done";
    guest.run("while [ ! -s /count ]; do usleep 1000; done");

    let mut frozen = vec![first.clone()];
    let mut froze = Vec::new();
    for n in 1..=12 {
        guest.run(wait_for_more);
        let next = vm.path(&format!("layer-{n}"));
        assert_eq!(
            runner.request(Action::FreezeDisk {
                disk: 0,
                layer: next.clone()
            }),
            Ok(Answer::Frozen {
                layer: frozen.last().unwrap().clone()
            })
        );
        froze.push(fs::read(frozen.last().unwrap()).unwrap());
        frozen.push(next);
    }
    guest.run(wait_for_more);
    guest.run("touch /stop; while [ ! -e /stopped ]; do usleep 1000; done; [ ! -e /failed ]; sync");
    let seen = guest.run("sha256sum /dev/vda");
    let newest = frozen.pop().unwrap();
    let kept = vm.path("kept");
    fs::hard_link(&newest, &kept).unwrap();
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));

    assert!(
        !newest.exists(),
        "the runner must remove the newest layer in place of the first"
    );
    for (layer, then) in frozen.iter().zip(&froze) {
        check(layer);
        assert!(
            &fs::read(layer).unwrap() == then,
            "{layer:?} changed after it was frozen"
        );
    }
    check(&kept);
    let raw = contents(&vm, &kept);
    fs::write(vm.path("raw"), &raw).unwrap();
    let sum = Command::new("sha256sum")
        .arg(vm.path("raw"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(seen.split(' ').next(), sum.split(' ').next());
    assert!(raw[4096..].starts_with(b"block "));
    assert!(fs::read(base).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn layers_are_merged_while_the_guest_writes() {
    let mut vm = Vm::new();
    let (base, first) = layered(&mut vm);
    let (mut runner, mut guest, _) = vm.boot();
    let write = |guest: &mut common::Guest, what: &str, at: u32| {
        guest.run(&format!(
            "echo {what} | dd of=/dev/vda bs=1M seek={at} conv=notrunc,fsync 2> /dev/null"
        ));
    };
    let mut layers = vec![first.clone()];
    for round in 0..3 {
        for n in 1..=6 {
            write(&mut guest, &format!("round-{round}-{n}"), n);
            let next = vm.path(&format!("layer-{round}-{n}"));
            let frozen = runner.request(Action::FreezeDisk {
                disk: 0,
                layer: next.clone(),
            });
            let layer = layers.last().unwrap().clone();
            assert_eq!(frozen, Ok(Answer::Frozen { layer }));
            layers.push(next);
        }
        guest.run(
            "(while [ ! -e /stop ]; do echo on | dd of=/dev/vda bs=1M seek=40 conv=notrunc,fsync 2> /dev/null \
             || touch /failed; done; rm /stop) > /dev/null 2>&1 &",
        );
        let before: Vec<_> = layers
            .iter()
            .map(|layer| fs::read(layer).unwrap())
            .collect();
        // Onto the second layer, or onto the disk below all.
        let kept: usize = if round == 1 { 0 } else { 2 };
        let onto = kept.checked_sub(1).map_or(&base, |at| &layers[at]).clone();
        let merge = Action::MergeDisk {
            disk: 0,
            onto: onto.clone(),
        };
        assert_eq!(runner.request(merge), Ok(Answer::Done));
        guest.run("touch /stop; while [ -e /stop ]; do usleep 1000; done; [ ! -e /failed ]; sync");
        let newest = layers.last().unwrap().clone();
        for (layer, then) in layers.iter().zip(&before).rev().skip(1) {
            assert!(&fs::read(layer).unwrap() == then, "{layer:?} was changed");
        }
        layers.truncate(kept);
        layers.push(newest);
    }
    let absent = Action::MergeDisk {
        disk: 0,
        onto: vm.path("absent"),
    };
    assert!(runner.request(absent).is_err());
    let newest = layers.last().unwrap().clone();
    let seen = guest.run("sha256sum /dev/vda");
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    check(&newest);
    let info = Command::new("qemu-img")
        .args(["info", "--backing-chain", "--output=json"])
        .arg(&newest)
        .output()
        .unwrap();
    assert_eq!(
        lossy(&info.stdout).matches("virtual-size").count(),
        layers.len() + 1
    );
    let raw = contents(&vm, &newest);
    for n in 1..=6 {
        assert!(raw[n << 20..].starts_with(format!("round-2-{n}\n").as_bytes()));
    }
    let sum = Command::new("sha256sum")
        .arg(vm.path("raw"))
        .output()
        .unwrap();
    assert_eq!(seen.split(' ').next(), lossy(&sum.stdout).split(' ').next());
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_switch_that_fails_leaves_the_vm_on_its_layer() {
    let mut vm = Vm::new();
    let (_, first) = layered(&mut vm);
    let taken = vm.file("taken");
    let (mut runner, mut guest, _) = vm.boot();
    let mut refuse = |overlay: PathBuf| {
        let error = runner
            .request(Action::FreezeDisk {
                disk: 0,
                layer: overlay.clone(),
            })
            .unwrap_err();
        assert!(error.contains(overlay.to_str().unwrap()), "{error}");
    };
    refuse(taken.clone());
    refuse(vm.path("absent/layer"));
    refuse("relative".into());
    refuse("/proc/layer".into());
    assert_eq!(fs::read_to_string(&taken).unwrap(), "taken");
    guest.run("echo still | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null");
    let good = vm.path("good");
    assert_eq!(
        runner.request(Action::FreezeDisk {
            disk: 0,
            layer: good.clone()
        }),
        Ok(Answer::Frozen {
            layer: first.clone()
        })
    );
    guest.run("echo newer | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null");
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    assert!(contents(&vm, &first).starts_with(b"still\n"));
    assert!(contents(&vm, &good).starts_with(b"newer\n"));
}

#[test]
fn without_a_disk_there_is_nothing_to_switch() {
    let vm = Vm::new();
    let mut runner = vm.run();
    runner.started();
    let overlay = vm.path("layer");
    assert!(
        runner
            .request(Action::FreezeDisk {
                disk: 0,
                layer: overlay.clone()
            })
            .is_err()
    );
    assert!(!overlay.exists());
}

#[test]
fn what_the_guest_frees_is_freed_on_the_host() {
    let mut vm = Vm::new();
    let (_, first) = layered(&mut vm);
    let (mut runner, mut guest, _) = vm.boot();
    let next = vm.path("next");
    for layer in [&first, &next] {
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=32 conv=notrunc,fsync 2> /dev/null");
        let full = allocated(layer);
        assert!(full > 32 << 20, "{full}");
        guest.run("blkdiscard -l 32M /dev/vda; sync");
        let freed = allocated(layer);
        assert!(
            freed < 4 << 20,
            "{} bytes stay of {full} in {layer:?}",
            freed
        );
        if layer == &first {
            let switched = runner.request(Action::FreezeDisk {
                disk: 0,
                layer: next.clone(),
            });
            let frozen = first.clone();
            assert_eq!(switched, Ok(Answer::Frozen { layer: frozen }));
        }
    }
}

fn allocated(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf, mib: u32) -> Self {
        fs::create_dir(&path).unwrap();
        let size = std::ffi::CString::new(format!("size={mib}m")).unwrap();
        rustix::mount::mount(
            "small",
            &path,
            "tmpfs",
            MountFlags::empty(),
            size.as_c_str(),
        )
        .expect("a tmpfs can be mounted, which takes root");
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_vm_stalls_while_the_hosts_disk_is_full_and_continues_with_room() {
    let mut vm = Vm::new();
    let small = Small::mount(vm.path("small"), 24);
    let (layer, ballast) = (small.0.join("layer"), small.0.join("ballast"));
    vm.add_layer(&layer, SIZE, None);
    fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let (mut runner, mut guest, _) = vm.boot();
    // 16 MiB that are no zeroes, where there are 8.
    guest.send("yes 0123456789abcdef | head -c 16777216 >/wanted; dd if=/wanted of=/dev/vda bs=65536 conv=fsync 2>&1");
    match runner.event() {
        Event::Stalled { reason } => assert_eq!(reason, "the host's disk is full"),
        other => panic!("{other:?}"),
    }
    let frozen = runner.request(Action::FreezeDisk {
        disk: 0,
        layer: small.0.join("next"),
    });
    let why = frozen.unwrap_err();
    assert!(why.contains("is stalled"), "{why}");
    fs::remove_file(&ballast).unwrap();
    assert_eq!(runner.event(), Event::Resumed);
    let (status, said) = guest.answer();
    assert_eq!(status, 0, "{said}");
    guest.run("echo 3 >/proc/sys/vm/drop_caches; head -c 16777216 /dev/vda | cmp - /wanted");
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    check(&layer);
}

#[test]
fn a_layer_that_reaches_its_maximum_size_ends_the_vm() {
    let mut vm = Vm::new();
    let layer = vm.path("layer");
    vm.add_layer(&layer, 1 << 30, None);
    // The guest's memory is a file of the engine's, too.
    let most = u64::from(vm.spec.memory_mib) << 20;
    vm.spec.max_layer_bytes = Some(1 << 20);
    let (runner, mut guest, _) = vm.boot();
    guest.send("yes 0123456789abcdef | dd of=/dev/vda bs=1M iflag=fullblock count=1000 conv=fsync");
    let (clean, reason, _) = runner.exited();
    assert!(
        !clean && reason.contains("reached its maximum size"),
        "{reason}"
    );
    assert!(layer.metadata().unwrap().len() <= most);
}

/// The same by an engine whose files the kernel does not bound.
#[test]
#[ignore = "needs the engine krun; tests/kvm_host.rs runs it there"]
fn a_krun_layer_is_bounded_and_its_copy_is_private() {
    let with = |argument: &str, most| {
        let mut vm = Vm::new();
        vm.spec.engine = EngineSpec::Krun;
        vm.spec.kernel_args = vec![argument.into()];
        let layer = vm.path("layer");
        vm.add_layer(&layer, 4 << 30, None);
        vm.spec.max_layer_bytes = Some(most);
        let runner = vm.run();
        runner.started();
        (vm, runner, layer)
    };
    let (vm, mut runner, _) = with("without-a-link", 1 << 30);
    let copy = vm.path("copy");
    let frozen = runner.request(Action::FreezeDisk {
        disk: 0,
        layer: copy.clone(),
    });
    assert_eq!(
        frozen,
        Ok(Answer::Frozen {
            layer: copy.clone()
        })
    );
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may use the copy");
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));

    let most = 8 << 20;
    // The guest has no link, and writes 4 GB.
    let (_vm, runner, layer) = with("fill-the-disk", most);
    let (clean, reason, _) = runner.exited();
    assert!(
        !clean && reason.contains("reached its maximum size"),
        "{reason}"
    );
    let grown = layer.metadata().unwrap().len();
    assert!(grown >= most && grown < 2 << 30, "{grown}");
}
