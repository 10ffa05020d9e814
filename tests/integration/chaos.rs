//! Each round kills a process of the sandbox at a random moment. A reported operation stays done; an unreported one is
//! done completely or not at all. No process stays, and after one call reported the loss the next call works.
//!
//! `make chaos` does a thousand rounds; SNOWGLOBE_CHAOS_SEED repeats one run's choices.
#![allow(clippy::print_stdout, reason = "the operations explain a failed test")]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{Place, Session, descendants, eventually, request, runs};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The default number of rounds.
const ROUNDS: u64 = 25;

/// The longest wait before a kill: longer than any operation. Most waits are shorter.
const LONGEST: Duration = Duration::from_millis(2500);

/// The state of the disk: the number that was written last.
const MARK: &str = "/home/sandbox/mark";

/// An operation during which a process is killed.
#[derive(Debug, Clone, PartialEq)]
enum Deed {
    /// Changes the number on the disk.
    Mark,
    /// Replaces a file of the workspace.
    Write,
    Save(String),
    Restore(String),
    Delete(String),
    Reboot,
}

/// The state that the reported operations promise.
#[derive(Debug, Default)]
struct Known {
    /// The snapshots, each with the number on the disk when it was saved.
    saved: BTreeMap<String, u64>,
    /// Snapshots of unreported operations, which may or may not exist.
    unsure: BTreeMap<String, u64>,
    /// The number on the running disk; none after a machine was lost.
    mark: u64,
    /// The possible contents of the workspace's file; `None` while no write was reported.
    written: Vec<Option<String>>,
}

