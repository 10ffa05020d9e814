use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// The error number of a system call, or 0.
fn call(number: i64, arguments: [i64; 3]) -> i32 {
    let [a, b, c] = arguments;
    // SAFETY: a filter refuses the calls before they use their arguments, which are numbers and null pointers.
    match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

/// Runs `within` on a thread of its own: a filter binds the thread that enforces it.
fn behind(calls: Calls, within: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            calls.enforce().unwrap();
            within();
        });
        filtered.join().unwrap();
    });
}

/// Calls that no process of the runner needs.
const NEVER: &[(&str, i64, [i64; 3])] = &[
    ("acct", libc::SYS_acct, [0; 3]),
    ("add_key", libc::SYS_add_key, [0; 3]),
    ("bpf", libc::SYS_bpf, [0; 3]),
    ("chroot", libc::SYS_chroot, [0; 3]),
    (
        "clone of a process",
        libc::SYS_clone,
        [libc::SIGCHLD as i64, 0, 0],
    ),
    (
        "clone of a user namespace",
        libc::SYS_clone,
        [(libc::CLONE_NEWUSER | libc::SIGCHLD) as i64, 0, 0],
    ),
    ("execve", libc::SYS_execve, [0; 3]),
    ("execveat", libc::SYS_execveat, [0; 3]),
    (
        "fcntl F_SETOWN",
        libc::SYS_fcntl,
        [0, libc::F_SETOWN as i64, 1],
    ),
    ("finit_module", libc::SYS_finit_module, [0; 3]),
    ("fsopen", libc::SYS_fsopen, [0; 3]),
    (
        "ioctl TIOCSTI",
        libc::SYS_ioctl,
        [0, libc::TIOCSTI as i64, 0],
    ),
    ("kcmp", libc::SYS_kcmp, [0; 3]),
    ("kexec_load", libc::SYS_kexec_load, [0; 3]),
    ("keyctl", libc::SYS_keyctl, [0; 3]),
    ("kill of all", libc::SYS_kill, [-1, 0, 0]),
    ("kill of the first process", libc::SYS_kill, [1, 0, 0]),
    ("memfd_secret", libc::SYS_memfd_secret, [0; 3]),
    (
        "mmap of code",
        libc::SYS_mmap,
        [0, 4096, libc::PROT_EXEC as i64],
    ),
    ("mount", libc::SYS_mount, [0; 3]),
    ("mount_setattr", libc::SYS_mount_setattr, [0; 3]),
    ("move_mount", libc::SYS_move_mount, [0; 3]),
    (
        "mprotect of code",
        libc::SYS_mprotect,
        [0, 0, libc::PROT_EXEC as i64],
    ),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 3]),
    ("open_tree", libc::SYS_open_tree, [0; 3]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 3]),
    ("personality", libc::SYS_personality, [-1, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 3]),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [0; 3]),
    ("pivot_root", libc::SYS_pivot_root, [0; 3]),
    (
        "prctl PR_SET_DUMPABLE",
        libc::SYS_prctl,
        [libc::PR_SET_DUMPABLE as i64, 1, 0],
    ),
    ("prlimit64 of another", libc::SYS_prlimit64, [1, 0, 0]),
    (
        "prlimit64 that sets",
        libc::SYS_prlimit64,
        [0, libc::RLIMIT_CORE as i64, 1 << 32],
    ),
    ("process_madvise", libc::SYS_process_madvise, [0; 3]),
    ("process_mrelease", libc::SYS_process_mrelease, [0; 3]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [0; 3]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [0; 3]),
    ("ptrace", libc::SYS_ptrace, [0; 3]),
    ("quotactl", libc::SYS_quotactl, [0; 3]),
    ("reboot", libc::SYS_reboot, [0; 3]),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [1, 0, 0]),
    ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, [1, 1, 0]),
    (
        "sched_setscheduler",
        libc::SYS_sched_setscheduler,
        [1, 0, 0],
    ),
    ("seccomp", libc::SYS_seccomp, [0; 3]),
    ("sethostname", libc::SYS_sethostname, [0; 3]),
    ("setns", libc::SYS_setns, [0; 3]),
    ("setpriority", libc::SYS_setpriority, [0, 1, 5]),
    ("settimeofday", libc::SYS_settimeofday, [0; 3]),
    ("shmget", libc::SYS_shmget, [0; 3]),
    (
        "socket of the internet",
        libc::SYS_socket,
        [libc::AF_INET as i64, libc::SOCK_STREAM as i64, 0],
    ),
    (
        "socket of netlink",
        libc::SYS_socket,
        [libc::AF_NETLINK as i64, libc::SOCK_RAW as i64, 0],
    ),
    (
        "socket of virtual machines",
        libc::SYS_socket,
        [libc::AF_VSOCK as i64, libc::SOCK_STREAM as i64, 0],
    ),
    ("swapon", libc::SYS_swapon, [0; 3]),
    ("syslog", libc::SYS_syslog, [0; 3]),
    ("tgkill of another process", libc::SYS_tgkill, [1, 1, 0]),
    ("tkill", libc::SYS_tkill, [1, 0, 0]),
    ("umount2", libc::SYS_umount2, [0; 3]),
    (
        "unshare of a user namespace",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as i64, 0, 0],
    ),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 3]),
    ("a number that no kernel has yet", 900, [0; 3]),
];

