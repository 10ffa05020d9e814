//! A day with the command line: as root and as an ordinary user, in cron's bare environment and pipes, interrupted at each
//! stage; and on a real terminal: a dumb and a narrow one, and its questions. Nothing may be left behind.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::common::tmux::Tmux;
use crate::common::{PROGRAM, Place, descendants, eventually, lossy, runs, soon};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// An ordinary user of the tests.
const USER: u32 = 12_345;

/// A home with the image `minimal`, programs that its user can reach, and a project.
struct Home {
    dir: tempfile::TempDir,
    ordinary: bool,
}

impl Home {
    fn new(ordinary: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("snowglobe-day-")
            .tempdir()
            .unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let home = Self { dir, ordinary };
        for name in ["bin", "home", "home/project"] {
            std::fs::create_dir(home.at(name)).unwrap();
        }
        let programs = Path::new(PROGRAM).parent().unwrap();
        for program in ["snowglobe", "snowglobe-runner", "snowglobe-init"] {
            let to = home.at("bin").join(program);
            std::fs::copy(programs.join(program), to).unwrap();
        }
        let images = home.at("home/.local/share/snowglobe/images");
        let from = Place::data_dir().join("images");
        for part in ["names", "disks"] {
            std::fs::create_dir_all(images.join(part)).unwrap();
        }
        let names = from.join("names").read_dir().unwrap().flatten();
        let record = names
            .map(|entry| entry.path())
            .find(|path| read(path)["key"] == "minimal")
            .expect("the image minimal is built");
        let disk = read(&record)["disk"].as_str().unwrap().to_owned();
        copy(&record, &images.join("names"));
        for part in ["raw", "json"] {
            copy(
                &from.join(format!("disks/{disk}.{part}")),
                &images.join("disks"),
            );
        }
        let config = home.at("home/.config/snowglobe");
        std::fs::create_dir_all(&config).unwrap();
        let machine = "image = \"minimal\"\ncpus = 1\nmemory_mib = 384\nboot_timeout_s = 120\n";
        std::fs::write(config.join("config.toml"), machine).unwrap();
        if ordinary {
            give(&home.at("home"));
        }
        home
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program as cron starts it.
    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let program = self.at("bin/snowglobe");
        let mut command = match self.ordinary {
            true => {
                let mut command = tokio::process::Command::new("setpriv");
                command
                    .arg(format!("--reuid={USER}"))
                    .arg(format!("--regid={USER}"))
                    .arg("--clear-groups")
                    .arg(program);
                command
            }
            false => tokio::process::Command::new(program),
        };
        command
            .args(arguments)
            .current_dir(self.at("home/project"))
            .env_clear()
            .env("HOME", self.at("home"))
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !self.ordinary {
            // Root's own is that of other tests, too.
            command.env("SNOWGLOBE_RUNTIME_DIR", self.at("home/run"));
        }
        command
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        said(self.command(arguments).output().await.unwrap())
    }

    /// The JSON that a subcommand prints.
    async fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.run(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}"))
    }

    fn runtime(&self) -> PathBuf {
        match self.ordinary {
            true => std::env::temp_dir().join(format!("snowglobe-{USER}")),
            false => self.at("home/run"),
        }
    }

    /// Nothing runs here any more, and nothing lies in the runtime directory.
    async fn assert_empty(&self, of: &[u32]) {
        eventually("nothing is left", || {
            let entries = self.runtime().read_dir().map_or(0, Iterator::count);
            entries == 0 && !of.iter().any(|pid| runs(*pid))
        })
        .await;
    }

    /// The process that keeps the sandbox, as soon as there is one.
    async fn keeper(&self) -> u32 {
        let began = std::time::Instant::now();
        loop {
            soon(began);
            let rows = self.json(&["ls", "--json"]).await;
            if let Some(pid) = rows[0]["pid"].as_u64() {
                return pid as u32;
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What a failed test left running.
        let mut stop = self.command(&["stop", "--all"]).into_std();
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .args(["-p", "--sparse=always"])
        .args([from, to])
        .status();
    assert!(copied.unwrap().success(), "{from:?}");
}

fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        for entry in path.read_dir().unwrap().flatten() {
            give(&entry.path());
        }
    }
}

