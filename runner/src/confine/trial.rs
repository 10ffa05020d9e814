//! Whether the fences around a VM's processes hold on this host, found out in children that try to get through.
//!
//! Each child is started and shut off as a VM's processes are, and then does what a guest that has taken it over
//! would: it looks for other processes and signals this one, calls a server of this one's on the loopback, opens a
//! file outside, makes a refused system call. What it gets through to is said to be lacking.

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use snowglobe_runner::Trial;

use crate::confine::calls::Calls;
use crate::confine::cgroup::Cgroup;
use crate::confine::fence::{self, Fence, Right};
use crate::confine::process;
use crate::confine::spawn::{self, Confinement, Given, Program};

/// The argument by which this program tries to get through a fence.
pub(crate) const ARGUMENT: &str = "fence-trial";

/// The argument by which it does nothing until its input ends.
pub(crate) const SLEEPER: &str = "fence-trial-sleeper";

/// What a child is to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    /// To other processes, networks and files, from namespaces of its own.
    Namespaces,
    /// To a file outside a fence of Landlock's.
    Landlock,
    /// To what a filter of system calls refuses.
    Calls,
}

/// What a child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    way: Way,
    /// The process that asks, which it must not see.
    outsider: i32,
    /// A port of the loopback, which it must not reach.
    port: u16,
    /// A directory that it may use.
    inside: PathBuf,
    /// A file that it must not open.
    outside: PathBuf,
}

/// Tries each, and prints what came of it.
pub(crate) fn run() -> ExitCode {
    let tried = process::prepare(0).and_then(|_| trials());
    match tried {
        Ok(trials) => {
            for trial in trials {
                crate::talk::print(&trial);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("try the fences: {error}");
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
    let ask = |way| {
        let order = Order {
            way,
            outsider: rustix::process::getpid().as_raw_nonzero().get(),
            port: server.local_addr()?.port(),
            inside: inside.clone(),
            outside: outside.clone(),
        };
        child(&order)
    };
    let mut trials = ask(Way::Namespaces)?;
    trials.extend(ask(Way::Landlock)?);
    trials.extend(ask(Way::Calls)?);
    trials.push(trial("control group", bounds().err()));
    Ok(trials)
}

fn trial(fence: &str, lack: Option<impl std::fmt::Display>) -> Trial {
    Trial {
        fence: fence.into(),
        lack: lack.map(|lack| lack.to_string()),
    }
}

/// A group with a process of this one's in it.
fn bounds() -> io::Result<()> {
    let group = Cgroup::create(0)?;
    let mut sleeper = std::process::Command::new("/proc/self/exe")
        .arg(SLEEPER)
        .stdin(std::process::Stdio::piped())
        .spawn()?;
    let added = group.add(sleeper.id());
    drop(sleeper.stdin.take());
    sleeper.wait()?;
    added
}

/// What a child finds; where it can't be started, that.
fn child(order: &Order) -> io::Result<Vec<Trial>> {
    let id = rustix::process::geteuid().as_raw();
    let given = Given {
        input: Some(spawn::order_input(order)?),
        ..Given::default()
    };
    let confinement = Confinement::Itself(id);
    let started = spawn::spawn(&Program::Itself, &[ARGUMENT], confinement, given)?;
    let mut child = started.child;
    rustix::io::ioctl_fionbio(&started.messages, false)?;
    let mut said = String::new();
    File::from(started.messages).read_to_string(&mut said)?;
    child.wait()?;
    let mut trials: Vec<Trial> = said
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|_| io::Error::other(said.clone()))?;
    if let (Way::Namespaces, [why, ..]) = (order.way, &started.lacks[..]) {
        trials = NAMESPACES
            .iter()
            .map(|fence| trial(fence, Some(why)))
            .collect();
    }
    Ok(trials)
}

/// The fences that namespaces are.
const NAMESPACES: [&str; 3] = ["processes", "network", "root directory"];

/// In a child: tries, and says on standard error what came of it.
pub(crate) fn within() -> ExitCode {
    let Ok(order) = spawn::order::<Order>() else {
        return ExitCode::from(2);
    };
    let trials = match order.way {
        Way::Namespaces if !spawn::is_apart() => Vec::new(),
        Way::Namespaces => NAMESPACES
            .into_iter()
            .zip([processes(&order), network(&order), root(&order)])
            .map(|(fence, lack)| trial(fence, lack))
            .collect(),
        Way::Landlock => vec![trial("Landlock", landlock(&order))],
        Way::Calls => vec![trial("system calls", calls())],
    };
    for trial in trials {
        if let Ok(line) = serde_json::to_string(&trial) {
            eprintln!("{line}");
        }
    }
    ExitCode::SUCCESS
}

/// In the child that is put into a control group.
pub(crate) fn sleep() -> ExitCode {
    let _ = io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

fn processes(order: &Order) -> Option<String> {
    if let Err(why) = spawn::own_proc() {
        return Some(spawn::no_own_proc(&why.into()));
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
    let entered = rustix::process::chdir(&order.inside).and_then(|()| spawn::own_root());
    if let Err(why) = entered {
        return Some(format!("it can't have one of its own ({why})"));
    }
    reads(&order.outside)
}

fn landlock(order: &Order) -> Option<String> {
    if let Err(why) = Fence::default().allow(&order.inside, Right::All).enter() {
        return Some(why.to_string());
    }
    reads(&order.outside).or_else(fence::lack)
}

fn reads(outside: &Path) -> Option<String> {
    File::open(outside)
        .is_ok()
        .then(|| "it opens a file outside".into())
}

fn calls() -> Option<String> {
    if let Err(why) = Calls::of_machine().filter() {
        return Some(why.to_string());
    }
    // SAFETY: neither call looks at any argument before it is refused, and both do nothing where they are not.
    let made = unsafe {
        [
            libc::syscall(libc::SYS_getpriority, 0, 0),
            libc::syscall(libc::SYS_getpid | 0x4000_0000),
        ]
    };
    (made != [-1, -1]).then(|| "it makes calls that it should not".into())
}
