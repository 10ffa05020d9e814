//! Measures the terminal agent on a real terminal: its start, its typing while the machine's processors are busy, its
//! memory. Machines are noisy: compare what one run prints.
//!
//! `cargo run --release --example agent-bench`; needs the image `minimal`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

#[path = "../tests/integration/agent/pty.rs"]
mod pty;
#[path = "../tests/integration/agent/scripted.rs"]
mod scripted;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pty::Terminal;
use scripted::{Answer, ScriptedModel};
use serde_json::json;
use snowglobe::show;

/// What the editor's line shows when it is ready.
const FOOTER: &str = "context left";

fn main() {
    let place = Place::new();
    place.starts();
    place.snowglobe(&["start"]);
    place.typing("100 keys, one at a time, VM running", 0, 100, None);
    place.typing(
        "1,000 bytes/s, a guest processor burning",
        1,
        500,
        Some(Duration::from_millis(1)),
    );
    place.typing(
        "100 bytes/s, both guest processors burning",
        2,
        500,
        Some(Duration::from_millis(10)),
    );
    place.engine_gives_way();
    place.beside_a_stream();
    place.beside_output();
    place.long_session();
    place.snowglobe(&["stop"]);
}

struct Place {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    fn new() -> Self {
        let program = std::env::current_exe().unwrap();
        let program = program.with_file_name("../snowglobe").canonicalize();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("project/.git")).unwrap();
        Self {
            dir,
            program: program.unwrap(),
        }
    }

    fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        vec![
            ("SNOWGLOBE_RUNTIME_DIR", path("runtime")),
            ("XDG_CONFIG_HOME", path("config")),
            ("SNOWGLOBE_IMAGE", "minimal".into()),
            ("SNOWGLOBE_CPUS", "2".into()),
            ("TERM", "xterm-256color".into()),
            ("COLORTERM", "truecolor".into()),
            ("LANG", "C.UTF-8".into()),
        ]
    }

    fn snowglobe(&self, arguments: &[&str]) {
        let status = Command::new(&self.program)
            .args(arguments)
            .current_dir(self.project())
            .envs(self.variables())
            .status()
            .unwrap();
        assert!(status.success(), "{arguments:?}");
    }

    /// The agent on a terminal, with a scripted model.
    fn agent(&self, model: &ScriptedModel, arguments: &[&str]) -> Terminal {
        let config = self.dir.path().join("config/snowglobe");
        std::fs::create_dir_all(&config).unwrap();
        let text = format!(
            "model = \"bench/model\"\n[providers.bench]\nprotocol = \"chat\"\nurl = \"{}/v1/\"\n",
            model.url()
        );
        std::fs::write(config.join("agent.toml"), text).unwrap();
        let command = pty_process::blocking::Command::new(&self.program)
            .arg("agent")
            .args(arguments)
            .current_dir(self.project())
            .envs(self.variables());
        Terminal::start(command, 120, 40)
    }

    /// From the start of the process to the first frame.
    fn starts(&self) {
        let model = ScriptedModel::start(Vec::new());
        let mut times = Vec::new();
        for _ in 0..20 {
            let began = Instant::now();
            let terminal = self.agent(&model, &[]);
            times.push(terminal.until("the first frame", |seen| {
                seen.text().contains(FOOTER).then(|| seen.at - began)
            }));
            memory(&terminal, times.len() == 20);
        }
        report("first frame", &mut times);
    }

    /// Keys until they are on the screen.
    fn typing(&self, what: &str, burners: usize, keys: usize, every: Option<Duration>) {
        let mut burning: Vec<Child> = (0..burners).map(|_| self.burner()).collect();
        let model = ScriptedModel::start(Vec::new());
        let terminal = self.agent(&model, &[]);
        terminal.shows(FOOTER);
        let mut times = terminal.type_keys(keys, every);
        report(what, &mut times);
        for burner in &mut burning {
            // Without it the figures would say nothing.
            assert!(burner.try_wait().unwrap().is_none(), "a burner has ended");
            burner.kill().unwrap();
            burner.wait().unwrap();
        }
    }

    /// What the engine's priority, its processors and its share of a control group bring, beside the runner's own
    /// choice. Needs root, and for the last one control groups of the first version.
    fn engine_gives_way(&self) {
        let status = Command::new(&self.program)
            .args(["status", "--json"])
            .current_dir(self.project())
            .envs(self.variables())
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        let keeper = status["pid"].to_string();
        let group = "/sys/fs/cgroup/cpu/snowglobe-bench";
        let of_engine = |change: &str| {
            let engine = format!(
                "runner=$(pgrep -P {keeper} -f snowglobe-runner); engine=$(pgrep -P $runner -f qemu-system | tail -n 1); \
                 threads=$(ls /proc/$engine/task); {change}"
            );
            let done = Command::new("bash").args(["-c", &engine]).output().unwrap();
            done.status.success()
        };
        for (what, change, back) in [
            (
                "nice 0",
                "renice -n 0 -p $threads",
                "renice -n 5 -p $threads",
            ),
            (
                "nice 19",
                "renice -n 19 -p $threads",
                "renice -n 5 -p $threads",
            ),
            (
                "SCHED_IDLE",
                "chrt -i -a -p 0 $engine",
                "chrt -o -a -p 0 $engine && renice -n 5 -p $threads",
            ),
            (
                "nice 5, one processor of two",
                "taskset -a -p -c 1 $engine",
                "taskset -a -p -c 0-1 $engine",
            ),
            (
                "nice 5, a tenth of a control group's shares",
                &format!(
                    "mkdir -p {group} && echo 102 >{group}/cpu.shares && for t in $threads; do echo $t >{group}/tasks; done"
                ),
                &format!("for t in $threads; do echo $t >{group}/../tasks; done; rmdir {group}"),
            ),
        ] {
            if of_engine(change) {
                let what = format!("100 bytes/s, both burning, engine at {what}");
                self.typing(&what, 2, 500, Some(Duration::from_millis(10)));
            } else {
                show!("(this machine does not allow: {what})");
            }
            of_engine(back);
        }
    }

    /// Keeps a processor of the guest busy until it is killed.
    fn burner(&self) -> Child {
        Command::new(&self.program)
            .args(["exec", "-n", "--timeout", "0", "--", "while :; do :; done"])
            .current_dir(self.project())
            .envs(self.variables())
            .spawn()
            .unwrap()
    }

    /// Keys beside an answer of 2,000 tokens a second.
    fn beside_a_stream(&self) {
        let text = "A token or more. ".repeat(12_000);
        let answer = Answer::text(text).every(Duration::from_micros(500));
        let model = ScriptedModel::start(vec![answer]);
        let terminal = self.agent(&model, &[]);
        terminal.shows(FOOTER);
        terminal.write("go\r");
        terminal.shows("A token or more.");
        let mut times = terminal.type_keys(500, Some(Duration::from_millis(5)));
        report("beside 2,000 tokens/s", &mut times);
    }

    /// Keys beside a command with much output.
    fn beside_output(&self) {
        let command = json!({"command": "head -c 50000000 /dev/zero | tr '\\0' x | fold -w 99"});
        let model = ScriptedModel::start(vec![Answer::call("exec", command), Answer::text("seen")]);
        let terminal = self.agent(&model, &[]);
        terminal.shows(FOOTER);
        terminal.write("go\r");
        terminal.shows("fold -w 99");
        let mut times = terminal.type_keys(300, Some(Duration::from_millis(10)));
        report("beside 50 MB of output", &mut times);
        terminal.shows("seen");
    }

    /// Opens a session of 10,000 messages.
    fn long_session(&self) {
        let model =
            ScriptedModel::answering(|_| Answer::text("An answer of some words.\n\n".repeat(4)));
        let made = Instant::now();
        let mut prompt = Command::new(&self.program);
        prompt
            .args(["agent", "-q", "-p", "first"])
            .current_dir(self.project())
            .envs(self.variables());
        drop(self.agent(&model, &[]));
        assert!(prompt.output().unwrap().status.success());
        let file = newest(&data_dir(self)).expect("a session");
        let text = std::fs::read_to_string(&file).unwrap();
        let (head, entries) = text.split_once('\n').unwrap();
        let entries: Vec<&str> = entries.lines().collect();
        let mut long = format!("{head}\n");
        let mut number = 0;
        while number < 10_000 {
            for entry in &entries {
                number += 1;
                let (body, _) = entry.rsplit_once(",\"sum\":").unwrap();
                let (place, body) = body.split_once(",\"body\":").unwrap();
                let (_, time) = place.split_once("\"time\":").unwrap();
                let parent = match number {
                    1 => String::new(),
                    number => format!("\"parent\":{},", number - 1),
                };
                let line = format!(
                    "{{\"entry\":{{\"n\":{number},{parent}\"messages\":{number},\"time\":{time},\"body\":{body}"
                );
                let mut sum = flate2::Crc::new();
                sum.update(line.as_bytes());
                long.push_str(&format!("{line},\"sum\":\"{:08x}\"}}\n", sum.sum()));
            }
        }
        std::fs::write(&file, long).unwrap();
        show!(
            "(a session of {number} entries, {:.1} MB, made in {:.1} s)",
            file.metadata().unwrap().len() as f64 / 1e6,
            made.elapsed().as_secs_f64()
        );
        let mut times = Vec::new();
        for round in 0..5 {
            let began = Instant::now();
            let terminal = self.agent(&model, &["--continue"]);
            times.push(terminal.until("the session", |seen| {
                let text = seen.text();
                (text.contains(FOOTER) && text.contains("An answer of")).then(|| seen.at - began)
            }));
            memory(&terminal, round == 4);
        }
        report("a session of 10,000 messages is open", &mut times);
    }
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    show!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} times)",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}

