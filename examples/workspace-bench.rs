//! Measures the workspace against the guest's own disk, in one run: the same commands on the same tree of 10,000 files.
//!
//! ```console
//! $ cargo run --release --example workspace-bench -- 3
//! $ cargo run --release --example workspace-bench -- 3 /usr/local/bin/snowglobe
//! ```
//!
//! The first argument is the number of rounds, each in a machine of its own. Further ones are the programs of other releases,
//! whose workspaces are measured, too. With `SNOWGLOBE_IMAGE=dev`, whose guest has npm and cargo, their work is measured as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example ends by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use common::median;

/// Prints a line for each command: its name, and the seconds that it took. The directory is `$1`.
const SCRIPT: &str = r##"
measure() {
    local name="$1"; shift
    local begun=$EPOCHREALTIME
    if ! "$@" >/dev/null 2>/tmp/said; then echo "$name: $(tail -1 /tmp/said)" >&2; fi
    local ended=$EPOCHREALTIME
    echo "=$name=$(( ${ended/./} - ${begun/./} ))"
}
cd "$1" || exit 1
pack() { tar cf - . | cat; }
create() { mkdir new && for i in $(seq 1000); do echo "$i" >new/$i; done; }
unpack() { mkdir out && tar xf /tmp/some.tar -C out; }
both() { pack & rg -c 'line 7 7$' & wait; }
latency() { python3 - "$@" <<'PY'
import os, sys
for _ in range(1000):
    if sys.argv[1] == "stat":
        # Another name each time: nothing is known of it.
        try: os.stat(f"d1/none{_}")
        except FileNotFoundError: pass
    else:
        os.pread(int(sys.argv[2]), 4096, 0)
PY
}
measure "01 git status, first" git status
measure "02 git status, again" git status
measure "03 find, again" find .
measure "04 rg, first" rg -c 'line 7 7$'
measure "05 rg, again" rg -c 'line 7 7$'
measure "06 tar, first" pack
measure "07 tar, again" pack
measure "08 tar and rg at once" both
measure "09 create 1,000 files" create
measure "10 pack them" tar cf /tmp/new.tar new
measure "11 remove them" rm -r new
tar cf /tmp/some.tar d1 d2 d3 d4 d5
measure "12 unpack 500 files" unpack
rm -r out
measure "13 write 100 MiB" dd if=/dev/zero of=big bs=1M count=100
measure "14 read them again" dd if=big of=/dev/null bs=1M
rm big
measure "15 200 x 4 KiB, each to the disk" dd if=/dev/zero of=small bs=4k count=200 oflag=dsync
rm small
measure "16 1,000 unknown names" latency stat
measure "17 commit 100 changes" sh -c 'for i in $(seq 100); do echo more >>d$((i - 1))/f1.txt; done; git -c user.name=a -c user.email=a@b commit -qam more; git reset -q --hard HEAD~1'
if ! command -v npm >/dev/null || ! command -v cargo >/dev/null; then exit 0; fi
# 200 packages of 20 files each, as archives; the first start of npm is not measured.
npm --version >/dev/null
mkdir -p /tmp/pack/package/lib app/archives
for i in $(seq 19); do seq $((i * 20)) >/tmp/pack/package/lib/$i.js; done
list=
for i in $(seq 200); do
    echo "{\"name\": \"p$i\", \"version\": \"1.0.0\"}" >/tmp/pack/package/package.json
    tar czf app/archives/p$i.tgz -C /tmp/pack package
    list="$list${list:+, }\"p$i\": \"file:archives/p$i.tgz\""
done
echo "{\"name\": \"app\", \"version\": \"1.0.0\", \"dependencies\": {$list}}" >app/package.json
measure "18 npm install, 200 archives" npm install --prefix app --offline --no-audit --no-fund --install-links=true
measure "19 remove node_modules" rm -r app/node_modules
rm -rf app
"##;

/// Copies the tree to the guest's disk first.
const ON_DISK: &str = "cp -r /workspace /tmp/tree && sync && git -C /tmp/tree status >/dev/null && exec bash \
                       /workspace/.git/measure /tmp/tree";

type Seconds = BTreeMap<String, Vec<f64>>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments
        .next()
        .map_or(Ok(3), |number| number.parse())
        .context("the number of rounds")?;
    let own = std::env::current_exe()?;
    let own = own.parent().unwrap().parent().unwrap().join("snowglobe");
    let others: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let tree = tempfile::tempdir()?;
    let script = format!("{SCRIPT}{}", common::cargo_builds("20 "));
    common::repository(tree.path(), &script)?;
    let share = "exec bash .git/measure /workspace";
    let mut ways = vec![("workspace".to_owned(), own.clone(), share)];
    for other in &others {
        ways.push((other.display().to_string(), other.clone(), share));
    }
    ways.push(("guest's disk".to_owned(), own, ON_DISK));
    let mut found = vec![Seconds::new(); ways.len()];
    for round in 0..rounds {
        // Each way is the first one in its turn.
        for turn in 0..ways.len() {
            let way = (round + turn) % ways.len();
            let (name, program, line) = &ways[way];
            snowglobe::tell!("round {} of {rounds}: {name}; load {}", round + 1, load());
            measure(program, line, tree.path(), &mut found[way])?;
        }
    }
    print(
        &ways.iter().map(|way| way.0.as_str()).collect::<Vec<_>>(),
        &found,
    );
    Ok(())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

fn measure(program: &Path, line: &str, tree: &Path, found: &mut Seconds) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args([
            "exec",
            "--rm",
            "--timeout",
            "1200",
            "--",
            "bash",
            "-c",
            line,
        ])
        .current_dir(tree)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", program.display());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, microseconds)) = line.trim_start_matches('=').split_once('=') {
            let seconds = microseconds.parse::<f64>()? / 1e6;
            found.entry(name.to_owned()).or_default().push(seconds);
        }
    }
    Ok(())
}

fn print(ways: &[&str], found: &[Seconds]) {
    let mut head = format!("{:<34}", "median seconds");
    for way in ways {
        head += &format!("{way:>26}");
    }
    snowglobe::show!("{head}   first to last");
    let disk = found.len() - 1;
    for name in found[0].keys() {
        let medians: Vec<f64> = found.iter().map(|way| median(&way[name])).collect();
        let mut row = format!("{:<34}", &name[3..]);
        for median in &medians {
            row += &format!("{median:>26.3}");
        }
        snowglobe::show!("{row}   {:.2}", medians[0] / medians[disk]);
    }
}
