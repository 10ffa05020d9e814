//! Which system calls the machine's process may make: none that starts programs, makes namespaces, reaches a network
//! or another process.
//!
//! Some succeed and do nothing. In the guest everything of a share belongs to one id, as in the process's user
//! namespace; so to become another user of the guest's, or to give a file to one, changes nothing.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
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

/// What nothing in a machine needs.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// What succeeds and does nothing.
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
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2),
];

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// What is refused.
fn refused() -> Result<Rules, FilterError> {
    let mut rules: Rules = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let unix = libc::AF_UNIX as u64;
    rules.insert(
        libc::SYS_socket,
        vec![condition(0, SeccompCmpOp::Ne, unix)?],
    );
    // A process that is not a thread of this one.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        vec![condition(0, SeccompCmpOp::MaskedEq(thread), 0)?],
    );
    for &(call, argument) in MODES {
        for bit in [libc::S_ISUID, libc::S_ISGID] {
            let bit = u64::from(bit);
            let rule = condition(argument, SeccompCmpOp::MaskedEq(bit), bit)?;
            rules.entry(call).or_default().push(rule);
        }
    }
    Ok(rules)
}

fn apply(rules: Rules, number: i32) -> Result<(), FilterError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| FilterError::Processor)?;
    let matched = SeccompAction::Errno(number.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, matched, arch)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// Filters this thread's system calls, and those of every thread it makes, for good.
pub(super) fn filter() -> Result<(), FilterError> {
    let plain = |calls: &[i64]| calls.iter().map(|&call| (call, Vec::new())).collect();
    apply(plain(WITHOUT_EFFECT), 0)?;
    // Its flags are in memory, where no filter sees them; without it, the C library uses the older one.
    apply(plain(&[libc::SYS_clone3]), libc::ENOSYS)?;
    apply(refused()?, libc::EPERM)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn what_a_machine_does_works_and_what_it_never_does_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                filter().unwrap();
                let refused = |result: std::io::Result<()>| {
                    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
                };
                refused(std::process::Command::new("/bin/true").spawn().map(drop));
                refused(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
                refused(fs::set_permissions(&file, Permissions::from_mode(0o4755)));
                refused(fs::set_permissions(&file, Permissions::from_mode(0o2755)));
                refused(
                    rustix::thread::set_name(c"x")
                        .and_then(|()| rustix::process::chroot("/"))
                        .map_err(Into::into),
                );
                std::os::unix::fs::chown(&file, Some(owner + 77), None).unwrap();
                fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
                std::os::unix::net::UnixStream::pair().unwrap();
                std::thread::spawn(|| ()).join().unwrap();
                fs::write(&file, "written").unwrap();
            });
            filtered.join().unwrap();
        });
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (owner, 0o755));
    }
}