/// The memory of the agent's process: all, its own, its program's.
fn memory(terminal: &Terminal, print: bool) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", terminal.pid())).unwrap();
    let parts = status.lines().filter(|line| {
        ["VmRSS", "RssAnon", "RssFile"]
            .iter()
            .any(|part| line.starts_with(part))
    });
    if print {
        let words = parts.flat_map(str::split_whitespace);
        show!("{}", words.collect::<Vec<_>>().join(" "));
    }
}

fn data_dir(_: &Place) -> PathBuf {
    let home = std::env::var("HOME").unwrap();
    let data = std::env::var("SNOWGLOBE_DATA_DIR").map(PathBuf::from);
    data.unwrap_or_else(|_| Path::new(&home).join(".local/share/snowglobe"))
        .join("agent")
}

/// The newest session's file.
fn newest(dir: &Path) -> Option<PathBuf> {
    let mut files = Vec::new();
    for project in std::fs::read_dir(dir).ok()?.flatten() {
        for file in std::fs::read_dir(project.path()).ok()?.flatten() {
            if file.path().extension().is_some_and(|ext| ext == "jsonl") {
                files.push((file.metadata().ok()?.modified().ok()?, file.path()));
            }
        }
    }
    files.into_iter().max().map(|(_, path)| path)
}
