//! The program is killed while a copied workspace starts or takes newer files in; the next one goes on with all of them.
//!
//! `make chaos` kills it many times; SNOWGLOBE_CHAOS_ROUNDS says how often.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::{changes, guest, repository, works};
use crate::common::{Place, descendants, eventually, on_the_host, runs};

/// The default number of rounds.
const ROUNDS: f64 = 4.0;

/// All files but git's own, with their contents.
const FILES: &str = "find . -path ./.git -prune -o -path ./target -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";

/// What git makes of the tree, too.
const WITH_GIT: &str = "git status --short; git log --format=%s; git fsck 2>&1; git diff --stat";

/// Starts the program, and does not wait for its end.
fn begin(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(arguments);
    command
        .env("SNOWGLOBE_WORKSPACE_MODE", "copy")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The process of the sandbox that stays, if there is one.
async fn keeper(place: &Place) -> Option<u32> {
    let status = works(place, &["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["pid"].as_u64().map(|pid| pid as u32)
}

/// Kills the process of the sandbox that stays, and waits until its machine has gone, too. Gives whether there was one.
async fn kill(place: &Place) -> bool {
    let Some(pid) = keeper(place).await else {
        return false;
    };
    let all = [vec![pid], descendants(pid)].concat();
    let killed = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
    eventually("it is gone", || !all.iter().any(|pid| runs(*pid))).await;
    killed.is_ok()
}

async fn has_the_hosts_files(place: &Place, line: &str) {
    assert_eq!(
        guest(place, line).await,
        on_the_host(&place.workspace, line)
    );
    assert_eq!(changes(place).await, Vec::<String>::new());
}

/// The first start copies an older base, and is killed before it brought in what is newer: files, and commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_leaves_no_old_files() {
    let place = repository("debian");
    works(&place, &["exec", "--rm", "--", "true"]).await;
    on_the_host(
        &place.workspace,
        "seq 50 >numbers && git rm -q src/a.c && echo new >new && git add -A && git commit -qm two && echo more >>new",
    );
    let record = place.store().join("copies/kept/copy.json");
    let mut start = begin(&place, &["start"]);
    // It is written before the machine boots, and the files come after that.
    eventually("the copy's record", || record.exists()).await;
    assert!(kill(&place).await);
    start.wait().await.unwrap();
    has_the_hosts_files(&place, &format!("{FILES}; {WITH_GIT}")).await;
    let bases = fs::read_dir(place.store().join("bases")).unwrap();
    assert_eq!(bases.count(), 1, "the base was used again");
}

/// What `sync` has reported is in the copy, whatever happens next.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_in_survives_a_kill() {
    let place = repository("debian");
    guest(&place, "true").await;
    for number in 0..2 {
        on_the_host(
            &place.workspace,
            "for n in $(seq 20); do head -c 300000 /dev/urandom >new$n; done; seq 20 >numbers",
        );
        fs::write(place.workspace.join("numbers"), format!("{number}\n")).unwrap();
        works(&place, &["sync"]).await;
        assert!(kill(&place).await);
        has_the_hosts_files(&place, FILES).await;
    }
}

/// Random moments of work. Their window follows the duration of the work, however fast the machine is now.
struct Moments {
    rounds: u64,
    window: Duration,
    killed: u64,
}

impl Moments {
    /// For a test with so many of the rounds.
    fn new(share: f64) -> Self {
        let rounds = std::env::var("SNOWGLOBE_CHAOS_ROUNDS");
        let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
        Self {
            rounds: (rounds * share).ceil() as u64,
            window: Duration::from_secs(1),
            killed: 0,
        }
    }

    /// Kills the process of the sandbox while a command works.
    async fn kill_during(&mut self, place: &Place, arguments: &[&str]) {
        let began = Instant::now();
        let mut work = begin(place, arguments);
        let wait = self.window.mul_f64(rand::random());
        while began.elapsed() < wait && work.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ended = work.try_wait().unwrap().is_some();
        self.window = self.window.mul_f64(if ended { 0.8 } else { 1.25 });
        self.killed += u64::from(kill(place).await && !ended);
        work.wait().await.unwrap();
    }

    fn were_early_enough(&self) {
        let Self { rounds, killed, .. } = self;
        assert!(
            *rounds < 10 || killed * 4 > *rounds,
            "only {killed} of {rounds} rounds killed a process at work"
        );
    }
}

/// Starts and syncs that are killed at any moment: afterwards a sync brings in the rest, and nothing half is a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_at_any_moment_goes_on() {
    let place = repository("debian");
    let mut moments = Moments::new(1.0);
    for round in 0..moments.rounds {
        on_the_host(
            &place.workspace,
            &format!(
                "for n in $(seq 40); do seq {round} $(({round} + 3000)) >file$n; done; rm -rf dir*; \
                 mkdir dir{round}; echo {round} >dir{round}/file; git add -A; git commit -qm {round}"
            ),
        );
        match round % 3 {
            // A copy from the start, without a base.
            1 => drop(works(&place, &["rm", "--yes", "--force"]).await),
            // The machine starts, and then the files come.
            2 => drop(works(&place, &["stop"]).await),
            _ => {}
        }
        moments.kill_during(&place, &["sync"]).await;
        works(&place, &["sync"]).await;
        has_the_hosts_files(&place, FILES).await;
        let left = "find . -name '.snowglobe-*' | wc -l; git fsck 2>&1 | grep -c '^error' || true";
        assert_eq!(guest(&place, left).await, "0\n0\n", "round {round}");
    }
    moments.were_early_enough();
}

/// Applies and undos that are killed at any moment: the host has all of it or nothing, the guest what it had, and both go
/// on from there.
#[tokio::test(flavor = "multi_thread")]
async fn an_apply_or_undo_killed_at_any_moment_is_whole_or_absent() {
    let place = repository("debian");
    let on_host = || on_the_host(&place.workspace, FILES);
    let mut moments = Moments::new(0.5);
    for round in 0..moments.rounds {
        let old = on_host();
        guest(
            &place,
            &format!(
                "for n in $(seq 30); do seq {round} $(({round} + 2000)) >file$n; done; rm -rf dir*; \
                 mkdir dir{round}; echo {round} | tee dir{round}/file numbers"
            ),
        )
        .await;
        let new = guest(&place, FILES).await;
        if round % 2 == 1 {
            works(&place, &["apply"]).await;
            assert!(on_host() == new);
            moments.kill_during(&place, &["apply", "--undo"]).await;
        } else {
            moments.kill_during(&place, &["apply"]).await;
        }
        let left = changes(&place).await;
        let now = on_host();
        assert!(now == old || now == new, "round {round}: {now}");
        assert_eq!(left.is_empty(), now == new, "round {round}: {left:?}");
        assert!(guest(&place, FILES).await == new, "round {round}");
        if now == old {
            works(&place, &["apply"]).await;
        }
        works(&place, &["apply", "--undo"]).await;
        assert!(on_host() == old, "round {round}: {}", on_host());
        works(&place, &["apply"]).await;
        assert!(on_host() == new, "round {round}: {}", on_host());
        assert!(guest(&place, FILES).await == new, "round {round}");
        let left = "find . -name '.snowglobe-*' | wc -l";
        assert_eq!(on_the_host(&place.workspace, left), "0\n");
    }
    moments.were_early_enough();
}
