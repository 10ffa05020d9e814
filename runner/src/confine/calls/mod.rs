//! System call filters: the calls that each process may make once a guest can influence what it does.
//!
//! A list for each process names the calls that it needs, from the sources of its program and from traces of tests. All
//! others fail: starting programs, namespaces, networks, other processes, and calls that newer kernels add. Numbers of
//! the x32 interface are in no list, and a call by another architecture's numbers ends the process. Where a call does
//! several things, its arguments decide.
//!
//! Some calls succeed and do nothing in a krun machine: all files of a share belong to one id there, as in the process's
//! user namespace, so changing to another user, or changing the owner of a file, has no effect.

mod lists;

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Why a process has no filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// No filter can be made for this processor architecture.
    #[error("no filter can be made for this processor architecture")]
    Processor,
    /// The filter can't be compiled.
    #[error(transparent)]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refuses the filter.
    #[error(transparent)]
    Apply(#[from] seccompiler::Error),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A condition: these bits of an argument equal `value`.
#[derive(Debug, Clone, Copy)]
struct Condition {
    argument: u8,
    bits: u64,
    value: u64,
}

/// The lower half, which is all that the kernel reads of most arguments.
const ALL: u64 = u32::MAX as u64;

fn equals(argument: u8, bits: u64, value: u64) -> Condition {
    Condition {
        argument,
        bits,
        value,
    }
}

/// The system calls that a process may make.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Each call with alternatives, of which one must hold; without any, the call is always allowed.
    allowed: BTreeMap<i64, Vec<Vec<Condition>>>,
    /// Calls that succeed and do nothing.
    without_effect: &'static [i64],
}

impl Calls {
    /// The calls of every process.
    fn of_every_process() -> Self {
        let mut calls = Self::default().allow(lists::EVERY_PROCESS);
        for operation in lists::FCNTL {
            calls = calls.allow_if(libc::SYS_fcntl, &[equals(1, ALL, *operation as u64)]);
        }
        for control in lists::IOCTL {
            calls = calls.allow_if(libc::SYS_ioctl, &[equals(1, ALL, *control)]);
        }
        let thread = libc::CLONE_THREAD as u64;
        let own = u64::from(
            rustix::process::getpid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
        );
        calls
            // New threads, in the same namespaces.
            .allow_if(
                libc::SYS_clone,
                &[equals(0, thread | lists::NAMESPACES, thread)],
            )
            // Signals to this process only: threads wake each other, a program aborts.
            .allow_if(libc::SYS_tgkill, &[equals(0, ALL, own)])
            .allow_if(libc::SYS_prctl, &[equals(0, ALL, libc::PR_SET_NAME as u64)])
            // Reading its own limits: the pointer to new limits is null, in both halves.
            .allow_if(
                libc::SYS_prlimit64,
                &[equals(0, ALL, 0), equals(2, u64::MAX, 0)],
            )
            .allow_without_exec(libc::SYS_mmap)
            .allow_without_exec(libc::SYS_mprotect)
    }

    /// The server of a share.
    pub(crate) fn of_share() -> Self {
        Self::of_every_process()
            .allow(lists::FILE_SERVER)
            .allow(lists::SOCKETS)
            .allow(lists::SHARE)
            .allow_plain_modes()
            // Reading its capabilities.
            .allow_if(
                libc::SYS_prctl,
                &[equals(0, ALL, libc::PR_CAPBSET_READ as u64)],
            )
            // Each thread has a working directory and a umask of its own.
            .allow_if(libc::SYS_unshare, &[equals(0, ALL, libc::CLONE_FS as u64)])
    }

    /// A krun machine.
    pub(crate) fn of_machine() -> Self {
        let calls = Self::of_every_process()
            .allow(lists::FILE_SERVER)
            .allow(lists::SOCKETS)
            .allow(lists::MACHINE)
            .allow(lists::WITHOUT_EFFECT)
            .allow_plain_modes()
            .allow_if(
                libc::SYS_ioctl,
                &[equals(1, lists::CONTROL_TYPE, lists::KVM_CONTROLS)],
            )
            .allow_if(libc::SYS_socket, &[equals(0, ALL, libc::AF_UNIX as u64)])
            .allow_if(
                libc::SYS_socketpair,
                &[equals(0, ALL, libc::AF_UNIX as u64)],
            )
            .allow_if(
                libc::SYS_prctl,
                &[equals(0, ALL, libc::PR_SET_KEEPCAPS as u64)],
            );
        Self {
            without_effect: lists::WITHOUT_EFFECT,
            ..calls
        }
    }

    /// The runner, which may signal `children` and no other process.
    pub(crate) fn of_runner(children: &[u32]) -> Self {
        let mut calls = Self::of_every_process()
            .allow(lists::RUNNER)
            .allow_plain_modes()
            .allow_if(libc::SYS_ioctl, &[equals(1, ALL, lists::FICLONE)])
            .allow_if(
                libc::SYS_socketpair,
                &[equals(0, ALL, libc::AF_UNIX as u64)],
            )
            // Testing whether a process listens on a socket's path.
            .allow_if(libc::SYS_socket, &[equals(0, ALL, libc::AF_UNIX as u64)]);
        for child in children {
            calls = calls.allow_if(libc::SYS_kill, &[equals(0, ALL, u64::from(*child))]);
        }
        calls
    }

    fn allow(mut self, calls: &[i64]) -> Self {
        for call in calls {
            self.allowed.insert(*call, Vec::new());
        }
        self
    }

    fn allow_if(mut self, call: i64, arguments: &[Condition]) -> Self {
        self.allowed
            .entry(call)
            .or_default()
            .push(arguments.to_vec());
        self
    }

    /// Allows file modes without setuid and setgid.
    fn allow_plain_modes(mut self) -> Self {
        let bits = u64::from(libc::S_ISUID | libc::S_ISGID);
        for &(call, argument) in lists::MODES {
            self = self.allow_if(call, &[equals(argument, bits, 0)]);
        }
        self
    }

    /// Allows memory that is not executable.
    fn allow_without_exec(self, call: i64) -> Self {
        self.allow_if(call, &[equals(2, libc::PROT_EXEC as u64, 0)])
    }

    /// Filters the system calls of this thread and of the threads that it makes, for good.
    pub(crate) fn enforce(&self) -> Result<(), FilterError> {
        let plain = |calls: &[i64]| calls.iter().map(|&call| (call, Vec::new())).collect();
        // Of several filters with errors the newest decides; a call must be allowed by all.
        if !self.without_effect.is_empty() {
            let succeed = SeccompAction::Errno(0);
            apply(plain(self.without_effect), SeccompAction::Allow, succeed)?;
        }
        let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        apply(plain(lists::UNKNOWN), SeccompAction::Allow, unknown)?;
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let mut rules = self.rules()?;
        rules.extend(lists::UNKNOWN.iter().map(|&call| (call, Vec::new())));
        apply(rules, refused, SeccompAction::Allow)
    }

    fn rules(&self) -> Result<Rules, FilterError> {
        let condition = |is: &Condition| {
            let width = match is.bits {
                ..=ALL => SeccompCmpArgLen::Dword,
                _ => SeccompCmpArgLen::Qword,
            };
            let same = SeccompCmpOp::MaskedEq(is.bits);
            SeccompCondition::new(is.argument, width, same, is.value)
        };
        let rule = |all: &Vec<Condition>| {
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
mod tests;
