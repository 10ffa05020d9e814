//! Measures a workspace that is a copy against one that is mounted and against the guest's own disk, in one run: the same
//! commands on the same tree of 10,000 files with its repository (150 MB).
//!
//! ```console
//! $ cargo run --release --example copy-bench -- 3
//! ```
//!
//! The argument is the number of rounds. With `SNOWGLOBE_IMAGE=dev`, whose guest has cargo, a build is measured as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example ends by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use common::median;

/// What `.git` has beside the tree's objects, in bytes.
const HISTORY: usize = 110 << 20;

/// Prints the seconds that each command took in the directory `$1`.
const SCRIPT: &str = r#"
measure() {
    local name="$1"; shift
    local begun=$EPOCHREALTIME
    "$@" >/dev/null 2>&1
    local ended=$EPOCHREALTIME
    echo "=$name=$(( ${ended/./} - ${begun/./} ))"
}
cd "$1" || exit 1
measure "inside: git status, first" git status
measure "inside: git status, again" git status
measure "inside: rg, first" rg -c 'line 7 7$'
measure "inside: rg, again" rg -c 'line 7 7$'
measure "inside: tar" tar cf /dev/null .
create() { mkdir new && for i in $(seq 1000); do echo "$i" >new/$i; done; }
measure "inside: create 1,000 files" create
measure "inside: remove them" rm -r new
measure "inside: write 100 MiB" dd if=/dev/zero of=big bs=1M count=100 conv=fsync
rm big
"#;

type Seconds = BTreeMap<String, Vec<f64>>;

struct Bench {
    tree: tempfile::TempDir,
    found: Seconds,
}

impl Bench {
    fn run(&self, mode: &str, words: &[&str]) -> anyhow::Result<Output> {
        let program = std::env::current_exe()?;
        let program = program
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("snowglobe");
        let output = Command::new(program)
            .args(words)
            .current_dir(self.tree.path())
            .env("SNOWGLOBE_WORKSPACE_MODE", mode)
            .env("SNOWGLOBE_NAME", "copy-bench")
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {said}");
        Ok(output)
    }

    fn time(&mut self, name: &str, mode: &str, words: &[&str]) -> anyhow::Result<()> {
        let began = Instant::now();
        self.run(mode, words)?;
        self.note(name, began.elapsed().as_secs_f64());
        Ok(())
    }

    fn note(&mut self, name: &str, seconds: f64) {
        self.found.entry(name.to_owned()).or_default().push(seconds);
    }

    fn inside(&mut self, way: &str, mode: &str, line: &str) -> anyhow::Result<()> {
        let words = [
            "exec",
            "--rm",
            "--timeout",
            "1200",
            "--",
            "bash",
            "-c",
            line,
        ];
        let output = self.run(mode, &words)?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((name, microseconds)) = line.trim_start_matches('=').split_once('=') {
                self.note(
                    &format!("{name} ({way})"),
                    microseconds.parse::<f64>()? / 1e6,
                );
            }
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let rounds: usize = std::env::args()
        .nth(1)
        .map_or(Ok(3), |number| number.parse())
        .context("the number of rounds")?;
    let mut bench = Bench {
        tree: tempfile::tempdir()?,
        found: Seconds::new(),
    };
    plant(bench.tree.path())?;
    for round in 0..rounds {
        snowglobe::tell!("round {} of {rounds}", round + 1);
        measure(&mut bench)?;
    }
    for (name, values) in &bench.found {
        snowglobe::show!("{name:<60} {:>8.3}", median(values));
    }
    Ok(())
}

fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let yes = |bench: &Bench| bench.run("copy", &["rm", "--force", "--yes"]).map(drop);
    yes(bench).ok();
    bench.time("start: mounted", "mount", &["exec", "--rm", "--", "true"])?;
    bench.time(
        "start: copied, the first time",
        "copy",
        &["exec", "--rm", "--", "true"],
    )?;
    bench.time(
        "start: copied, nothing changed",
        "copy",
        &["exec", "--rm", "--", "true"],
    )?;
    for file in 0..10 {
        std::fs::write(
            bench.tree.path().join(format!("d{file}/f1.txt")),
            format!("{:?}", Instant::now()),
        )?;
    }
    bench.time(
        "start: copied, 10 files changed",
        "copy",
        &["exec", "--rm", "--", "true"],
    )?;
    let share = "exec bash .git/measure /workspace";
    let disk = "cp -r /workspace /tmp/tree && sync && exec bash /workspace/.git/measure /tmp/tree";
    bench.inside("mounted", "mount", share)?;
    bench.inside("copied", "copy", share)?;
    bench.inside("guest's disk", "mount", disk)?;
    bench.run("copy", &["start"])?;
    bench.run(
        "copy",
        &[
            "exec",
            "--",
            "for i in $(seq 0 9); do for f in $(seq 0 99); do echo more >>d$i/f$f.txt; done; done",
        ],
    )?;
    bench.time(
        "review: changes of 1,000 files, first",
        "copy",
        &["changes"],
    )?;
    bench.time(
        "review: changes of 1,000 files, again",
        "copy",
        &["changes"],
    )?;
    bench.time("review: diff of 1,000 files", "copy", &["diff"])?;
    bench.time("review: apply 1,000 files", "copy", &["apply"])?;
    bench.time("review: undo that", "copy", &["apply", "--undo"])?;
    for file in 0..10 {
        std::fs::write(
            bench.tree.path().join(format!("d{}/f2.txt", file + 50)),
            format!("{:?}", Instant::now()),
        )?;
    }
    bench.time("review: sync 10 files", "copy", &["sync"])?;
    let data = bench.run("copy", &["data", "--json"])?;
    let data: serde_json::Value = serde_json::from_slice(&data.stdout)?;
    let store =
        std::path::PathBuf::from(data["data_dir"].as_str().unwrap()).join("sandboxes/copy-bench");
    bench.note(
        "taken: MiB of the host's disk",
        taken(&store) as f64 / 1048576.0,
    );
    yes(bench)
}

fn taken(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Makes the tree, as a repository with a history.
fn plant(tree: &Path) -> anyhow::Result<()> {
    let script = format!("{SCRIPT}{}", common::cargo_builds("inside: "));
    common::repository(tree, &script)?;
    let packed = Command::new("git")
        .args(["repack", "-adq"])
        .current_dir(tree)
        .status()?;
    ensure!(packed.success(), "the repository was not packed");
    Ok(std::fs::write(tree.join(".git/history"), vec![7; HISTORY])?)
}
