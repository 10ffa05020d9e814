//! Which system calls each process of the runner may make, from when only a guest decides what it does next.
//!
//! A list per process names what it takes, from the sources of what runs in it and traces of tests, and everything else is
//! refused: programs,
//! namespaces, networks, other processes, and whatever a kernel brings next. A number of the x32 interface is in no
//! list, and a call of another architecture's ends the process. Where a call does several things, its arguments
//! decide.
//!
//! Some succeed and do nothing for libkrun. In its guest everything of a share belongs to one id, as in the process's
//! user namespace; so to become another user of the guest's, or to give a file to one, changes nothing.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// The processor is of a kind that no filter can be made for.
    #[error("no filter can be made for a processor of this kind")]
    Processor,
    /// It can't be put together.
    #[error(transparent)]
    Made(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error(transparent)]
    Applied(#[from] seccompiler::Error),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What any program with threads does: memory, locks, time, and what it has open.
const ANY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// What a server of files does beside that. It gives up a capability for as long as it writes, so that the kernel takes the
/// bits away that lend the owner's rights.
const FILES: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_copy_file_range,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_readlinkat,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statfs,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// What a socket takes that is there already.
const STREAMS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// What the server of a share does beside all these: it sets who its threads are.
const SHARE: &[i64] = &[libc::SYS_setresgid, libc::SYS_setresuid];

/// What a machine does: its guest's link is a socket that it makes.
const MACHINE: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_setsockopt,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// What has its flags or a mode in memory, where no filter sees them. Told that the kernel does not know these, libraries
/// use the older ones.
const UNKNOWN: &[i64] = &[libc::SYS_clone3, libc::SYS_openat2];

/// What succeeds and does nothing in a machine.
const WITHOUT_EFFECT: &[i64] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// What the runner does while its engine runs, and when that has ended: it freezes disks, removes files, and waits.
const RUNNER: &[i64] = &[
    libc::SYS_copy_file_range,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_pidfd_open,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendfile,
    libc::SYS_sendto,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Those that give a file a mode, and which argument it is.
const MODES: &[(i64, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (libc::SYS_fchmodat2, 2),
    (libc::SYS_mkdirat, 2),
    (libc::SYS_mknodat, 2),
    (libc::SYS_openat, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2),
];

/// The operations on a descriptor that send no signal to anybody.
const FCNTL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

/// What any device or socket may be told: whether it is a terminal, and not to wait.
const IOCTL: &[u64] = &[libc::TCGETS, libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD];

/// To share the blocks of a file.
const FICLONE: u64 = 0x4004_9409;

/// The type of KVM's controls, as it stands in their numbers.
const KVM: u64 = 0xae00;

/// The bits of a control's number that are its type.
const TYPE: u64 = 0xff00;

/// The flags of `clone` for namespaces, in the width in which they are compared.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// `argument`, by some of its bits, is `value`.
#[derive(Debug, Clone, Copy)]
struct Is {
    argument: u8,
    bits: u64,
    value: u64,
}

/// Of the lower half, which is all that the kernel looks at in most arguments.
const ALL: u64 = u32::MAX as u64;

fn is(argument: u8, bits: u64, value: u64) -> Is {
    Is {
        argument,
        bits,
        value,
    }
}

/// What a process may do.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Each call with what its arguments must be, in one way of several; with any in none.
    allowed: BTreeMap<i64, Vec<Vec<Is>>>,
    /// Calls that seem to succeed.
    without_effect: &'static [i64],
}

impl Calls {
    /// What every process may do.
    fn any() -> Self {
        let mut calls = Self::default().with(ANY);
        for operation in FCNTL {
            calls = calls.where_(libc::SYS_fcntl, &[is(1, ALL, *operation as u64)]);
        }
        for control in IOCTL {
            calls = calls.where_(libc::SYS_ioctl, &[is(1, ALL, *control)]);
        }
        let thread = libc::CLONE_THREAD as u64;
        let own = u64::from(
            rustix::process::getpid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
        );
        calls
            // A thread of this process, in its namespaces.
            .where_(libc::SYS_clone, &[is(0, thread | NAMESPACES, thread)])
            // To this very process: how one thread wakes another, and how a program aborts.
            .where_(libc::SYS_tgkill, &[is(0, ALL, own)])
            .where_(libc::SYS_prctl, &[is(0, ALL, libc::PR_SET_NAME as u64)])
            // To ask for its own limits: the new ones are a null pointer, in both halves.
            .where_(libc::SYS_prlimit64, &[is(0, ALL, 0), is(2, u64::MAX, 0)])
            .never_run(libc::SYS_mmap)
            .never_run(libc::SYS_mprotect)
    }

    /// What the server of a share may do.
    pub(crate) fn of_share() -> Self {
        Self::any()
            .with(FILES)
            .with(STREAMS)
            .with(SHARE)
            .with_modes()
            // To ask what it may become.
            .where_(libc::SYS_prctl, &[is(0, ALL, libc::PR_CAPBSET_READ as u64)])
            // Threads have a working directory and a umask each.
            .where_(libc::SYS_unshare, &[is(0, ALL, libc::CLONE_FS as u64)])
    }

    /// What a machine of libkrun's may do.
    pub(crate) fn of_machine() -> Self {
        let calls = Self::any()
            .with(FILES)
            .with(STREAMS)
            .with(MACHINE)
            .with(WITHOUT_EFFECT)
            .with_modes()
            .where_(libc::SYS_ioctl, &[is(1, TYPE, KVM)])
            .where_(libc::SYS_socket, &[is(0, ALL, libc::AF_UNIX as u64)])
            .where_(libc::SYS_socketpair, &[is(0, ALL, libc::AF_UNIX as u64)])
            .where_(libc::SYS_prctl, &[is(0, ALL, libc::PR_SET_KEEPCAPS as u64)]);
        Self {
            without_effect: WITHOUT_EFFECT,
            ..calls
        }
    }

    /// What the runner may do beside an engine whose number is `engine`: of other processes it ends and stops its own.
    pub(crate) fn of_runner(children: &[u32]) -> Self {
        let mut calls = Self::any()
            .with(RUNNER)
            .with_modes()
            .where_(libc::SYS_ioctl, &[is(1, ALL, FICLONE)])
            .where_(libc::SYS_socketpair, &[is(0, ALL, libc::AF_UNIX as u64)])
            // To see whether a path is a socket's that anybody uses.
            .where_(libc::SYS_socket, &[is(0, ALL, libc::AF_UNIX as u64)]);
        for child in children {
            calls = calls.where_(libc::SYS_kill, &[is(0, ALL, u64::from(*child))]);
        }
        calls
    }

    fn with(mut self, calls: &[i64]) -> Self {
        for call in calls {
            self.allowed.insert(*call, Vec::new());
        }
        self
    }

    fn where_(mut self, call: i64, arguments: &[Is]) -> Self {
        self.allowed
            .entry(call)
            .or_default()
            .push(arguments.to_vec());
        self
    }

    /// Files without the bits that lend their owner's rights.
    fn with_modes(mut self) -> Self {
        let bits = u64::from(libc::S_ISUID | libc::S_ISGID);
        for &(call, argument) in MODES {
            self = self.where_(call, &[is(argument, bits, 0)]);
        }
        self
    }

    /// Memory that is not code: there is none to come.
    fn never_run(self, call: i64) -> Self {
        self.where_(call, &[is(2, libc::PROT_EXEC as u64, 0)])
    }

    /// Filters this thread's system calls, and those of every thread it makes, for good.
    pub(crate) fn filter(&self) -> Result<(), FilterError> {
        let plain = |calls: &[i64]| calls.iter().map(|&call| (call, Vec::new())).collect();
        // The newest filter decides between errors; where it allows, the older one does.
        if !self.without_effect.is_empty() {
            let nothing = SeccompAction::Errno(0);
            apply(plain(self.without_effect), SeccompAction::Allow, nothing)?;
        }
        let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        apply(plain(UNKNOWN), SeccompAction::Allow, unknown)?;
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let mut rules = self.rules()?;
        rules.extend(UNKNOWN.iter().map(|&call| (call, Vec::new())));
        apply(rules, refused, SeccompAction::Allow)
    }

    fn rules(&self) -> Result<Rules, FilterError> {
        let condition = |is: &Is| {
            let width = match is.bits {
                ..=ALL => SeccompCmpArgLen::Dword,
                _ => SeccompCmpArgLen::Qword,
            };
            let same = SeccompCmpOp::MaskedEq(is.bits);
            SeccompCondition::new(is.argument, width, same, is.value)
        };
        let rule = |all: &Vec<Is>| {
            let conditions = all.iter().map(condition).collect::<Result<_, _>>()?;
            SeccompRule::new(conditions)
        };
        let mut rules = Rules::new();
        for (call, ways) in &self.allowed {
            rules.insert(*call, ways.iter().map(rule).collect::<Result<_, _>>()?);
        }
        Ok(rules)
    }
}

fn apply(rules: Rules, others: SeccompAction, matched: SeccompAction) -> Result<(), FilterError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| FilterError::Processor)?;
    let filter = SeccompFilter::new(rules, others, matched, arch)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// What a system call with these arguments gives behind the filter, which is one thread's alone.
    fn call(number: i64, arguments: [i64; 3]) -> i32 {
        let [a, b, c] = arguments;
        // SAFETY: what is tried here is refused before it looks at its arguments, which are numbers and null pointers.
        match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }

    fn behind(calls: Calls, within: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                calls.filter().unwrap();
                within();
            });
            filtered.join().unwrap();
        });
    }

    /// What no process of the runner may do, whatever its guest has it try.
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
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 3]),
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
            "socket of the kernel's",
            libc::SYS_socket,
            [libc::AF_NETLINK as i64, libc::SOCK_RAW as i64, 0],
        ),
        (
            "socket of a host's guests",
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
        ("one that no kernel has yet", 900, [0; 3]),
    ];

    #[test]
    fn every_process_is_refused_what_it_never_needs() {
        for (who, calls) in [
            ("the share's server", Calls::of_share()),
            ("a machine", Calls::of_machine()),
            ("the runner", Calls::of_runner(&[u32::MAX >> 2])),
        ] {
            behind(calls, || {
                for (what, number, arguments) in NEVER {
                    assert_eq!(call(*number, *arguments), libc::EPERM, "{who}: {what}");
                    // The same by the x32 interface's numbers.
                    let x32 = number | 0x4000_0000;
                    assert_eq!(call(x32, *arguments), libc::EPERM, "{who}: {what} of x32");
                }
                assert_eq!(
                    call(libc::SYS_getpid | 0x4000_0000, [0; 3]),
                    libc::EPERM,
                    "{who}"
                );
                assert_eq!(call(libc::SYS_getpid, [0; 3]), 0, "{who}");
                for unknown in UNKNOWN {
                    assert_eq!(call(*unknown, [0; 3]), libc::ENOSYS, "{who}");
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
                "it may, and there is none"
            );
            assert_eq!(signal(0x3fff_fff1), libc::ESRCH);
            assert_eq!(signal(0x3fff_fff2), libc::EPERM);
        });
    }

    #[test]
    fn what_a_machine_does_works_and_what_has_no_effect_has_none() {
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
            std::os::unix::fs::chown(&file, Some(owner + 77), None).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
            std::os::unix::net::UnixStream::pair().unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            fs::write(&file, "written").unwrap();
        });
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (owner, 0o755));
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
        let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
        // The first instructions look at the architecture, and end the process where it is another.
        let kill = libc::SECCOMP_RET_KILL_PROCESS;
        assert!(
            program[..4].iter().any(|step| step.k == kill),
            "{:?}",
            &program[..4]
        );
    }
}
