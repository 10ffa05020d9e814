//! A shared directory, seen from both sides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{Guest, Runner, Vm};

/// Nobody's number: the tests run as root have a runner of an ordinary user too.
const ORDINARY: u32 = 65534;

/// The users that can run the runner here: the user of the tests, and an ordinary user too where that one is root.
fn users() -> Vec<Option<u32>> {
    let root = rustix::process::geteuid().is_root();
    [None]
        .into_iter()
        .chain(root.then_some(Some(ORDINARY)))
        .collect()
}

fn mounted(vm: &Vm) -> (Runner, Guest) {
    let (runner, mut guest, _) = vm.boot();
    guest.mount("workspace", "/mnt");
    (runner, guest)
}

fn every_byte() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend((0..=255).rev());
    bytes.repeat(1000)
}

#[test]
fn every_byte_gets_through_both_ways_under_any_name() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let shared = vm.share();
        fs::write(shared.join("from-host"), every_byte()).unwrap();
        let odd = OsStr::from_bytes(b"\xff\n \"'\\\x01name");
        fs::write(shared.join(odd), "odd").unwrap();
        let (_runner, mut guest) = mounted(&vm);
        guest.run("cp /mnt/from-host /copy; cp /copy /mnt/from-guest; sync");
        assert!(fs::read(shared.join("from-guest")).unwrap() == every_byte());
        assert_eq!(guest.run("cat /mnt/*name"), "odd");
        guest.run("mv /mnt/*name /mnt/\"$(printf '\\376')\"");
        let names: BTreeSet<_> = fs::read_dir(&shared)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(names.contains(OsStr::from_bytes(b"\xfe")), "{names:?}");
        // And later changes by the host.
        fs::write(shared.join("from-host"), "new").unwrap();
        guest.run("until [ \"$(cat /mnt/from-host)\" = new ]; do usleep 10000; done");
    }
}

#[test]
fn ownership_is_the_guest_users_inside_and_the_runners_outside() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let shared = vm.share();
        fs::write(shared.join("host"), "host").unwrap();
        let (_runner, mut guest) = mounted(&vm);
        assert_eq!(
            guest.run("stat -c '%u %g' /mnt /mnt/host"),
            "1000 1000\n1000 1000\n"
        );
        guest.run("su one -c 'echo one > /mnt/one && mkdir /mnt/dir && ln -s one /mnt/link && mkfifo /mnt/fifo'");
        guest.run("echo root > /mnt/root");
        guest.run("chmod 777 /mnt/dir && su two -c 'echo two > /mnt/dir/two'");
        guest.run("su one -c 'echo more >> /mnt/host && rm /mnt/dir/two'");
        assert_eq!(
            guest.run("stat -c '%u %g' /mnt/one /mnt/root /mnt/dir"),
            "1000 1000\n".repeat(3)
        );
        assert_ne!(
            guest
                .try_run("su two -c 'echo two > /mnt/two' 2> /dev/null")
                .0,
            0
        );
        let me = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        for name in ["one", "root", "dir", "link", "fifo"] {
            let found = fs::symlink_metadata(shared.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (me, me), "{name}");
        }
        assert_eq!(
            fs::read_to_string(shared.join("host")).unwrap(),
            "hostmore\n"
        );
        // All files keep their owner, and a change to another is refused; modes are kept.
        for to in ["2000", ":2000", "0:0"] {
            let (status, said) = guest.try_run(&format!("chown {to} /mnt/one"));
            assert!(
                status != 0 && said.contains("not permitted"),
                "{to}: {said}"
            );
        }
        guest.run("chown -R 1000:1000 /mnt/dir && cp -a /mnt/one /mnt/copy");
        assert_eq!(guest.run("stat -c '%u %g' /mnt/one"), "1000 1000\n");
        guest.run(
            "chmod 640 /mnt/one; umask 027; echo > /mnt/umasked; touch -d 2001-02-03 /mnt/one",
        );
        let mode = |name: &str| {
            fs::metadata(shared.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!((mode("one"), mode("umasked")), (0o640, 0o640));
        assert_eq!(
            fs::metadata(shared.join("one")).unwrap().mtime() / 86400,
            11356
        );
    }
}

#[test]
fn no_device_and_no_setuid_file_can_be_made() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let shared = vm.share();
        let (_runner, mut guest) = mounted(&vm);
        assert_ne!(guest.try_run("mknod /mnt/disk b 8 0").0, 0);
        assert_ne!(guest.try_run("mknod /mnt/null c 1 3").0, 0);
        guest.try_run("cp /bin/busybox /mnt/busybox; chmod 6755 /mnt/busybox");
        let mode = fs::metadata(shared.join("busybox"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o6000, 0, "{mode:o}");
        assert!(!shared.join("disk").exists() && !shared.join("null").exists());
    }
}

#[test]
fn links_do_not_lead_outside_the_share() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let shared = vm.share();
        fs::write(vm.path("secret"), "secret").unwrap();
        symlink(vm.path("secret"), shared.join("absolute")).unwrap();
        symlink("../secret", shared.join("relative")).unwrap();
        symlink("/etc", shared.join("etc")).unwrap();
        symlink("/", shared.join("root")).unwrap();
        symlink(vm.directory.path(), shared.join("parent")).unwrap();
        let (_runner, mut guest) = mounted(&vm);
        // The guest resolves links itself, so they lead to places of its own.
        for name in [
            "absolute",
            "relative",
            "parent/secret",
            "etc/hostname",
            "root/etc/hostname",
        ] {
            assert_ne!(
                guest.try_run(&format!("cat /mnt/{name} 2> /dev/null")).0,
                0,
                "{name}"
            );
        }
        guest.run("mkdir -p /tmp; echo mine > /tmp/x; ln -s /tmp/x /mnt/mine");
        assert_eq!(guest.run("cat /mnt/mine"), "mine\n");
        guest.try_run("echo overwritten > /mnt/absolute");
        guest.try_run("echo overwritten > /mnt/relative");
        guest.try_run("chmod 777 /mnt/absolute; chown 0 /mnt/relative; rm -r /mnt/parent/");
        assert_eq!(fs::read_to_string(vm.path("secret")).unwrap(), "secret");
    }
}