/// Calls of these that QEMU makes: its filters are there before it is executed, and it makes code out of the guest's.
const OF_QEMU: &[&str] = &["execve", "mmap of code", "mprotect of code"];

#[test]
fn no_process_may_make_a_call_that_it_never_needs() {
    for (process, calls, made) in [
        ("the share's server", Calls::of_share(), &[][..]),
        ("a machine", Calls::of_machine(), &[]),
        ("the runner", Calls::of_runner(&[u32::MAX >> 2]), &[]),
        ("qemu", Calls::of_qemu(), OF_QEMU),
    ] {
        behind(calls, || {
            for (what, number, arguments) in NEVER {
                if made.contains(what) {
                    continue;
                }
                assert_eq!(call(*number, *arguments), libc::EPERM, "{process}: {what}");
                // The same by the x32 interface's numbers.
                let x32 = number | 0x4000_0000;
                assert_eq!(
                    call(x32, *arguments),
                    libc::EPERM,
                    "{process}: {what} of x32"
                );
            }
            assert_eq!(
                call(libc::SYS_getpid | 0x4000_0000, [0; 3]),
                libc::EPERM,
                "{process}"
            );
            assert_eq!(call(libc::SYS_getpid, [0; 3]), 0, "{process}");
            for unknown in lists::UNKNOWN {
                assert_eq!(call(*unknown, [0; 3]), libc::ENOSYS, "{process}");
            }
        });
    }
}

#[test]
fn the_runner_signals_its_children_only() {
    behind(Calls::of_runner(&[0x3fff_fff0, 0x3fff_fff1]), || {
        let signal = |process: i64| call(libc::SYS_kill, [process, 0, 0]);
        assert_eq!(
            signal(0x3fff_fff0),
            libc::ESRCH,
            "allowed, and there is no such process"
        );
        assert_eq!(signal(0x3fff_fff1), libc::ESRCH);
        assert_eq!(signal(0x3fff_fff2), libc::EPERM);
    });
}

#[test]
fn a_machine_writes_files_and_changes_no_owner() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let owner = fs::metadata(&file).unwrap().uid();
    behind(Calls::of_machine(), || {
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
        };
        refused(std::process::Command::new("/bin/true").spawn().map(drop));
        refused(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
        refused(fs::set_permissions(&file, Permissions::from_mode(0o4755)));
        refused(fs::set_permissions(&file, Permissions::from_mode(0o2755)));
        refused(std::os::unix::fs::chown(&file, Some(owner + 77), None));
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::spawn(|| ()).join().unwrap();
        fs::write(&file, "written").unwrap();
    });
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (owner, 0o755));
}

/// A filter is made before the process that it is for, and lets it signal itself.
#[test]
fn qemu_signals_itself_and_adds_a_filter_that_has_no_listener() {
    behind(Calls::of_qemu(), || {
        let own = i64::from(std::process::id());
        assert_eq!(call(libc::SYS_tgkill, [own, own, 0]), 0);
        assert_eq!(call(libc::SYS_tgkill, [own + 1, own, 0]), libc::EPERM);
        let filter = |flags: u64, program: i64| {
            let operation = i64::from(libc::SECCOMP_SET_MODE_FILTER);
            call(libc::SYS_seccomp, [operation, flags.cast_signed(), program])
        };
        let (shared, listener) = (
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        );
        // No program is at address 1: the kernel looks for one where the call is allowed.
        assert_eq!(filter(shared, 1), libc::EFAULT);
        assert_eq!(filter(listener, 1), libc::EPERM);
        assert_eq!(filter(listener, 0), libc::EFAULT);
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
        };
        refused(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
        refused(std::os::unix::net::UnixDatagram::unbound().map(drop));
        refused(std::os::unix::net::UnixStream::pair().map(drop));
        std::thread::spawn(|| ()).join().unwrap();
    });
}

#[test]
fn a_call_of_another_architecture_ends_the_process() {
    let rules = Calls::of_machine().rules().unwrap();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    // The first instructions compare the architecture, and end the process where it differs.
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    assert!(
        program[..4].iter().any(|step| step.k == kill),
        "{:?}",
        &program[..4]
    );
}
