//! Attacks by the guest's root on the fences of the network. The servers outside record every connection that gets through.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use memchr::memmem;
use serde_json::{Value, json};

use super::world::{ECHO, FLOOD, PLAIN, TLS, World};
use crate::common::{Place, Session, descendants, lossy};

/// The value that no guest may see.
const VALUE: &str = "S3cretValue-0123456789-abcdef";

/// The names that the resolver may be asked for.
const RESOLVED: [&str; 5] = [
    "rebind.test",
    "private.test",
    "metadata.test",
    "loop.test",
    "own.test",
];

/// The rules, and where the servers are. The traps stand behind `evil.test`, which no rule allows.
fn configure(place: &Place, mode: &str) {
    let text = format!(
        r#"[network]
mode = "{mode}"
deny = ["evil.test", "*.evil.test"]
allow = ["api.test", "tls.test", "web.test", "echo.test:7", "echo.test:9", "rebind.test", "private.test",
    "metadata.test", "loop.test", "own.test"]
[network.hosts]
"api.test:443" = "127.0.0.1:{TLS}"
"tls.test:443" = "127.0.0.1:{TLS}"
"web.test:80" = "127.0.0.1:{PLAIN}"
"echo.test:7" = "127.0.0.1:{ECHO}"
"echo.test:9" = "127.0.0.1:{FLOOD}"
"evil.test:80" = "127.0.0.1:80"
"evil.test:443" = "127.0.0.1:443"
[network.secrets.TOKEN]
from = {{ env = "VALUE" }}
hosts = ["api.test"]
header = "Authorization"
"#
    );
    place.configure(&text);
    std::fs::write(
        place.workspace.join("attacks.py"),
        include_str!("attacks.py"),
    )
    .unwrap();
}

/// A sandbox in a world of its own.
struct Siege {
    place: Place,
    world: World,
    session: Session,
}

impl Siege {
    async fn start(mode: &str) -> Self {
        let place = Place::new("debian");
        configure(&place, mode);
        let world = World::start(&place, &["api.test", "tls.test", "web.test"]).await;
        let session = world.serve(&place, &[("VALUE", VALUE)]).await;
        Self {
            place,
            world,
            session,
        }
    }

    /// Root tries these, at least so many; all of it must come to what is expected.
    async fn tries(&self, parts: &str, least: usize) {
        let line = format!("python3 attacks.py {parts}");
        let ask = json!({"command": line, "user": "root", "timeout_s": 300});
        let result = self.session.call("exec", ask).await;
        assert_eq!(result["exit_code"], 0, "{result}");
        assert!(!result.to_string().contains(VALUE), "{result}");
        let told = result["stdout"].as_str().unwrap();
        let broken: Vec<_> = told
            .lines()
            .filter(|line| line.starts_with("NOT HELD"))
            .collect();
        assert!(broken.is_empty(), "{broken:#?}");
        let held = told.lines().filter(|line| line.starts_with("held: "));
        assert!(held.count() >= least, "{told}");
    }

