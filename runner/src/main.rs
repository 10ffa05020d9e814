//! `snowglobe-runner`: one process for each VM. It starts and supervises the engine and the servers of the shares; when
//! it ends, for whatever reason, the kernel ends them too. The library describes what it reads and writes.
//!
//! ```text
//! main       chooses the program by the first argument: the runner, the server of a share, a krun machine, a probe
//! vm         a VM's life: starting, running, ended
//! talk       the parent: specs and commands in, events out
//! check      whether a spec can be run
//! engine     what the runner needs of an engine; qemu and krun; probe: whether this host's KVM runs guests
//! share      a shared directory: its server, guard and sandbox
//! confine    processes in namespaces of their own, Landlock, system call filters, control groups; their trial
//! error      why a VM did not start
//! role       the programs that this binary can be
//! console    the console's last lines and its log
//! removal    the files that are removed when the VM ends
//! stall      the VM while the host's disk is full
//! ```
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::let_underscore_must_use,
        reason = "a test fails by panicking"
    )
)]

/// Prints a message. Nobody is told if standard error can't take it.
macro_rules! complain {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr(), $($what)*).ok();
    }};
}

mod check;
mod confine;
mod console;
mod engine;
mod error;
mod removal;
mod role;
mod share;
mod stall;
mod talk;
mod vm;

use std::process::ExitCode;

use crate::confine::{process, trial};
use crate::engine::{krun, probe};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    let descriptors = match first.as_deref() {
        None => Some(0),
        Some(first) => first
            .strip_prefix(snowglobe_runner::DESCRIPTORS)
            .and_then(|count| count.parse().ok()),
    };
    if let Some(count) = descriptors {
        return match process::prepare(count) {
            Ok(opened) => vm::run(opened),
            Err(error) => {
                complain!("snowglobe-runner: failed to prepare this process: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match (first.as_deref(), args.next(), args.next()) {
        (Some(role::SHARE), None, _) => share::server::serve(),
        (Some(role::KRUN), None, _) => krun::machine::run(),
        (Some(role::PROBE_KVM), None, _) => exit_code(probe::probe()),
        (Some(snowglobe_runner::TRY_FENCES), None, _) => trial::run(),
        (Some(snowglobe_runner::TRY_WATCH), None, _) => exit_code(share::try_watch()),
        (Some(role::FENCE_TRIAL), None, _) => trial::run_child(),
        (Some(role::FENCE_TRIAL_SLEEPER), None, _) => trial::sleep(),
        (Some("--version" | "-V"), None, _) => {
            complain!("snowglobe-runner {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            complain!(
                "snowglobe-runner runs one VM for snowglobe, which starts it; don't start it yourself"
            );
            ExitCode::from(2)
        }
    }
}

/// The exit code of a probe; prints why it failed.
fn exit_code(probed: Result<(), impl std::fmt::Display>) -> ExitCode {
    match probed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("{error}");
            ExitCode::FAILURE
        }
    }
}
