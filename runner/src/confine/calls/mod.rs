//! System call filters: the calls that each process may make once a guest can influence what it does.
//!
//! A list for each process names the calls that it needs, from the sources of its program and from traces of tests. All
//! others fail: starting programs, namespaces, networks, other processes, and calls that newer kernels add. Numbers of
//! the x32 interface are in no list, and a call by another architecture's numbers ends the process. Where a call does
//! several things, its arguments decide. The kernel's log names each refused call.
//!
//! The runner installs QEMU's filters before it becomes QEMU, so every thread of QEMU has them; the runner's other
//! processes install their own. QEMU adds a filter of its own, which refuses to start programs from then on.

mod lists;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
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
    Apply(#[from] rustix::io::Errno),
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
        calls
            // New threads, in the same namespaces.
            .allow_if(
                libc::SYS_clone,
                &[equals(0, thread | lists::NAMESPACES, thread)],
            )
            // Signals to this process only: threads wake each other, a program aborts.
            .allow_if(libc::SYS_tgkill, &[equals(0, ALL, u64::from(OWN_PROCESS))])
            .allow_if(libc::SYS_prctl, &[equals(0, ALL, libc::PR_SET_NAME as u64)])
            // Reading its own limits: the pointer to new limits is null, in both halves.
            .allow_if(
                libc::SYS_prlimit64,
                &[equals(0, ALL, 0), equals(2, u64::MAX, 0)],
            )
            .allow_without_exec(libc::SYS_mmap)
            .allow_without_exec(libc::SYS_mprotect)
    }

    /// QEMU, from before it is executed. It makes code out of the guest's.
    pub(crate) fn of_qemu() -> Self {
        let mut calls = Self::of_every_process()
            .allow(lists::SOCKETS)
            .allow(lists::QEMU)
            .allow(&[libc::SYS_mmap, libc::SYS_mprotect])
            .allow_plain_mode(libc::SYS_openat, 3)
            .allow_if(
                libc::SYS_ioctl,
                &[equals(1, lists::CONTROL_TYPE, lists::KVM_CONTROLS)],
            )
            // As many open files as its limit allows.
            .allow_if(
                libc::SYS_prlimit64,
                &[
                    equals(0, ALL, 0),
                    equals(1, ALL, libc::RLIMIT_NOFILE as u64),
                ],
            )
            .allow_a_filter();
        #[cfg(target_arch = "x86_64")]
        {
            const ARCH_SET_FS: u64 = 0x1002;
            calls = calls
                .allow_plain_mode(libc::SYS_open, 2)
                .allow_if(libc::SYS_arch_prctl, &[equals(0, ALL, ARCH_SET_FS)]);
        }
        for operation in lists::QEMU_PRCTL {
            calls = calls.allow_if(libc::SYS_prctl, &[equals(0, ALL, *operation as u64)]);
        }
        for control in lists::QEMU_IOCTL {
            calls = calls.allow_if(libc::SYS_ioctl, &[equals(1, ALL, *control)]);
        }
        calls
    }

    /// The server of a share.
    pub(crate) fn of_share() -> Self {
        Self::of_every_process()
            .allow(lists::SOCKETS)
            .allow(lists::SHARE)
            .allow_plain_modes()
    }

    /// A krun machine.
    pub(crate) fn of_machine() -> Self {
        Self::of_every_process()
            .allow(lists::SOCKETS)
            .allow(lists::MACHINE)
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
        for &(call, argument) in lists::MODES {
            self = self.allow_plain_mode(call, argument);
        }
        self
    }

    /// The same for one call, whose `argument` is the mode.
    fn allow_plain_mode(self, call: i64, argument: u8) -> Self {
        let bits = u64::from(libc::S_ISUID | libc::S_ISGID);
        self.allow_if(call, &[equals(argument, bits, 0)])
    }

    /// Allows to add a filter, which can only refuse more, and to ask which kinds the kernel has.
    fn allow_a_filter(self) -> Self {
        let operation = |number: u32| equals(0, ALL, u64::from(number));
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let filter = operation(libc::SECCOMP_SET_MODE_FILTER);
        self.allow_if(libc::SYS_seccomp, &[filter, equals(1, listener, 0)])
            // Without a filter, or with a flag that the strictest mode does not have, the call fails: a question.
            .allow_if(libc::SYS_seccomp, &[filter, equals(2, u64::MAX, 0)])
            .allow_if(
                libc::SYS_seccomp,
                &[operation(libc::SECCOMP_SET_MODE_STRICT), equals(1, ALL, 1)],
            )
            .allow_if(
                libc::SYS_seccomp,
                &[operation(libc::SECCOMP_GET_ACTION_AVAIL)],
            )
            .allow_if(
                libc::SYS_seccomp,
                &[operation(libc::SECCOMP_GET_NOTIF_SIZES)],
            )
    }

    /// Allows memory that is not executable.
    fn allow_without_exec(self, call: i64) -> Self {
        self.allow_if(call, &[equals(2, libc::PROT_EXEC as u64, 0)])
    }

    /// Filters the system calls of this thread and of the threads that it makes, for good.
    pub(crate) fn enforce(&self) -> Result<(), FilterError> {
        Ok(self.filters()?.install()?)
    }

    /// The filters, to be installed later.
    pub(crate) fn filters(&self) -> Result<Filters, FilterError> {
        let plain = |calls: &[i64]| calls.iter().map(|&call| (call, Vec::new())).collect();
        let mut filters = Vec::new();
        let mut add = |rules, others, matched, log| {
            compile(rules, others, matched).map(|program| filters.push((program, log)))
        };
        // Of several filters with errors the newest decides; a call must be allowed by all.
        let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        add(plain(lists::UNKNOWN), SeccompAction::Allow, unknown, false)?;
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let mut rules = self.rules()?;
        rules.extend(lists::UNKNOWN.iter().map(|&call| (call, Vec::new())));
        add(rules, refused, SeccompAction::Allow, true)?;
        Ok(Filters(filters))
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

fn compile(
    rules: Rules,
    others: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, FilterError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| FilterError::Processor)?;
    Ok(SeccompFilter::new(rules, others, matched, arch)?.try_into()?)
}

/// Stands in a filter for the id of the process that installs it, which may not exist yet. No process has this id.
const OWN_PROCESS: u32 = 0x7fff_fff7;

/// Compiled filters, in the order in which they are installed; each with whether the kernel's log names what it refuses.
#[derive(Debug)]
pub(crate) struct Filters(Vec<(BpfProgram, bool)>);

impl Filters {
    /// Filters the system calls of this thread and of the threads that it makes, for good. Allocates nothing: it runs
    /// between fork and exec, too.
    pub(crate) fn install(&mut self) -> rustix::io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        let own = rustix::process::getpid();
        let own = own.as_raw_nonzero().get().unsigned_abs();
        for (program, log) in &mut self.0 {
            for step in program.iter_mut().filter(|step| step.k == OWN_PROCESS) {
                step.k = own;
            }
            let flags = match log {
                true => libc::SECCOMP_FILTER_FLAG_LOG,
                false => 0,
            };
            let listed = libc::sock_fprog {
                len: u16::try_from(program.len()).map_err(|_| rustix::io::Errno::TOOBIG)?,
                filter: program.as_mut_ptr().cast(),
            };
            // SAFETY: the kernel reads the instructions, which live until the call is over; both types have its layout.
            let installed = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    flags,
                    &raw const listed,
                )
            };
            if installed != 0 {
                let error = std::io::Error::last_os_error();
                return Err(
                    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::NOSYS)
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