fn said(output: Output) -> (i32, String, String) {
    let code = output.status.code().unwrap_or(-1);
    (code, lossy(&output.stdout), lossy(&output.stderr))
}

/// Sends what ctrl-C sends. The program must end quietly, with the status that a shell gives as 130.
async fn interrupt(child: tokio::process::Child) {
    use std::os::unix::process::ExitStatusExt;
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let status = output.status;
    assert!(
        status.code() == Some(130) || status.signal() == Some(2),
        "{status}"
    );
    // A host without control groups, say, is told of when the machine has booted.
    let said = lossy(&output.stderr);
    let mut said = said.lines();
    assert!(
        said.all(|line| line.contains("shuts the VM off less than it could")),
        "{output:?}"
    );
}

async fn day(home: &Home) {
    let (code, out, err) = home.run(&["ls"]).await;
    assert!(code == 0 && out.is_empty(), "{out}{err}");

    // Interrupted while it boots, each leaves nothing.
    for arguments in [&["start"][..], &["exec", "--", "true"]] {
        let child = home.command(arguments).spawn().unwrap();
        let keeper = home.keeper().await;
        interrupt(child).await;
        home.assert_empty(&[keeper]).await;
    }

    // Interrupted while a command runs, the command ends and the sandbox stays.
    let mut child = home
        .command(&["exec", "--", "echo up; sleep 1000"])
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    let stdout = child.stdout.as_mut().unwrap();
    tokio::io::AsyncReadExt::read_exact(stdout, &mut up)
        .await
        .unwrap();
    assert_eq!(&up, b"up\n");
    interrupt(child).await;
    let sleeps = [
        "exec",
        "--",
        "cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$'; true",
    ];
    let began = std::time::Instant::now();
    while home.run(&sleeps).await.1 != "0\n" {
        soon(began);
    }

    // A save is either done or not, whenever it is interrupted.
    let child = home.command(&["snapshot", "save", "noon"]).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    child.wait_with_output().await.unwrap();
    let (code, out, err) = home.run(&["exec", "--", "echo on"]).await;
    assert!(code == 0 && out == "on\n", "{out}{err}");
    let day = "echo spent >/var/tmp/day";
    let (code, _, err) = home.run(&["exec", "--root", "--", day]).await;
    assert_eq!(code, 0, "{err}");
    let saved = home.json(&["snapshot", "save", "evening", "--json"]).await;
    assert_eq!(saved["action"], "save", "{saved}");

    // Stopped and restored: the sandbox starts from what was saved.
    let keeper = home.keeper().await;
    let below = descendants(keeper);
    let stopped = home.json(&["stop", "--json"]).await;
    assert_eq!(stopped[0]["stopped"], true, "{stopped}");
    home.assert_empty(&[&below[..], &[keeper]].concat()).await;
    let restored = home
        .json(&["snapshot", "restore", "evening", "--json"])
        .await;
    assert_eq!(restored["name"], "evening", "{restored}");
    let (code, out, err) = home.run(&["exec", "--", "cat /var/tmp/day"]).await;
    assert!(code == 0 && out == "spent\n", "{out}{err}");
    let started = home.json(&["start", "--json"]).await;
    assert!(
        started["ran_already"] == true && started["snapshot"] == "evening",
        "{started}"
    );

    let keeper = home.keeper().await;
    let below = descendants(keeper);
    let (code, out, err) = home.run(&["stop"]).await;
    assert!(
        code == 0 && out.is_empty() && err.contains("stopped"),
        "{out}{err}"
    );
    home.assert_empty(&[&below[..], &[keeper]].concat()).await;
    let (code, out, err) = home.run(&["logs", "--json"]).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert!(
        last["level"] == "INFO" && last["message"].as_str().unwrap().contains("is stopped"),
        "{out}"
    );
    let (code, _, err) = home.run(&["rm", "--yes"]).await;
    assert_eq!(code, 0, "{err}");
    let left = home
        .at("home/.local/share/snowglobe/sandboxes")
        .read_dir()
        .unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_morning_to_evening() {
    day(&Home::new(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_morning_to_evening_as_an_ordinary_user() {
    // Root's tests become one; others are one already.
    day(&Home::new(rustix::process::geteuid().is_root())).await;
}

/// Waits until the screen shows all of this.
async fn shows(tmux: &Tmux, parts: &[&str]) {
    eventually(&format!("{parts:?}"), || {
        let screen = tmux.screen();
        parts.iter().all(|part| screen.contains(part))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_and_a_dumb_terminal_are_readable() {
    let place = Place::new("minimal");
    let tmux = Tmux::start(&place, 40, 30);
    let s = &tmux.program;
    let raw = place.dir.path().join("raw");
    tmux.run(&["pipe-pane", &format!("cat >{}", raw.display())]);
    tmux.kind("export TERM=dumb");
    for (line, parts) in [
        ("start", &["started the sandbox"][..]),
        ("ls", &["running, ", "network off, jobs 0", "  minimal"]),
        ("status", &["machine    1 cpus", "state      running"]),
        ("logs", &["INFO"]),
        ("data", &["in all, in"]),
        ("prune --dry-run", &[]),
        ("stop", &["stopped the sandbox"]),
    ] {
        tmux.kind(&format!("{s} {line}; echo {line} $?"));
        shows(&tmux, parts).await;
        shows(&tmux, &[&format!("{line} 0")]).await;
    }
    let raw = lossy(&std::fs::read(raw).unwrap());
    assert!(raw.contains("stop 0") && !raw.contains('\x1b'), "{raw:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_on_a_terminal() {
    let place = Place::new("minimal");
    let data = place.dir.path().join("data");
    let store = data.join("sandboxes/mine/layers");
    std::fs::create_dir_all(&store).unwrap();
    std::fs::create_dir_all(data.join("logs")).unwrap();
    let log = data.join("logs/theirs.log");
    for file in [&log, &store.join("layer")] {
        std::fs::write(file, vec![b'x'; 200_000]).unwrap();
    }
    let tmux = Tmux::start(&place, 90, 30);
    let s = &tmux.program;
    // What is pruned of the cache is not what other tests boot from.
    let cache = place.dir.path().join("cache");
    tmux.kind(&format!("export SNOWGLOBE_CACHE_DIR={}", cache.display()));
    let rm = format!("{s} rm mine --data-dir ../data");
    let prune = format!("{s} prune --data-dir ../data");
    let question = "for good? [y/N]";
    for (line, doomed) in [(&rm, &store), (&prune, &log)] {
        // Ctrl-C ends a shell's whole line, so the shell is asked for the status on the next one.
        let answered = async |key: &str, parts: &[&str]| {
            tmux.kind(&format!("clear; {line}"));
            shows(&tmux, &[question]).await;
            match key.starts_with("C-") {
                true => tmux.end_by(key).await,
                false => tmux.kind(key),
            }
            tmux.kind("echo en''ded $?");
            shows(&tmux, parts).await;
        };
        for (key, parts) in [
            ("", &["nothing is removed", "ended 1"][..]),
            ("n", &["nothing is removed", "ended 1"]),
            ("C-d", &["\nsnowglobe: nothing is removed", "ended 1"]),
            ("C-c", &["ended 130"]),
        ] {
            answered(key, parts).await;
            assert!(doomed.exists(), "{line}: {key}");
        }
        answered("y", &["ended 0"]).await;
        assert!(!doomed.exists(), "{line}");
    }
}
