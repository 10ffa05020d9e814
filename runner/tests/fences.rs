//! The fences, in the processes of a running VM: each is made to do what its guest would have it do once it had taken
//! it over, by a debugger's means, and must not get through.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]
#![cfg(target_arch = "x86_64")]

mod common;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Vm, share_servers};
use snowglobe_runner::{Action, Answer, EngineSpec, Event, Isolation, Trial};

/// A thread of another process, which makes system calls for this one. When this is dropped, the thread continues what it was doing.
struct Puppet {
    process: i32,
    registers: libc::user_regs_struct,
}

/// Nothing to say to a call.
const NONE: [u64; 4] = [0; 4];

impl Puppet {
    /// Takes hold of a process's first thread.
    fn new(process: u32) -> Self {
        let process = i32::try_from(process).unwrap();
        let mut puppet = Self {
            process,
            // SAFETY: plain numbers, all of which may be zero.
            registers: unsafe { std::mem::zeroed() },
        };
        puppet.trace(libc::PTRACE_ATTACH, 0, 0).unwrap();
        puppet.stopped();
        puppet.registers = puppet.now();
        puppet
    }

    /// One request to the kernel's debugger.
    fn trace(&self, request: libc::c_uint, address: u64, data: u64) -> io::Result<i64> {
        // SAFETY: what is read or written in the other process is its own; in this one it is a structure that lives.
        match unsafe { libc::ptrace(request, self.process, address, data) } {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }

    fn stopped(&self) {
        let mut status = 0;
        // SAFETY: the status is this function's own.
        let waited = unsafe { libc::waitpid(self.process, &mut status, libc::__WALL) };
        assert!(
            waited == self.process && libc::WIFSTOPPED(status),
            "it ended: {status:#x}"
        );
    }

    fn now(&self) -> libc::user_regs_struct {
        // SAFETY: plain numbers, all of which may be zero.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let place = &raw mut registers as u64;
        self.trace(libc::PTRACE_GETREGS, 0, place).unwrap();
        registers
    }

    fn set(&self, registers: &libc::user_regs_struct) {
        let place = &raw const *registers as u64;
        self.trace(libc::PTRACE_SETREGS, 0, place).unwrap();
    }

    /// Has it make a system call: its result, or the error's number.
    fn call(&self, number: i64, arguments: [u64; 4]) -> Result<i64, i32> {
        const SYSCALL: u64 = 0x050f;
        let mut registers = self.registers;
        // It waits in a call, so what is before its next instruction makes one.
        registers.rip -= 2;
        let code = self.trace(libc::PTRACE_PEEKTEXT, registers.rip, 0).unwrap() as u64;
        assert_eq!(
            code & 0xffff,
            SYSCALL,
            "the process is not in a system call"
        );
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        let [first, second, third, fourth] = arguments;
        (registers.rdi, registers.rsi) = (first, second);
        (registers.rdx, registers.r10) = (third, fourth);
        (registers.r8, registers.r9) = (0, 0);
        self.set(&registers);
        self.trace(libc::PTRACE_SINGLESTEP, 0, 0).unwrap();
        self.stopped();
        let result = self.now().rax.cast_signed();
        self.set(&self.registers);
        match result {
            -4095..=-1 => Err(i32::try_from(-result).unwrap()),
            result => Ok(result),
        }
    }

    /// Has it open a path.
    fn open(&self, path: &str, flags: i32) -> Result<i64, i32> {
        let place = (self.registers.rsp - 8192) & !7;
        let text = [path.as_bytes(), &[0; 8]].concat();
        for (chunk, at) in text.chunks_exact(8).zip((place..).step_by(8)) {
            let word = u64::from_le_bytes(chunk.try_into().unwrap());
            self.trace(libc::PTRACE_POKEDATA, at, word).unwrap();
        }
        let here = libc::AT_FDCWD as u64;
        self.call(libc::SYS_openat, [here, place, flags as u64, 0])
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.trace(libc::PTRACE_DETACH, 0, 0);
    }
}

/// Calls that none of the runner's processes makes.
const NEVER: &[(&str, i64, [u64; 4])] = &[
    ("execve", libc::SYS_execve, NONE),
    ("fork", libc::SYS_fork, NONE),
    ("clone3", libc::SYS_clone3, NONE),
    ("openat2", libc::SYS_openat2, NONE),
    ("kill", libc::SYS_kill, [1, 0, 0, 0]),
    ("tgkill", libc::SYS_tgkill, [0x7fff_fff0, 1, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, NONE),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, NONE),
    ("process_madvise", libc::SYS_process_madvise, NONE),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, NONE),
    ("prlimit64", libc::SYS_prlimit64, [1, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, NONE),
    ("bpf", libc::SYS_bpf, NONE),
    ("userfaultfd", libc::SYS_userfaultfd, NONE),
    ("mount", libc::SYS_mount, NONE),
    ("setns", libc::SYS_setns, NONE),
    (
        "unshare",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as u64, 0, 0, 0],
    ),
    (
        "socket",
        libc::SYS_socket,
        [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0],
    ),
    ("keyctl", libc::SYS_keyctl, NONE),
    ("perf_event_open", libc::SYS_perf_event_open, NONE),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, NONE),
    ("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0]),
    ("one that no kernel has", 900, NONE),
];

