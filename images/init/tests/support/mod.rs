//! The parts of a guest that a test's process lacks: a supervisor that needs neither PID 1 nor cgroups, and accounts for
//! which commands run as the current user.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Pid, Resource, Signal, kill_process, kill_process_group};
use snowglobe_init::command::supervisor::{Group, Spawned, Supervisor};
use snowglobe_init::server::{Server, Setup};
use tokio::sync::oneshot;

/// A server below `dir`, with this workspace. Keys as in [`Setup`].
pub(crate) fn server(
    dir: &Path,
    workspace: PathBuf,
    host_key: String,
    control_keys: Vec<String>,
    login_keys: Vec<String>,
) -> Arc<Server> {
    let nofile = rustix::process::getrlimit(Resource::Nofile).maximum;
    let server = Server::new(Setup {
        root: accounts(dir, &workspace),
        workdir: workspace.clone(),
        workspace,
        workspace_survives: false,
        state: dir.join("state"),
        enter: env!("CARGO_BIN_EXE_snowglobe-init").into(),
        supervisor: Arc::new(Sessions),
        nofile: nofile.unwrap_or(1 << 16),
        env: Vec::new(),
        build_root: None,
        image_user: None,
        host_key,
        control_keys,
        login_keys,
    });
    server.unwrap()
}

/// A root directory whose users `root` and `sandbox` both are the current user, at home in the workspace.
fn accounts(dir: &Path, workspace: &Path) -> PathBuf {
    let root = dir.join("root");
    for dir in ["etc", "bin"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::os::unix::fs::symlink("/bin/bash", root.join("bin/bash")).unwrap();
    let uid = rustix::process::getuid();
    let gid = rustix::process::getgid();
    let line = |name| format!("{name}:x:{uid}:{gid}::{}:/bin/bash\n", workspace.display());
    std::fs::write(root.join("etc/passwd"), line("root") + &line("sandbox")).unwrap();
    let groups = rustix::process::getgroups().unwrap();
    let groups: String = groups
        .iter()
        .map(|gid| format!("group{gid}:x:{gid}:root,sandbox\n"))
        .collect();
    std::fs::write(root.join("etc/group"), groups).unwrap();
    root
}

/// Holds the processes of a command together by their session.
#[derive(Debug)]
struct Sessions;

impl Supervisor for Sessions {
    fn spawn(&self, program: &mut Command) -> io::Result<Spawned> {
        let (sender, exit) = oneshot::channel();
        let mut child = program.spawn()?;
        let pid = Pid::from_child(&child);
        std::thread::spawn(move || sender.send(child.wait().unwrap()));
        Ok(Spawned { pid, exit })
    }

    fn group(&self, _: u64) -> io::Result<Box<dyn Group>> {
        Ok(Box::new(Session))
    }

    fn count(&self) -> u64 {
        0
    }

    fn populated(&self) -> bool {
        false
    }

    fn signal_leftovers(&self, _: Signal) {}

    fn freeze(&self, _: bool) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(Debug)]
struct Session;

impl Group for Session {
    fn cgroup(&self) -> Option<&Path> {
        None
    }

    fn signal(&self, first: Pid, signal: Signal) {
        kill_process_group(first, signal).ok();
        kill_process_group(first, Signal::CONT).ok();
    }

    fn kill(&self, first: Pid) {
        kill_process(first, Signal::KILL).ok();
        for pid in processes(first) {
            kill_process(pid, Signal::KILL).ok();
        }
    }

    fn populated(&self, first: Pid) -> bool {
        !processes(first).is_empty()
    }

    fn out_of_memory(&self) -> bool {
        false
    }
}

/// The processes of a session that have not ended, and its first process even if it has no session yet.
fn processes(first: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw)
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in parentheses may hold spaces. State, parent, process group and session follow it.
            let fields = stat.rsplit(") ").next().unwrap_or_default();
            let mut fields = fields.split(' ');
            let ended = matches!(fields.next(), Some("Z" | "X" | "") | None);
            let session = fields.nth(2).and_then(|session| session.parse().ok());
            !ended && (*pid == first || session == Some(first.as_raw_nonzero().get()))
        })
        .collect()
}