#[test]
fn a_directory_that_the_host_replaces_by_a_link_does_not_lead_outside() {
    let mut vm = Vm::new();
    let shared = vm.share();
    fs::create_dir(vm.path("outside")).unwrap();
    fs::write(vm.path("outside/file"), "outside").unwrap();
    fs::create_dir(shared.join("dir")).unwrap();
    fs::write(shared.join("dir/file"), "inside").unwrap();
    let (_runner, mut guest) = mounted(&vm);
    assert_eq!(guest.run("cat /mnt/dir/file"), "inside");
    fs::rename(shared.join("dir"), shared.join("was")).unwrap();
    symlink(vm.path("outside"), shared.join("dir")).unwrap();
    for _ in 0..20 {
        let (_, read) = guest.try_run("cat /mnt/dir/file; echo written > /mnt/dir/file");
        assert!(!read.contains("outside"), "{read}");
    }
    assert_eq!(
        fs::read_to_string(vm.path("outside/file")).unwrap(),
        "outside"
    );
}

#[test]
fn it_is_a_file_system_like_any_other() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let shared = vm.share();
        let (_runner, mut guest) = mounted(&vm);
        guest.run("cd /mnt");
        guest.run("mkdir a b; echo x > a/x; mv a/x b/y; ln b/y a/z; mv b c; [ \"$(cat a/z c/y)\" = \"$(printf 'x\\nx')\" ]");
        guest.run("exec 3>> log; rm log; echo gone >&3; exec 3>&-; [ ! -e log ]");
        guest.run(
            "dd if=/dev/zero of=sparse bs=1 count=1 seek=100M 2> /dev/null; truncate -s 5 c/y",
        );
        guest.run("flock c/y true; mkfifo p; (echo through > p &) ; [ \"$(cat p)\" = through ]");
        guest.run("i=0; while [ $i -lt 300 ]; do echo $i > a/$i; i=$((i + 1)); done; [ $(ls a | wc -l) = 301 ]");
        guest.run("rm -r a; [ ! -e a ]");
        assert_eq!(
            fs::metadata(shared.join("sparse")).unwrap().len(),
            (100 << 20) + 1
        );
        assert!(fs::metadata(shared.join("sparse")).unwrap().blocks() < 1000);
        assert_eq!(fs::metadata(shared.join("c/y")).unwrap().len(), 5);
        assert_ne!(
            guest
                .try_run("chmod 000 c && su one -c 'cat c/y' 2> /dev/null")
                .0,
            0
        );
    }
}

#[test]
fn two_shares_stay_apart() {
    let mut vm = Vm::new();
    let first = vm.share();
    let second = vm.path("second");
    fs::create_dir(&second).unwrap();
    let mut share = vm.spec.shares[0].clone();
    (share.tag, share.path, share.guest_id) = ("other".into(), second.clone(), 7);
    share.port = 1027;
    vm.spec.shares.push(share);
    let (_runner, mut guest) = mounted(&vm);
    guest.run("mkdir /other");
    guest.mount("other", "/other");
    guest.run("echo 1 > /mnt/name; echo 2 > /other/name");
    assert_eq!(guest.run("stat -c %u /mnt/name /other/name"), "1000\n7\n");
    let read = |path: &Path| fs::read_to_string(path.join("name")).unwrap();
    assert_eq!((read(&first), read(&second)), ("1\n".into(), "2\n".into()));
}

#[test]
fn a_vm_whose_share_broke_ends_rather_than_hangs() {
    let mut vm = Vm::new();
    vm.share();
    let (runner, _guest) = mounted(&vm);
    let servers = common::share_servers(&vm);
    let [server] = servers[..] else {
        panic!("{servers:?}");
    };
    let server = rustix::process::Pid::from_raw(server.try_into().unwrap()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    let (clean, reason, _) = runner.exited();
    assert!(!clean && reason.contains("workspace"), "{reason}");
}

#[test]
fn an_inherited_share_is_served_wherever_its_path_leads() {
    for user in users() {
        let mut vm = Vm::new();
        vm.user = user;
        let (shared, moved, elsewhere) = (vm.share(), vm.path("moved"), vm.path("elsewhere"));
        fs::write(shared.join("mine"), "mine").unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("other"), "other").unwrap();
        vm.passed = Some(fs::File::open(&shared).unwrap().into());
        vm.spec.shares[0].opened = Some(0);
        fs::rename(&shared, &moved).unwrap();
        symlink(&elsewhere, &shared).unwrap();
        let (_runner, mut guest) = mounted(&vm);
        assert_eq!(guest.run("ls /mnt; cat /mnt/mine"), "mine\nmine");
        guest.run("echo written >/mnt/new; ls /mnt/.. >/dev/null");
        assert_eq!(fs::read(moved.join("new")).unwrap(), b"written\n");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    }
}