/// The error of a refused call. Some seem unknown to the kernel, so that libraries do without them.
fn refusal(what: &str) -> i32 {
    match what {
        "clone3" | "openat2" | "io_uring_setup" => libc::ENOSYS,
        _ => libc::EPERM,
    }
}

/// Checks that a process's filter refuses each, and the same by the numbers of x32.
fn refuses(who: &str, puppet: &Puppet) {
    for (what, number, arguments) in NEVER {
        let made = puppet.call(*number, *arguments);
        assert_eq!(made, Err(refusal(what)), "{who}: {what}");
        let x32 = puppet.call(number | 0x4000_0000, *arguments);
        assert_eq!(x32, Err(libc::EPERM), "{who}: {what} of x32");
    }
}

/// Calls that QEMU's own filter, beside the runner's, answers by ending the thread.
const FATAL_TO_QEMU: &[&str] = &["execve", "fork", "mount", "setns", "unshare"];

/// Checks the same of QEMU, and that no thread of it is without the runner's filters. Its own filter ends a thread on
/// some calls, and on those of x32; a test of the filter itself makes these without it.
fn qemu_refuses(process: u32, puppet: &Puppet) {
    for (what, number, arguments) in NEVER {
        if FATAL_TO_QEMU.contains(what) {
            continue;
        }
        let made = puppet.call(*number, *arguments);
        assert_eq!(made, Err(refusal(what)), "qemu: {what}");
    }
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.map(|line| line.trim().parse::<u32>().unwrap())
        };
        assert_eq!(number("Seccomp:"), Some(2), "{status}");
        // Two of the runner's, and QEMU's own. Kernels before 5.9 don't count them.
        assert!(
            number("Seccomp_filters:").is_none_or(|all| all >= 3),
            "{status}"
        );
        threads += 1;
    }
    assert!(threads >= 2, "{threads} threads");
}

/// Checks that a process in namespaces of its own sees none outside.
fn is_alone(who: &str, process: u32, puppet: &Puppet) {
    assert_eq!(
        puppet.call(libc::SYS_getpid, NONE),
        Ok(1),
        "{who} is the first of its namespace"
    );
    for space in ["pid", "net", "ipc", "uts", "mnt"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{space}")).unwrap();
        assert_ne!(of(&process.to_string()), of("self"), "{who}: {space}");
    }
}

fn with_a_share() -> (Vm, common::Runner, common::Guest, u32) {
    let mut vm = Vm::new();
    let shared = vm.share();
    fs::write(shared.join("shared"), "shared").unwrap();
    vm.file("outside");
    let runner = vm.run();
    let Event::Started { pid, .. } = runner.event() else {
        panic!("not started");
    };
    let mut guest = runner.connect();
    assert_eq!(guest.run("echo hello"), "hello\n");
    guest.mount("workspace", "/mnt");
    (vm, runner, guest, pid)
}

