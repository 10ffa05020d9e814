//! `snowglobe-runner`: one process per VM. It starts the engine and the servers of the shares, supervises them, and
//! when it goes, however that is, they go too. What it reads and writes is described in the library.
//!
//! ```text
//! main       which of the programs this is: the runner, the server of a share, or a machine
//! vm         a VM's life: starting, running, ended
//! talk       the parent: specs and commands in, events out
//! check      whether a spec can be run at all
//! engine     what is needed of an engine;  qemu, qmp, tsc: one of them;  krun: the other
//! probe      whether this host's KVM runs guests;  trial: whether its fences hold
//! share      a shared directory: server, guard and sandbox
//! console    the console's last lines and its log
//! removal    what is removed when the VM ends;  stall: what is done while the host's disk is full
//! spawn      processes in namespaces of their own, which die with their parent
//! fence      Landlock;  calls: filters of system calls;  cgroup: bounds;  process: what they do to themselves
//! ```

mod calls;
mod cgroup;
mod check;
mod console;
mod engine;
mod fence;
mod krun;
mod probe;
mod process;
mod qemu;
mod qmp;
mod reach;
mod removal;
mod share;
mod spawn;
mod stall;
mod talk;
mod trial;
mod tsc;
mod vm;

use std::process::ExitCode;

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
                eprintln!("snowglobe-runner: failed to prepare this process: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match (first.as_deref(), args.next(), args.next()) {
        (Some(share::ARGUMENT), None, _) => share::serve(),
        (Some(krun::ARGUMENT), None, _) => krun::run(),
        (Some(probe::ARGUMENT), None, _) => found(probe::probe()),
        (Some(snowglobe_runner::TRY_FENCES), None, _) => trial::run(),
        (Some(trial::ARGUMENT), None, _) => trial::within(),
        (Some(trial::SLEEPER), None, _) => trial::sleep(),
        (Some("--version" | "-V"), None, _) => {
            eprintln!("snowglobe-runner {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "snowglobe-runner holds one VM for snowglobe, which starts it; it is of no use by itself"
            );
            ExitCode::from(2)
        }
    }
}

/// A probe's answer: nothing and success, or why not.
fn found(probed: Result<(), impl std::fmt::Display>) -> ExitCode {
    match probed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