    /// Nobody came to a trap, and the resolver was asked for these names at most.
    async fn nothing_leaked(&mut self) -> Value {
        let seen = self.world.seen().await;
        assert_eq!(seen["trapped"], json!([]), "{seen}");
        let asked: BTreeSet<&str> = seen["names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let stray: Vec<_> = asked
            .iter()
            .filter(|name| !RESOLVED.contains(name))
            .collect();
        assert!(stray.is_empty(), "the resolver was asked for {stray:?}");
        for request in seen["requests"].as_array().unwrap() {
            assert!(
                !request["path"].as_str().unwrap().contains("wrong"),
                "{request}"
            );
        }
        seen
    }
}

/// Whether a command reaches a server that is allowed.
const RIGHT: &str = "curl -sS --max-time 20 http://web.test/right";

#[tokio::test(flavor = "multi_thread")]
async fn no_name_and_no_address_leads_where_it_may_not() {
    let mut siege = Siege::start("list").await;
    siege.tries("names addresses fronting", 110).await;
    siege.nothing_leaked().await;
    siege.session.close().await;
}

/// Where every public name is allowed, the host's own network is still closed.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_network_ends_at_the_host() {
    let mut siege = Siege::start("open").await;
    siege.tries("addresses fronting", 75).await;
    siege.nothing_leaked().await;
    siege.session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_on_the_host() {
    let mut siege = Siege::start("list").await;
    siege.tries("secrets", 19).await;
    let seen = siege.nothing_leaked().await;
    for request in seen["requests"].as_array().unwrap() {
        let at = request["at"].as_str().unwrap();
        let value = request["headers"]["authorization"].as_str();
        let others = json!([
            request["body"],
            request["path"],
            request["headers"]["cookie"]
        ]);
        assert!(!others.to_string().contains(VALUE), "{request}");
        match (at, request["path"].as_str().unwrap()) {
            ("api.test", "/echo" | "/pieces" | "/redirect") => {
                assert_eq!(value, Some(format!("Bearer {VALUE}").as_str()));
            }
            ("api.test", "/basic") => {
                // `me:` and the value.
                let told = "Basic bWU6UzNjcmV0VmFsdWUtMDEyMzQ1Njc4OS1hYmNkZWY=";
                assert_eq!(value, Some(told));
            }
            _ => assert!(!request.to_string().contains(VALUE), "{request}"),
        }
    }
    // Nor does it lie in what the sandbox keeps, or in the memory of its machine and of what runs it.
    let save = json!({"action": "save", "name": "one"});
    siege.session.call("snapshot", save).await;
    let files = walk(&siege.place.store());
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let length = file.metadata().unwrap().len();
        assert!(!contains(&file, 0, length), "{}", file.display());
    }
    assert!(look_into_memory(siege.session.pid) > 300 << 20);
    siege.session.close().await;
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(walk(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Whether the value is in a part of a file.
fn contains(file: &Path, from: u64, to: u64) -> bool {
    let mut file = std::fs::File::open(file).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    let finder = memmem::Finder::new(VALUE);
    let mut window = Vec::new();
    let mut left = to - from;
    while left > 0 {
        let mut piece = vec![0; left.min(1 << 20) as usize];
        let length = match file.read(&mut piece) {
            Ok(length @ 1..) => length,
            _ => return false,
        };
        left -= length as u64;
        window.extend_from_slice(&piece[..length]);
        if finder.find(&window).is_some() {
            return true;
        }
        window.drain(..window.len().saturating_sub(VALUE.len()));
    }
    false
}

/// Looks for the value in the memory of all processes below one. Gives how many bytes there were.
fn look_into_memory(pid: u32) -> u64 {
    let mut bytes = 0;
    for pid in descendants(pid) {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = format!("/proc/{pid}/mem");
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            if !rest.starts_with('r') || rest.contains("[v") {
                continue;
            }
            let (from, to) = range.split_once('-').unwrap();
            let at = |text| u64::from_str_radix(text, 16).unwrap();
            bytes += at(to) - at(from);
            let found = contains(Path::new(&memory), at(from), at(to));
            assert!(!found, "process {pid}: {line}");
        }
    }
    bytes
}

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_fills_no_memory_and_blocks_nobody() {
    let mut siege = Siege::start("list").await;
    siege.session.stdout("true").await;
    let before = peak(siege.session.pid);
    let beside = async {
        for _ in 0..5 {
            siege.session.stdout("true").await;
        }
    };
    tokio::join!(siege.tries("flood", 2), beside);
    let more = peak(siege.session.pid) - before;
    // The windows of all streams are together at most 96 MiB.
    assert!(more < 160 << 10, "{more} KiB");
    // What was open has ended with its process.
    siege.session.stdout(RIGHT).await;
    siege.nothing_leaked().await;
    siege.session.close().await;
}

/// Root owns the guest's half of the network: it may wreck it, and lie with it.
#[tokio::test(flavor = "multi_thread")]
async fn root_only_loses_its_own_network() {
    let mut siege = Siege::start("list").await;
    siege.session.stdout(RIGHT).await;
    siege.tries("wreck", 9).await;
    assert_eq!(siege.session.stdout("echo works").await, "works\n");

    siege.session.call("reboot", json!({})).await;
    siege.session.stdout(RIGHT).await;
    siege.tries("lies", 1).await;
    assert_eq!(siege.session.stdout("echo works").await, "works\n");
    siege.tries("garbage", 1).await;
    assert_eq!(siege.session.stdout("echo works").await, "works\n");

    siege.session.call("reboot", json!({})).await;
    siege.session.stdout(RIGHT).await;
    let log = siege.world.command(&siege.place, &["network", "log"]);
    let log = lossy(&{ log }.output().await.unwrap().stdout);
    for told in [
        "refused  connect  evil.test:443",
        "refused  connect  2852039166:80  a literal address",
        "refused  connect  loop.test:443  loop.test is at 127.0.0.1",
        "`web.test\\u{0}evil.test` is no name",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    siege.nothing_leaked().await;
    siege.session.close().await;
}