/// The processes below another one.
fn descendants(of: u32) -> Vec<u32> {
    let children = |pid: u32| {
        let list =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect::<Vec<u32>>()
    };
    let mut all = children(of);
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// Every user of the host can read a command line.
#[test]
fn no_command_line_names_a_file_of_the_vm() {
    let mut vm = Vm::new();
    vm.share();
    let (base, layer) = (vm.path("base"), vm.path("layer"));
    fs::File::create(&base).unwrap().set_len(1 << 20).unwrap();
    vm.add_layer(&layer, 1 << 20, Some(&base));
    let (mut runner, _guest, engine) = vm.boot();
    let next = vm.path("next");
    let switched = runner.request(Action::FreezeDisk {
        disk: 0,
        layer: next.clone(),
    });
    assert_eq!(switched, Ok(Answer::Frozen { layer }));
    let mode = fs::metadata(&next).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may use the new layer");
    let all = descendants(runner.child.id());
    assert!(all.len() >= 2, "an engine and a server of a share: {all:?}");
    let secret = [
        vm.directory.path(),
        vm.spec.kernel.parent().unwrap(),
        vm.spec.initramfs.parent().unwrap(),
    ];
    for process in all.into_iter().chain([runner.child.id()]) {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap();
        // The program's own name is the user's choice.
        let words = line.split(|byte| *byte == 0).skip(1);
        for word in words.map(String::from_utf8_lossy) {
            for path in secret {
                assert!(!word.contains(path.to_str().unwrap()), "{word}");
            }
        }
    }
    assert_eq!(runner.request(Action::Stop), Ok(Answer::Done));
    engine.ended();
}

#[test]
fn every_process_of_a_vm_is_behind_its_fences() {
    let (vm, runner, mut guest, engine) = with_a_share();
    let outside = vm.path("outside").to_str().unwrap().to_owned();
    let share = share_servers(&vm)
        .pop()
        .expect("a process serves the share");
    {
        let puppet = Puppet::new(share);
        refuses("the share's server", &puppet);
        is_alone("the share's server", share, &puppet);
        // Its root is the share: nothing outside has a name.
        for path in [
            "/etc/passwd",
            &outside,
            "/proc/1/status",
            "../../etc/passwd",
            "/dev/kvm",
        ] {
            let opened = puppet.open(path, libc::O_RDONLY);
            assert_eq!(opened, Err(libc::ENOENT), "{path}");
        }
        let opened = puppet.open("/shared", libc::O_RDONLY).unwrap();
        puppet
            .call(libc::SYS_close, [opened as u64, 0, 0, 0])
            .unwrap();
    }
    {
        let puppet = Puppet::new(engine);
        is_alone("qemu", engine, &puppet);
        for path in [
            "/etc/passwd",
            &outside,
            "/proc/1/status",
            "/proc/self/environ",
            "/etc/shadow",
        ] {
            let opened = puppet.open(path, libc::O_RDONLY);
            assert!(
                matches!(opened, Err(libc::EACCES | libc::ENOENT)),
                "{path}: {opened:?}"
            );
        }
        qemu_refuses(engine, &puppet);
    }
    {
        let puppet = Puppet::new(runner.child.id());
        refuses("the runner", &puppet);
        let signal = |process: u32| puppet.call(libc::SYS_kill, [u64::from(process), 0, 0, 0]);
        assert_eq!(signal(std::process::id()), Err(libc::EPERM), "its parent");
        assert_eq!((signal(engine), signal(share)), (Ok(0), Ok(0)), "its own");
    }
    // All went on as before.
    assert_eq!(guest.run("cat /mnt/shared"), "shared");
}

#[test]
#[ignore = "needs a KVM that works: tests/kvm_host.rs runs it on an emulated host"]
fn a_krun_vm_is_behind_its_fences() {
    let mut vm = Vm::new();
    let shared = vm.share();
    fs::write(shared.join("shared"), "shared").unwrap();
    let outside = vm.file("outside").to_str().unwrap().to_owned();
    vm.spec.engine = EngineSpec::Krun;
    vm.spec.kernel_args = vec!["without-a-link".into()];
    let runner = vm.run();
    let event = runner.event();
    let Event::Started { pid, .. } = event else {
        panic!("{event:?}");
    };
    let puppet = Puppet::new(pid);
    refuses("the machine", &puppet);
    is_alone("the machine", pid, &puppet);
    for path in [
        "/etc/passwd",
        &outside,
        "/proc/1/status",
        "/proc/self/fd/../status",
        "/tmp",
    ] {
        let opened = puppet.open(path, libc::O_RDONLY);
        assert!(
            matches!(opened, Err(libc::ENOENT | libc::EACCES)),
            "{path}: {opened:?}"
        );
    }
    // The share has a process of its own, so the machine has no path to it.
    let shared = shared.join("shared");
    let opened = puppet.open(shared.to_str().unwrap(), libc::O_RDONLY);
    assert_eq!(opened, Err(libc::ENOENT));
    assert_eq!(
        puppet.call(libc::SYS_fchown, [0, 77, 77, 0]),
        Err(libc::EPERM)
    );
}

#[test]
fn a_fence_that_is_missing_is_named_or_fatal() {
    // A user namespace whose processes may make no PID namespace, as some hosts' may not.
    const WITHOUT: [&str; 7] = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 >/proc/sys/user/max_pid_namespaces && exec \"$@\"",
        "sh",
    ];
    let started = |isolation| {
        let mut vm = Vm::new();
        vm.share();
        vm.spec.isolation = isolation;
        vm.wrapper = WITHOUT.map(str::to_owned).to_vec();
        let runner = vm.run();
        let event = runner.event();
        (vm, runner, event)
    };
    let (_vm, runner, event) = started(Isolation::Best);
    let Event::Started { missing_fences, .. } = event else {
        panic!("{event:?}");
    };
    for fence in [
        "namespaces: the kernel refuses them",
        "a root directory of its own",
    ] {
        assert!(
            missing_fences.iter().any(|missing| missing.contains(fence)),
            "{fence}: {missing_fences:?}"
        );
    }
    // It runs behind the others.
    assert_eq!(runner.connect().run("echo hello"), "hello\n");
    let (_vm, _runner, event) = started(Isolation::Require);
    let Event::Failed { stage, message, .. } = event else {
        panic!("{event:?}");
    };
    assert_eq!(stage, "isolation", "{message}");
    for said in [
        "without namespaces",
        "snowglobe doctor",
        "isolation = \"best\"",
    ] {
        assert!(message.contains(said), "{said}: {message}");
    }
    // The same said beforehand.
    let [program, args @ ..] = WITHOUT;
    let tried = Command::new(program)
        .args(args)
        .args([
            env!("CARGO_BIN_EXE_snowglobe-runner"),
            snowglobe_runner::TRY_FENCES,
        ])
        .output()
        .unwrap();
    let trials = trials(&tried);
    assert!(
        trials[0]
            .failure
            .as_ref()
            .is_some_and(|failure| failure.contains("the kernel refuses them")),
        "{trials:?}"
    );
    assert_eq!(trials[4].failure, None);
}

fn trials(tried: &std::process::Output) -> Vec<Trial> {
    let said = String::from_utf8_lossy(&tried.stdout);
    let trials: Vec<Trial> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = trials.iter().map(|trial| trial.fence.as_str()).collect();
    let expected = [
        "processes",
        "network",
        "root directory",
        "Landlock",
        "system calls",
        "control group",
    ];
    assert_eq!(
        names,
        expected,
        "{}",
        String::from_utf8_lossy(&tried.stderr)
    );
    trials
}

#[test]
fn the_fences_are_tried_one_by_one() {
    let tried = Command::new(env!("CARGO_BIN_EXE_snowglobe-runner"))
        .arg(snowglobe_runner::TRY_FENCES)
        .output()
        .unwrap();
    let trials = trials(&tried);
    // Control groups and the version of Landlock depend on the host, so they are not checked.
    for place in [0, 1, 2, 4] {
        assert_eq!(trials[place].failure, None, "{}", trials[place].fence);
    }
}
