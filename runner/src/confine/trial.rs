//! Tests whether the fences around a VM's processes hold on this host.
//!
//! Each test starts a child, confined as a VM's processes are. The child then acts as a guest that has taken it over: it
//! looks for other processes and signals this one, connects to a server of this one on the loopback, opens a file
//! outside, makes a refused system call. A fence is missing if the child succeeds.

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use snowglobe_runner::Trial;

use super::calls::Calls;
use super::cgroup::Cgroup;
use super::fence::{self, Fence, Right};
use super::namespaces::{self, Confinement};
use super::spawn::{self, Inherited};
use super::{order, process};
use crate::{role, talk};

/// The kind of fence that a child tries to get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// Namespaces: other processes, the network, the root directory.
    Namespaces,
    /// Landlock: a file outside the fence.
    Landlock,
    /// The system call filter.
    Calls,
}

/// A child's order.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    kind: Kind,
    /// This process, which it must not see.
    outsider: i32,
    /// A port on the loopback, which it must not reach.
    port: u16,
    /// A directory that it may open.
    inside: PathBuf,
    /// A file that it must not open.
    outside: PathBuf,
}

/// Tests each fence, and prints the results.
pub(crate) fn run() -> ExitCode {
    let tried = process::prepare(0).and_then(|_| trials());
    match tried {
        Ok(trials) => {
            for trial in trials {
                talk::print(&trial);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain!("try the fences: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> io::Result<Vec<Trial>> {
    let directory = tempfile::tempdir()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let [inside, outside] = ["inside", "outside"].map(|name| directory.path().join(name));
    std::fs::create_dir(&inside)?;
    std::fs::write(&outside, "outside")?;
    let ask = |kind| {
        let order = Order {
            kind,
            outsider: rustix::process::getpid().as_raw_nonzero().get(),
            port: server.local_addr()?.port(),
            inside: inside.clone(),
            outside: outside.clone(),
        };
        child(&order)
    };
    let mut trials = ask(Kind::Namespaces)?;
    trials.extend(ask(Kind::Landlock)?);
    trials.extend(ask(Kind::Calls)?);
    trials.push(trial("control group", control_group().err()));
    Ok(trials)
}

fn trial(fence: &str, failure: Option<impl std::fmt::Display>) -> Trial {
    Trial {
        fence: fence.into(),
        failure: failure.map(|failure| failure.to_string()),
    }
}

/// Moves a child into a control group.
fn control_group() -> io::Result<()> {
    let group = Cgroup::create(0)?;
    let mut sleeper = std::process::Command::new("/proc/self/exe")
        .arg(role::FENCE_TRIAL_SLEEPER)
        .stdin(std::process::Stdio::piped())
        .spawn()?;
    let added = group.add(sleeper.id());
    drop(sleeper.stdin.take());
    sleeper.wait()?;
    added
}

/// Starts a child, and reads its results.
fn child(order: &Order) -> io::Result<Vec<Trial>> {
    let id = rustix::process::geteuid().as_raw();
    let confinement = Confinement::SelfInUserNamespace(id);
    let started = spawn::spawn_self(role::FENCE_TRIAL, order, confinement, Inherited::default())?;
    let mut child = started.child;
    rustix::io::ioctl_fionbio(&started.messages, false)?;
    let mut output = String::new();
    File::from(started.messages).read_to_string(&mut output)?;
    child.wait()?;
    let mut trials: Vec<Trial> = output
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|_| io::Error::other(output.clone()))?;
    if let (Kind::Namespaces, [why, ..]) = (order.kind, &started.missing_fences[..]) {
        trials = NAMESPACES
            .iter()
            .map(|fence| trial(fence, Some(why)))
            .collect();
    }
    Ok(trials)
}

/// The fences that namespaces make.
const NAMESPACES: [&str; 3] = ["processes", "network", "root directory"];

/// In the child: tests, and prints the results on standard error.
pub(crate) fn run_child() -> ExitCode {
    let Ok(order) = order::read::<Order>() else {
        return ExitCode::from(2);
    };
    let trials = match order.kind {
        Kind::Namespaces if !namespaces::are_own() => Vec::new(),
        Kind::Namespaces => NAMESPACES
            .into_iter()
            .zip([processes(&order), network(&order), root(&order)])
            .map(|(fence, lack)| trial(fence, lack))
            .collect(),
        Kind::Landlock => vec![trial("Landlock", landlock(&order))],
        Kind::Calls => vec![trial("system calls", calls())],
    };
    for trial in trials {
        if let Ok(line) = serde_json::to_string(&trial) {
            complain!("{line}");
        }
    }
    ExitCode::SUCCESS
}

/// In the child that is moved into a control group.
pub(crate) fn sleep() -> ExitCode {
    io::copy(&mut io::stdin(), &mut io::sink()).ok();
    ExitCode::SUCCESS
}

fn processes(order: &Order) -> Option<String> {
    if let Err(why) = namespaces::mount_own_proc() {
        return Some(namespaces::without_own_proc(&why.into()));
    }
    let seen = std::fs::read_dir("/proc").map(|entries| {
        let number = |name: &std::ffi::OsStr| name.to_str()?.parse::<u32>().ok();
        entries
            .flatten()
            .filter_map(|entry| number(&entry.file_name()))
            .collect::<Vec<_>>()
    });
    match seen {
        Ok(seen) if seen == [1] => {}
        Ok(seen) => return Some(format!("it sees {} processes", seen.len())),
        Err(error) => return Some(format!("its /proc can't be listed: {error}")),
    }
    let outsider = Pid::from_raw(order.outsider)?;
    rustix::process::test_kill_process(outsider)
        .is_ok()
        .then(|| "it can signal a process outside".into())
}

fn network(order: &Order) -> Option<String> {
    TcpStream::connect(("127.0.0.1", order.port))
        .is_ok()
        .then(|| "it reaches the host's loopback".into())
}

fn root(order: &Order) -> Option<String> {
    let entered = rustix::process::chdir(&order.inside).and_then(|()| namespaces::enter_own_root());
    if let Err(why) = entered {
        return Some(format!("it can't have one of its own ({why})"));
    }
    reads(&order.outside)
}

fn landlock(order: &Order) -> Option<String> {
    if let Err(why) = Fence::default().allow(&order.inside, Right::All).enter() {
        return Some(why.to_string());
    }
    reads(&order.outside).or_else(fence::missing)
}

fn reads(outside: &Path) -> Option<String> {
    File::open(outside)
        .is_ok()
        .then(|| "it opens a file outside".into())
}

fn calls() -> Option<String> {
    if let Err(why) = Calls::of_machine().enforce() {
        return Some(why.to_string());
    }
    // SAFETY: both calls only read a number, and take no pointers.
    let made = unsafe {
        [
            libc::syscall(libc::SYS_getpriority, 0, 0),
            libc::syscall(libc::SYS_getpid | 0x4000_0000),
        ]
    };
    (made != [-1, -1]).then(|| "it makes calls that it should not".into())
}
