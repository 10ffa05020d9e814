//! Suites of others, which try a file system out: on the workspace, and on the guest's own disk for comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use crate::common::{PROGRAM, Place, Session};

/// What differs, and why.
const DIFFERENCES: &str = include_str!("differences.txt");

/// Two users besides the one of the commands, and what both file systems can do.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"#;

/// Each operation, of a few pages at most.
const FSX: &str = "
flen = 262144
[opsize]
max = 16384
[weights]
close_open = 1
invalidate = 1
mapread = 5
mapwrite = 5
read = 5
write = 5
truncate = 2
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 1
punch_hole = 1
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// A sandbox with a suite and its settings, and a directory on each file system.
async fn with(suite: &str, settings: &str) -> (Place, Session) {
    let place = Place::new("debian");
    let build = Path::new(PROGRAM).ancestors().nth(2).unwrap();
    let program = build.join("suites/bin").join(suite);
    std::fs::copy(&program, place.workspace.join(suite))
        .unwrap_or_else(|error| panic!("{}: {error}: run `.ci/suites`", program.display()));
    std::fs::write(place.workspace.join("settings"), settings).unwrap();
    let session = place.serve().await;
    let line = format!("mv {suite} settings /tmp && mkdir on && install -d -o sandbox /var/on");
    assert_eq!(session.root(&line).await["exit_code"], 0);
    (place, session)
}

/// How each case of pjdfstest ends in a directory.
async fn cases(session: &Session, user: &str, directory: &str) -> BTreeMap<String, String> {
    let run = format!(
        "RUST_BACKTRACE=0 /tmp/pjdfstest -c /tmp/settings -s /dev/shm -p {directory} >/tmp/said 2>&1; \
         test $? -lt 2 && sed 's/\\x1b\\[[0-9;]*m//g' /tmp/said >/tmp/clean"
    );
    let call = json!({"command": run, "user": user, "timeout_s": 3000});
    let ended = session.call("exec", call).await;
    assert_eq!(ended["exit_code"], 0, "{ended}");
    // Longer than a result may be.
    let mut cases = BTreeMap::new();
    for part in 0.. {
        let print = format!(
            "grep -E ' (ok|FAILED|skipped)$' /tmp/clean | tail -n +{} | head -n 50",
            part * 50 + 1
        );
        let said = session.stdout(&print).await;
        if said.is_empty() {
            break;
        }
        cases.extend(said.lines().map(|line| {
            let (name, end) = line.split_once(' ').unwrap();
            (name.to_owned(), end.trim().to_owned())
        }));
    }
    assert!(cases.len() > 390, "{} cases", cases.len());
    session.root("rm -f /tmp/said /tmp/clean").await;
    cases
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make workspace`"]
async fn pjdfstest_ends_as_on_a_disk_but_for_known_differences() {
    let (_place, session) = with("pjdfstest", PJDFSTEST).await;
    let known = DIFFERENCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known: BTreeSet<&str> = known.collect();
    for user in ["root", "sandbox"] {
        let disk = cases(&session, user, "/var/on").await;
        let workspace = cases(&session, user, "/workspace/on").await;
        let passed =
            |cases: &BTreeMap<_, String>| cases.values().filter(|end| *end == "ok").count();
        eprintln!(
            "{user}: {} passed on the disk, {} on the workspace",
            passed(&disk),
            passed(&workspace)
        );
        assert!(passed(&disk) > 250, "{disk:?}");
        let names: BTreeSet<_> = disk
            .keys()
            .chain(workspace.keys())
            .map(String::as_str)
            .collect();
        let differ: BTreeSet<&str> = names
            .into_iter()
            .filter(|name| disk.get(*name) != workspace.get(*name))
            .collect();
        let new: Vec<_> = differ.difference(&known).collect();
        assert!(
            new.is_empty(),
            "{user}: these differ, and are not in the list: {new:?}"
        );
        // An ordinary user makes no device, and gives no file away.
        if user == "root" {
            let gone: Vec<_> = known.difference(&differ).collect();
            assert!(
                gone.is_empty(),
                "these are in the list, and do not differ: {gone:?}"
            );
        }
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make workspace`"]
async fn fsx_reads_what_it_wrote() {
    let (_place, session) = with("fsx", FSX).await;
    for seed in 1..=5 {
        for directory in ["/var/on", "/workspace/on"] {
            let run =
                format!("/tmp/fsx -f /tmp/settings -S {seed} -N 20000 -P /tmp {directory}/file");
            let call = json!({"command": run, "user": "root", "timeout_s": 3000});
            let ended = session.call("exec", call).await;
            assert_eq!(ended["exit_code"], 0, "seed {seed} in {directory}: {ended}");
            eprintln!("seed {seed} in {directory}: {} ms", ended["duration_ms"]);
        }
    }
    session.close().await;
}
