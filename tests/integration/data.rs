//! What lies on the disk: seen, counted and removed, without a VM where none is needed.

use std::path::Path;
use std::process::Stdio;

use crate::common::{PROGRAM, Place, private_dir};
use serde_json::Value;

/// What `ssh-config --install` leaves.
const HOSTS: [&str; 5] = [
    "mine.conf",
    "mine.known_hosts",
    "mine.host_ed25519",
    "old.conf",
    "none.conf",
];

/// A data directory of its own, with sandboxes that ran once.
struct Kept {
    dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["data", "cache", "run", "here", "away"] {
            private_dir(&dir.path().join(name));
        }
        let kept = Self { dir };
        kept.sandbox("old", &kept.at("gone"));
        kept.sandbox("mine", &kept.at("here"));
        std::fs::create_dir_all(kept.at("data/sandboxes/early/layers")).unwrap();
        std::fs::write(kept.at("data/sandboxes/early/layers/a.qcow2"), "unknown").unwrap();
        std::fs::create_dir_all(kept.at("data/logs")).unwrap();
        for name in ["old.log", "mine.log", "none.log", "none.lock", "foreign"] {
            std::fs::write(kept.at("data/logs").join(name), "text").unwrap();
        }
        private_dir(&kept.at("data/ssh"));
        for name in ["id_ed25519", "foreign"].into_iter().chain(HOSTS) {
            std::fs::write(kept.at("data/ssh").join(name), "text").unwrap();
        }
        std::fs::hard_link(kept.at("data/logs/mine.log"), kept.at("data/again")).unwrap();
        std::fs::write(kept.at("cache/vmlinux-0123"), vec![1; 100_000]).unwrap();
        std::fs::write(kept.at("cache/mine.txt"), "not Snowglobe's").unwrap();
        kept
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// What a sandbox of this directory leaves: a snapshot's layer, and one that nothing needs.
    fn sandbox(&self, name: &str, directory: &Path) {
        let store = self.at("data/sandboxes").join(name);
        for part in ["layers", "snapshots", "run/dead"] {
            std::fs::create_dir_all(store.join(part)).unwrap();
        }
        std::fs::write(store.join("lock"), "").unwrap();
        std::fs::write(store.join("run/dead/lock"), "").unwrap();
        for (layer, size) in [("kept", 200_000), ("loose", 300_000)] {
            std::fs::write(store.join(format!("layers/{layer}.qcow2")), vec![1; size]).unwrap();
        }
        let sparse = std::fs::File::create(store.join("layers/sparse.qcow2")).unwrap();
        sparse.set_len(1 << 36).unwrap();
        let record = serde_json::json!({
            "version": 1, "name": "good", "created": "2026-01-02T03:04:05Z", "bytes": 200_000,
            "layers": ["kept.qcow2"],
            "base": {"image": "minimal", "disk": "/images/disks/0123.raw", "env": []},
        });
        std::fs::write(store.join("snapshots/good.json"), record.to_string()).unwrap();
        let owner = format!("{}\0/\0", directory.display());
        std::fs::write(store.join("directories"), owner).unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = tokio::process::Command::new(PROGRAM)
            .args(arguments)
            .current_dir(self.at("here"))
            .env_clear()
            .env("HOME", self.at("away"))
            .env("SNOWGLOBE_DATA_DIR", self.at("data"))
            .env("SNOWGLOBE_CACHE_DIR", self.at("cache"))
            .env("SNOWGLOBE_RUNTIME_DIR", self.at("run"))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    async fn data(&self) -> Value {
        let (code, out, err) = self.run(&["data", "--json"]).await;
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// What `du` says of both directories.
    fn du(&self) -> u64 {
        let output = std::process::Command::new("du")
            .args(["-sc", "--block-size=1"])
            .args([self.at("data"), self.at("cache")])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let total = text.lines().last().unwrap().split_whitespace().next();
        total.unwrap().parse().unwrap()
    }

    /// The names of all files.
    fn tree(&self) -> String {
        let output = std::process::Command::new("find")
            .arg(self.at(""))
            .arg("-printf")
            .arg("%P %s %T@\\n")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn sandbox<'a>(data: &'a Value, name: &str) -> &'a Value {
    let all = data["sandboxes"].as_array().unwrap();
    all.iter()
        .find(|sandbox| sandbox["name"] == name)
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_those_of_du_and_looking_changes_nothing() {
    let kept = Kept::new();
    let before = kept.tree();
    let data = kept.data().await;
    assert_eq!(data["bytes"], kept.du(), "{data:#}");
    let old = sandbox(&data, "old");
    assert_eq!(old["directory"], "gone", "{old}");
    assert_eq!(old["directories"][0], kept.at("gone").to_str().unwrap());
    assert_eq!(old["snapshots"][0]["name"], "good");
    let unneeded = old["unneeded_bytes"].as_u64().unwrap();
    assert!((300_000..500_000).contains(&unneeded), "{old}");
    let mine = sandbox(&data, "mine");
    assert_eq!(mine["directory"], "there");
    assert!(
        mine["ssh_hosts"] == true && mine["ssh_bytes"].as_u64() > Some(0),
        "{mine}"
    );
    for part in ["ssh_key", "stale_ssh"] {
        assert_eq!(data[part]["files"], 1, "{part}: {data:#}");
    }
    assert_eq!(sandbox(&data, "early")["directory"], "unknown");
    let (code, out, err) = kept.run(&["data"]).await;
    assert!(
        code == 0
            && out.contains("(gone)")
            && out.contains(", ssh hosts")
            && err.contains("snowglobe prune"),
        "{out}{err}"
    );
    // Every size on the left adds up, and lines that belong to others are indented.
    let (code, out, _) = kept.run(&["prune", "--dry-run"]).await;
    assert!(
        code == 0 && out.contains("old, ") && !out.contains("early"),
        "{out}"
    );
    assert_eq!(kept.tree(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_takes_what_nothing_needs_and_only_that() {
    let kept = Kept::new();
    let before = kept.tree();
    // In a pipe, and without consent, nothing goes.
    let (code, _, err) = kept.run(&["prune"]).await;
    assert!(code == 125 && err.contains("--yes"), "{err}");
    assert_eq!(kept.tree(), before);
    let total = kept.du();
    let (code, out, err) = kept.run(&["prune", "--yes", "--json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["freed_bytes"], total - kept.du(), "{said:#}");
    for gone in [
        "data/sandboxes/old",
        "data/logs/old.log",
        "data/logs/none.log",
        "data/ssh/old.conf",
        "data/ssh/none.conf",
        "data/sandboxes/mine/layers/loose.qcow2",
        "cache/vmlinux-0123",
    ] {
        assert!(!kept.at(gone).exists(), "{gone}");
    }
    for stays in [
        "data/sandboxes/mine/layers/kept.qcow2",
        "data/sandboxes/mine/snapshots/good.json",
        "data/logs/mine.log",
        "data/logs/foreign",
        "data/ssh/id_ed25519",
        "data/ssh/mine.conf",
        "data/ssh/mine.host_ed25519",
        "data/ssh/foreign",
        "data/again",
        "cache/mine.txt",
        "data/sandboxes/early",
    ] {
        assert!(kept.at(stays).exists(), "{stays}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rm_names_what_goes_and_asks() {
    let kept = Kept::new();
    let (code, _, err) = kept.run(&["rm", "mine"]).await;
    assert!(
        code == 125 && err.contains("1 snapshot") && err.contains("--yes"),
        "{err}"
    );
    assert!(kept.at("data/sandboxes/mine").exists());
    // One wrong name, and nothing goes.
    let (code, _, err) = kept.run(&["rm", "-y", "old", "mone"]).await;
    assert!(code == 125 && err.contains("did you mean mine"), "{err}");
    assert!(kept.at("data/sandboxes/old").exists());
    let (code, _, err) = kept.run(&["rm", "-y", "old", "mine"]).await;
    assert!(code == 0 && err.contains("removed mine"), "{err}");
    for name in [
        "data/sandboxes/old",
        "data/sandboxes/mine",
        "data/logs/mine.log",
        "data/logs/mine.lock",
        "data/ssh/mine.conf",
        "data/ssh/mine.known_hosts",
        "data/ssh/mine.host_ed25519",
        "data/ssh/old.conf",
    ] {
        assert!(!kept.at(name).exists(), "{name}");
    }
    assert!(kept.at("data/sandboxes/early").exists());
    assert!(kept.at("data/ssh/id_ed25519").exists());
    // This project's, which has none.
    let (code, _, err) = kept.run(&["rm", "-y"]).await;
    assert!(code == 125 && err.contains("there is none"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_removed_only_by_force() {
    let place = Place::new("minimal");
    let (code, _, err) = place.run(&["start"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = place.run(&["data", "--json"]).await;
    assert_eq!(code, 0, "{err}");
    let data: Value = serde_json::from_str(&out).unwrap();
    let own = sandbox(&data, &place.name());
    assert!(
        own["running"] == true && own["directory"] == "there",
        "{own}"
    );
    let workspace = place.workspace.canonicalize().unwrap();
    assert_eq!(own["directories"][0], workspace.to_str().unwrap());
    let (code, _, err) = place.run(&["rm", "-y"]).await;
    assert!(code == 125 && err.contains("--force"), "{err}");
    assert!(place.store().exists());
    let (code, out, err) = place.run(&["ls", "--json"]).await;
    assert!(
        code == 0 && out.contains("\"network\": \"off\""),
        "{out}{err}"
    );
    let (code, _, err) = place.run(&["rm", "--force", "-y"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(!place.store().exists());
    assert_eq!(place.runtime_dir().read_dir().unwrap().count(), 0);
}