struct Chaos {
    place: Place,
    session: Option<Session>,
    random: StdRng,
    known: Known,
    killed: u64,
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost() {
    let rounds = variable("SNOWGLOBE_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    let seed = variable("SNOWGLOBE_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds; SNOWGLOBE_CHAOS_SEED={seed} repeats these choices");
    let mut chaos = Chaos {
        place: Place::new("minimal"),
        session: None,
        random: StdRng::seed_from_u64(seed),
        known: Known {
            written: vec![None],
            ..Known::default()
        },
        killed: 0,
    };
    for round in 1..=rounds {
        chaos.round(round).await;
    }
    assert!(
        chaos.killed * 2 > rounds,
        "only {} of {rounds} rounds killed a process that ran",
        chaos.killed
    );
    chaos.end().await;
}

impl Chaos {
    async fn round(&mut self, round: u64) {
        let deed = self.choose(round);
        let session = self.ready().await;
        let pids = descendants(session.pid);
        let all: Vec<u32> = [session.pid].into_iter().chain(pids).collect();
        let victim = *all.iter().choose(&mut self.random).unwrap();
        let wait = LONGEST.mul_f64(self.random.random::<f64>().powi(2));
        let name = std::fs::read_to_string(format!("/proc/{victim}/comm")).unwrap_or_default();
        println!(
            "round {round}: {deed:?}, and {} is killed after {wait:?}",
            name.trim()
        );
        let client = self.session.as_ref().unwrap().client.peer().clone();
        let (tool, arguments) = call(&deed, round);
        let done = tokio::spawn(async move {
            let result = client.call_tool(request(tool, arguments)).await;
            result.is_ok_and(|result| {
                result.is_error != Some(true) && exited(&result.structured_content)
            })
        });
        tokio::time::sleep(wait).await;
        let ran = runs(victim);
        // A machine that ended in the meantime does not belong to this round.
        let _ = kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::KILL);
        self.killed += u64::from(ran);
        let server = victim == self.session.as_ref().unwrap().pid;
        let done = done.await.unwrap();
        self.learn(&deed, round, done);
        if server {
            let _ = self.session.take().unwrap().client.cancel().await;
            eventually("all that the server started is gone", || {
                !all.iter().any(|pid| runs(*pid))
            })
            .await;
            eventually("no socket is left", || {
                std::fs::read_dir(self.place.runtime_dir()).unwrap().count() == 0
            })
            .await;
        }
        self.check().await;
    }

    fn choose(&mut self, round: u64) -> Deed {
        let any = self.known.saved.keys().choose(&mut self.random).cloned();
        match (self.random.random_range(0..10), any) {
            (0, _) => Deed::Mark,
            (1 | 2, _) => Deed::Write,
            (3, _) => Deed::Reboot,
            (4 | 5, Some(name)) => Deed::Restore(name),
            (6, Some(name)) if self.known.saved.len() > 3 => Deed::Delete(name),
            _ => Deed::Save(format!("s{round}")),
        }
    }

    /// A server with a running machine whose disk has the known number.
    async fn ready(&mut self) -> &Session {
        if self.session.is_none() {
            self.session = Some(self.place.serve().await);
        }
        let session = self.session.as_ref().unwrap();
        // If the machine was killed after its operation was done, this call reports it.
        let _ = session.raw("exec", json!({"command": "true"})).await;
        let mark = format!("cat {MARK} 2>/dev/null || {{ echo 0 >{MARK}; sync; cat {MARK}; }}");
        self.known.mark = session.stdout(&mark).await.trim().parse().unwrap();
        session
    }

    /// Updates the expectation after an operation.
    fn learn(&mut self, deed: &Deed, round: u64, done: bool) {
        let known = &mut self.known;
        let text = content(round);
        match deed {
            Deed::Write if done => known.written = vec![Some(text)],
            Deed::Write => known.written.push(Some(text)),
            Deed::Save(name) if done => {
                known.saved.insert(name.clone(), known.mark);
            }
            Deed::Save(name) => {
                known.unsure.insert(name.clone(), known.mark);
            }
            Deed::Delete(name) => {
                let mark = known.saved.remove(name).unwrap();
                if !done {
                    known.unsure.insert(name.clone(), mark);
                }
            }
            Deed::Mark | Deed::Restore(_) | Deed::Reboot => {}
        }
    }

    /// Checks every promise through a server, old or new.
    async fn check(&mut self) {
        if self.session.is_none() {
            self.session = Some(self.place.serve().await);
        }
        let session = self.session.as_ref().unwrap();
        let listed = session.snapshots().await;
        for name in self.known.saved.keys() {
            assert!(listed.contains(name), "{name} is lost: {listed:?}");
        }
        for (name, mark) in std::mem::take(&mut self.known.unsure) {
            if listed.contains(&name) {
                self.known.saved.insert(name, mark);
            }
        }
        for name in &listed {
            assert!(
                self.known.saved.contains_key(name),
                "{name} is from nowhere"
            );
        }
        let now = match std::fs::read_to_string(self.place.workspace.join("file")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            read => Some(read.unwrap()),
        };
        assert!(
            self.known.written.contains(&now),
            "the workspace's file has content that was never written: {:?} bytes",
            now.map(|now| now.len())
        );
        self.known.written = vec![now];
        // Each snapshot has its old content, and a machine restored from it works.
        let Some((name, mark)) = self.known.saved.iter().choose(&mut self.random) else {
            return;
        };
        session
            .call("snapshot", json!({"action": "restore", "name": name}))
            .await;
        let now = session.stdout(&format!("cat {MARK}")).await;
        assert_eq!(now.trim(), mark.to_string(), "{name}");
    }

    async fn end(mut self) {
        let session = self.session.take().unwrap();
        for name in self.known.saved.keys() {
            session
                .call("snapshot", json!({"action": "delete", "name": name}))
                .await;
        }
        session.close().await;
        // The next server sweeps the files that the killed one left.
        let session = self.place.serve().await;
        session.exec("true").await;
        let all = descendants(session.pid);
        session.close().await;
        eventually("nothing runs on", || !all.iter().any(|pid| runs(*pid))).await;
        for part in ["layers", "run"] {
            let left = std::fs::read_dir(self.place.store().join(part)).unwrap();
            assert_eq!(left.count(), 0, "{part}: something is left");
        }
    }
}

/// Whether the command's exit status was 0; none for other results.
fn exited(result: &Option<Value>) -> bool {
    let code = result.as_ref().and_then(|result| result.get("exit_code"));
    code.is_none_or(|code| *code == 0)
}

/// The text that a round writes: longer than a page, so that a torn file would show.
fn content(round: u64) -> String {
    format!("{round}\n").repeat(20_000)
}

fn call(deed: &Deed, round: u64) -> (&'static str, Value) {
    match deed {
        Deed::Mark => (
            "exec",
            json!({"command": format!("echo {round} >{MARK}.new && sync && mv {MARK}.new {MARK} && sync")}),
        ),
        Deed::Write => ("write", json!({"path": "file", "content": content(round)})),
        Deed::Save(name) => ("snapshot", json!({"action": "save", "name": name})),
        Deed::Restore(name) => ("snapshot", json!({"action": "restore", "name": name})),
        Deed::Delete(name) => ("snapshot", json!({"action": "delete", "name": name})),
        Deed::Reboot => ("reboot", json!({})),
    }
}
