//! A cgroup per command, so that nothing a command starts can outlive its kill, and memory's end has a name.
//!
//! ```text
//! /sys/fs/cgroup/init             PID 1 itself (a cgroup with children may hold no processes)
//!               /snowglobe        frozen as a whole while a snapshot is taken
//!                         /cmd-N  one command
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The tree of all commands.
#[derive(Debug, Clone)]
pub struct Tree {
    dir: PathBuf,
    leftovers: Leftovers,
}

/// The cgroups of ended commands in which something still ran when they ended.
type Leftovers = Arc<Mutex<Vec<PathBuf>>>;

/// One command's cgroup, removed when it is dropped: at once, or by a later [`Tree::sweep`] if something still runs in it.
#[derive(Debug)]
pub struct Cgroup {
    /// Its directory.
    pub dir: PathBuf,
    leftovers: Leftovers,
}

impl Tree {
    /// Sets the tree up under a mounted cgroup2 file system.
    pub fn create(mount: &Path) -> io::Result<Self> {
        let own = mount.join("init");
        fs::create_dir_all(&own)?;
        for pid in fs::read_to_string(mount.join("cgroup.procs"))?.lines() {
            // Kernel threads stay where they are.
            let _ = fs::write(own.join("cgroup.procs"), pid);
        }
        let dir = mount.join("snowglobe");
        fs::create_dir_all(&dir)?;
        for at in [mount, &dir] {
            for controller in ["memory", "pids", "cpu", "io"] {
                // One that this kernel lacks is done without.
                let _ = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(Self {
            dir,
            leftovers: Leftovers::default(),
        })
    }

    /// A new command's cgroup.
    pub fn command(&self, number: u64) -> io::Result<Cgroup> {
        let dir = self.dir.join(format!("cmd-{number}"));
        fs::create_dir(&dir)?;
        // Memory that runs out takes the whole command, not a process of it by chance.
        let _ = fs::write(dir.join("memory.oom.group"), "1");
        Ok(Cgroup {
            dir,
            leftovers: Arc::clone(&self.leftovers),
        })
    }

    /// How many commands have processes.
    pub fn count(&self) -> u64 {
        let dirs = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        dirs.filter(|entry| entry.file_name().to_string_lossy().starts_with("cmd-"))
            .count() as u64
    }

    /// Sends a signal to what ended commands left running.
    pub fn signal_leftovers(&self, signal: Signal) {
        let leftovers = self
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for dir in leftovers {
            signal_all(&processes(&dir), signal);
        }
    }

    /// Whether any command has a process.
    pub fn populated(&self) -> bool {
        populated(&self.dir)
    }

    /// Removes the cgroups of ended commands whose last process has ended by now.
    ///
    /// Only those: the cgroup of a command about to start is empty, too.
    pub fn sweep(&self) {
        let mut leftovers = self
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        leftovers
            .retain(|dir| fs::remove_dir(dir).is_err_and(|e| e.kind() != io::ErrorKind::NotFound));
    }

    /// Stops every command where it stands, or lets all go on; returns when the kernel says so.
    pub async fn freeze(&self, freeze: bool) -> io::Result<()> {
        fs::write(
            self.dir.join("cgroup.freeze"),
            if freeze { "1" } else { "0" },
        )?;
        let wanted = if freeze { "frozen 1" } else { "frozen 0" };
        for wait in [
            0, 1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1000, 1000, 1000,
        ] {
            if fs::read_to_string(self.dir.join("cgroup.events"))?
                .lines()
                .any(|line| line == wanted)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the commands did not stop within 5 s",
        ))
    }
}

/// How many cgroups below a command's own are looked into: a guest's root can make any number.
const MOST_BELOW: usize = 1000;

fn populated(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Every process in a cgroup and in those below it.
fn processes(dir: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids = text.lines().filter_map(|line| line.parse().ok());
        found.extend(pids.filter_map(Pid::from_raw));
        seen += 1;
        if seen < MOST_BELOW {
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            dirs.extend(below.map(|entry| entry.path()));
        }
    }
    found
}

/// Sends each of these processes a signal, and lets those that are stopped take it.
fn signal_all(processes: &[Pid], signal: Signal) {
    for pid in processes {
        let _ = kill_process(*pid, signal);
    }
    for pid in processes {
        let _ = kill_process(*pid, Signal::CONT);
    }
}

impl Cgroup {
    /// Sends every process in it a signal, whatever session it is in; `first` too, which may not have joined yet. Once:
    /// what a process starts to clean up behind itself is left alone.
    pub fn signal(&self, first: Option<Pid>, signal: Signal) {
        let _ = fs::write(self.dir.join("cgroup.freeze"), "0");
        let mut processes = processes(&self.dir);
        if let Some(first) = first
            && !processes.contains(&first)
        {
            processes.push(first);
        }
        signal_all(&processes, signal);
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
    }

    /// Whether any process is left in it.
    pub fn populated(&self) -> bool {
        populated(&self.dir)
    }

    /// Whether the kernel killed a process of it for want of memory.
    pub fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        events
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim() != "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while something still runs in it.
        if fs::remove_dir(&self.dir).is_err() {
            let mut leftovers = self
                .leftovers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            leftovers.push(std::mem::take(&mut self.dir));
        }
    }
}
