//! A cgroup for each command: ending a command ends everything that it started, and lack of memory is recognized.
//!
//! ```text
//! /sys/fs/cgroup/init             PID 1 itself (a cgroup with children may hold no processes)
//!               /snowglobe        frozen as a whole while a snapshot is taken
//!                         /cmd-N  one command
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::reaper::Reaper;
use super::supervisor::{Group, Spawned, Supervisor};

/// The cgroups of all commands.
#[derive(Debug, Clone)]
pub struct Cgroups {
    dir: PathBuf,
    leftovers: Leftovers,
    reaper: Reaper,
}

/// The cgroups of ended commands that had processes when the command ended.
#[derive(Debug, Clone, Default)]
struct Leftovers(Arc<Mutex<Vec<PathBuf>>>);

impl Leftovers {
    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the cgroups of ended commands whose last process has ended since.
    ///
    /// Only those: the cgroup of a command that is about to start is empty, too.
    fn sweep(&self) {
        self.lock()
            .retain(|dir| fs::remove_dir(dir).is_err_and(|e| e.kind() != io::ErrorKind::NotFound));
    }
}

/// One command's cgroup. It is removed when it is dropped, or by a later sweep if a process is left in it.
#[derive(Debug)]
struct Cgroup {
    dir: PathBuf,
    leftovers: Leftovers,
}

impl Cgroups {
    /// Sets the cgroups up below a mounted cgroup2 file system.
    pub fn create(mount: &Path, reaper: Reaper) -> io::Result<Self> {
        let own = mount.join("init");
        fs::create_dir_all(&own)?;
        for pid in fs::read_to_string(mount.join("cgroup.procs"))?.lines() {
            // Kernel threads can't be moved.
            fs::write(own.join("cgroup.procs"), pid).ok();
        }
        let dir = mount.join("snowglobe");
        fs::create_dir_all(&dir)?;
        for at in [mount, &dir] {
            for controller in ["memory", "pids", "cpu", "io"] {
                // Best effort: some kernels lack a controller.
                fs::write(at.join("cgroup.subtree_control"), format!("+{controller}")).ok();
            }
        }
        Ok(Self {
            dir,
            leftovers: Leftovers::default(),
            reaper,
        })
    }

    async fn set_frozen(&self, freeze: bool) -> io::Result<()> {
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

impl Supervisor for Cgroups {
    fn spawn(&self, program: &mut Command) -> io::Result<Spawned> {
        self.reaper.spawn(program)
    }

    fn group(&self, number: u64) -> io::Result<Box<dyn Group>> {
        self.leftovers.sweep();
        let dir = self.dir.join(format!("cmd-{number}"));
        fs::create_dir(&dir)?;
        // Lack of memory should end the whole command, not one process of it by chance. Best effort: without it, one
        // process ends.
        fs::write(dir.join("memory.oom.group"), "1").ok();
        Ok(Box::new(Cgroup {
            dir,
            leftovers: self.leftovers.clone(),
        }))
    }

    fn count(&self) -> u64 {
        let dirs = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        dirs.filter(|entry| entry.file_name().to_string_lossy().starts_with("cmd-"))
            .count() as u64
    }

    fn populated(&self) -> bool {
        populated(&self.dir)
    }

    fn signal_leftovers(&self, signal: Signal) {
        let leftovers = self.leftovers.lock().clone();
        for dir in leftovers {
            signal_all(&processes(&dir), signal);
        }
    }

    fn freeze(&self, freeze: bool) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
        Box::pin(self.set_frozen(freeze))
    }
}

/// How many cgroups below a command's own are searched. The guest's root can make any number of them.
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

/// Sends each process a signal, and wakes stopped ones so that they receive it.
fn signal_all(processes: &[Pid], signal: Signal) {
    for pid in processes {
        kill_process(*pid, signal).ok();
    }
    for pid in processes {
        kill_process(*pid, Signal::CONT).ok();
    }
}

impl Group for Cgroup {
    fn cgroup(&self) -> Option<&Path> {
        Some(&self.dir)
    }

    /// Signals the processes that exist now, once. Processes that a program starts to clean up get no signal.
    fn signal(&self, first: Pid, signal: Signal) {
        fs::write(self.dir.join("cgroup.freeze"), "0").ok();
        let mut processes = processes(&self.dir);
        // It may not have joined the cgroup yet.
        if !processes.contains(&first) {
            processes.push(first);
        }
        signal_all(&processes, signal);
    }

    fn kill(&self, first: Pid) {
        fs::write(self.dir.join("cgroup.kill"), "1").ok();
        // It may not have joined the cgroup yet.
        kill_process(first, Signal::KILL).ok();
    }

    fn populated(&self, _: Pid) -> bool {
        populated(&self.dir)
    }

    fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        events
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim() != "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while a process is left in it.
        if fs::remove_dir(&self.dir).is_err() {
            self.leftovers.lock().push(std::mem::take(&mut self.dir));
        }
    }
}
