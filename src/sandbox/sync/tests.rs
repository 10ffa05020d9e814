//! Processes that copy a directory, refresh a copy, and bring newer files into one: killed at any moment, and several at
//! once. The work of the host is done whole; no machine runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::copied::{Refresh, WorkspaceDisk};
use super::*;
use crate::config::{Config, Raw, Sources};
use crate::disk::{CopiedWorkspace, VmDir};
use crate::workspace::Mode;

/// The content of each file.
type Tree = BTreeMap<String, Vec<u8>>;

/// What a killed process does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    /// Copies the directory, of which there is no base.
    Copy,
    /// Makes a copy over an older base, with what is newer.
    Refresh,
    /// Brings what is newer into a copy.
    Sync,
    /// Makes a copy of its own beside others.
    Beside,
}

/// The directory's files in one of their states. Some never change.
fn tree(state: u64) -> Tree {
    let file = |number: u64| {
        let text = format!(
            "{} of {number}\n",
            state * u64::from(number.is_multiple_of(3))
        );
        (
            format!("d{}/f{number}", number % 5),
            text.repeat(200).into_bytes(),
        )
    };
    let mut tree: Tree = (0..40).map(file).collect();
    tree.insert(format!("only-{state}/x"), b"x".to_vec());
    tree.insert("large".into(), vec![state as u8; 5 << 20]);
    tree
}

fn write(root: &Path, old: &Tree, new: &Tree) {
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        fs::remove_dir_all(root.join(path).parent().unwrap()).unwrap();
    }
    for (path, content) in new {
        if old.get(path) != Some(content) {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        }
    }
}

/// A directory of the host, and the data of its sandbox.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(tree: &Tree) -> Self {
        // In memory: each round puts its files on the disk.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(dir.path().join("project")).unwrap();
        let image = File::create(dir.path().join("image")).unwrap();
        image.set_len(1 << 30).unwrap();
        write(&dir.path().join("project"), &Tree::new(), tree);
        Self { dir }
    }

    fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn start(&self, deed: Deed) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sandbox::sync::tests::a_process_that_copies",
                "--ignored",
            ])
            .env(CHILD, self.dir.path())
            .env(DEED, format!("{deed:?}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Kills a process some time after it begins to work. Gives whether it had ended.
    fn is_done_when_killed(&self, deed: Deed, wait: Duration) -> bool {
        let mut child = self.start(deed);
        let begins = self.dir.path().join("begins");
        while !begins.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let began = Instant::now();
        while began.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        let done = self.dir.path().join("ended").exists();
        assert!(done || ended.status.code().is_none(), "{ended:?}");
        fs::remove_file(begins).unwrap();
        fs::remove_file(self.dir.path().join("ended")).ok();
        done
    }
}

/// A sandbox, as a process has it before its machine boots.
struct Started {
    sandbox: Arc<Sandbox>,
    _run: VmDir,
    made: WorkspaceDisk,
}

async fn open(dir: &Path, kept: bool) -> Arc<Sandbox> {
    let runtime = dir.join("run").to_string_lossy().into_owned();
    let config = Config::load(Sources {
        cwd: dir.join("project"),
        user_file: None,
        env: vec![("SNOWGLOBE_RUNTIME_DIR".to_owned(), runtime)],
        flags: Raw {
            data_dir: Some(dir.join("data")),
            image: Some("none".to_owned()),
            name: Some("copied".to_owned()),
            workspace_mode: Some(Mode::Copy),
            ..Raw::default()
        },
    })
    .unwrap();
    let sandbox = match kept {
        true => Sandbox::kept(config).await,
        false => Sandbox::new(config).await,
    };
    sandbox.unwrap()
}

impl Started {
    async fn new(dir: &Path, kept: bool) -> Self {
        let sandbox = open(dir, kept).await;
        let run = sandbox.on_disk(Store::new_vm).await.unwrap();
        let (of_root, image) = (run.clone(), dir.join("image"));
        let root = sandbox
            .on_disk(move |store| store.new_disk(&of_root, &[], &image, Vec::new(), &|_| ()));
        let root = root.await.unwrap();
        let nobody = Progress::default();
        let made = sandbox.workspace_disk(&run, &root, None, None, &nobody);
        let made = made.await.unwrap().unwrap();
        Self {
            sandbox,
            _run: run,
            made,
        }
    }

    fn read(&self, name: &str) -> Began {
        let trees = self.sandbox.store.trees().unwrap();
        Began::read(&self.made.copied.base, &trees, name).unwrap()
    }

    fn note(&mut self, copied: CopiedWorkspace) {
        let place = self.sandbox.copy.clone().unwrap();
        place.write(&copied, None).unwrap();
        self.made.copied = copied;
    }

    /// What the host has beyond what the copy began with, as the guest will have it.
    async fn next(&self, fresh: Option<Listing>) -> Began {
        let mut next = self.read(&self.made.copied.tree);
        for Newer { path, now } in self.sandbox.newer(&next, fresh).await.unwrap() {
            let known = placed(&path, now).known;
            next.set(&path, known);
        }
        next
    }

    /// The first machine has come up, and its guest has what is newer.
    async fn come_up(&mut self) {
        let _making = self.sandbox.store.making().unwrap();
        let mut copied = self.made.copied.clone();
        if let Refresh::Brought(fresh) = std::mem::replace(&mut self.made.refresh, Refresh::Nothing)
        {
            let next = self.next(Some(fresh)).await;
            copied.tree = self.sandbox.stored(next).await.unwrap();
        }
        if let Some(placing) = copied.placing.take() {
            copied.tree = placing;
        }
        self.note(copied);
    }

    /// The guest is given what is newer, and has it.
    async fn sync(&mut self) {
        let _making = self.sandbox.store.making().unwrap();
        let next = self.next(None).await;
        let placing = self.sandbox.stored(next.clone()).await.unwrap();
        self.note(CopiedWorkspace {
            placing: Some(placing),
            ..self.made.copied.clone()
        });
        let tree = self.sandbox.stored(next).await.unwrap();
        self.note(CopiedWorkspace {
            tree,
            placing: None,
            ..self.made.copied.clone()
        });
    }

    /// The files that the copy begins with.
    fn files(&self, name: &str) -> Tree {
        let began = self.read(name);
        let contents = Contents::at(self.sandbox.store.contents().unwrap());
        let mut reader = began.reader(&contents).unwrap();
        let all = began.all();
        let files = all.iter().filter(|(_, known)| known.kind == Kind::File);
        files
            .map(|(path, _)| {
                let mut content = Vec::new();
                reader.read(path, &mut content).unwrap();
                (String::from_utf8(path.clone()).unwrap(), content)
            })
            .collect()
    }
}

/// The files below a directory of the store.
fn names(sandbox: &Sandbox, part: &str) -> BTreeSet<String> {
    let dir = sandbox.store.bases().unwrap().with_file_name(part);
    let all = fs::read_dir(dir).unwrap();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// After the next start nothing is left but what the copy needs.
async fn has_no_garbage(dir: &Path, copied: &CopiedWorkspace) {
    let sandbox = open(dir, true).await;
    let only = |name: String| BTreeSet::from([name]);
    let trees = sandbox.store.trees().unwrap();
    let tree = format!("{}.json", copied.tree);
    let needed = Began::needed(&trees.join(&tree)).unwrap();
    let base = copied.base.file_name().unwrap().to_str().unwrap();
    assert_eq!(names(&sandbox, "bases"), only(base.to_owned()));
    assert_eq!(names(&sandbox, "trees"), only(tree));
    assert_eq!(names(&sandbox, "contents"), needed);
    assert_eq!(names(&sandbox, "copies"), only("kept".to_owned()));
    let layers: BTreeSet<String> = copied.layers.iter().cloned().collect();
    assert_eq!(names(&sandbox, "layers"), layers);
    assert_eq!(names(&sandbox, "run"), BTreeSet::new());
    let in_copy = names(&sandbox, "copies/kept");
    assert_eq!(
        in_copy,
        BTreeSet::from(["copy.json".to_owned(), "lock".to_owned()])
    );
}

fn is_sound(base: &Path) {
    let checked = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(crate::disk::base_disk(base))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
}

const CHILD: &str = "SNOWGLOBE_TEST_COPIES";
const DEED: &str = "SNOWGLOBE_TEST_DEED";

#[tokio::test]
#[ignore = "a process that the next tests start"]
async fn a_process_that_copies() {
    let dir = PathBuf::from(std::env::var_os(CHILD).unwrap());
    match std::env::var(DEED).unwrap().as_str() {
        "Beside" => {
            let mut started = Started::new(&dir, false).await;
            started.come_up().await;
            started.sync().await;
            assert_eq!(started.files(&started.made.copied.tree), tree(1));
        }
        "Sync" => {
            let mut started = Started::new(&dir, true).await;
            fs::write(dir.join("begins"), "").unwrap();
            started.sync().await;
            fs::write(dir.join("ended"), "").unwrap();
        }
        _ => {
            fs::write(dir.join("begins"), "").unwrap();
            let mut started = Started::new(&dir, true).await;
            started.come_up().await;
            fs::write(dir.join("ended"), "").unwrap();
        }
    }
}

/// How many rounds a test has: `make chaos` says more.
fn rounds() -> u64 {
    let rounds = std::env::var("SNOWGLOBE_CHAOS_ROUNDS");
    rounds.map_or(30, |rounds| rounds.parse().unwrap())
}

/// Kills processes until there were so many rounds, and until both outcomes have come often enough.
async fn whole_or_absent(deed: Deed, rounds: u64) {
    const ENOUGH: u64 = 5;
    let place = Place::new(&tree(0));
    let dir = place.dir.path();
    if deed != Deed::Copy {
        Started::new(dir, true).await.come_up().await;
    }
    // The window of the moments follows the duration of the work, however fast the machine is now.
    let mut window = Duration::from_millis(100);
    let (mut state, mut absent, mut whole) = (0, 0, 0);
    while absent + whole < rounds || absent < ENOUGH || whole < ENOUGH {
        assert!(
            absent + whole < rounds + 1000,
            "{absent} absent, {whole} whole"
        );
        let (old, new) = (tree(state), tree(state + 1));
        state += 1;
        write(&place.project(), &old, &new);
        let store = dir.join("data/sandboxes/copied");
        match deed {
            Deed::Copy if store.exists() => fs::remove_dir_all(&store).unwrap(),
            Deed::Refresh => fs::remove_dir_all(store.join("copies")).unwrap(),
            _ => {}
        }
        let done = place.is_done_when_killed(deed, window.mul_f64(rand::random()));
        window = window.mul_f64(if done { 0.85 } else { 1.1 });

        let mut next = Started::new(dir, true).await;
        let (tree, placing) = (
            next.made.copied.tree.clone(),
            next.made.copied.placing.clone(),
        );
        let found = next.files(&tree);
        // A new copy over an older base is not ready before its guest has what is newer.
        let ready = !matches!(next.made.refresh, Refresh::Brought(_));
        assert!(
            found == new || found == old || !ready,
            "round {state}: neither nor"
        );
        if let Some(placing) = placing {
            assert!(next.files(&placing) == new, "round {state}: half of it");
        }
        assert!(
            !done || found == new,
            "round {state}: what was done is gone"
        );
        match done {
            true => whole += 1,
            false => absent += 1,
        }
        next.come_up().await;
        next.sync().await;
        let copied = next.made.copied.clone();
        assert!(next.files(&copied.tree) == new, "round {state}");
        if state.is_multiple_of(10) {
            is_sound(&copied.base);
        }
        drop(next);
        has_no_garbage(dir, &copied).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copying_killed_at_any_moment_leaves_a_whole_base_or_none() {
    whole_or_absent(Deed::Copy, rounds()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_killed_at_any_moment_is_made_anew() {
    whole_or_absent(Deed::Refresh, rounds()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_killed_at_any_moment_is_whole_or_absent() {
    whole_or_absent(Deed::Sync, rounds()).await;
}

fn succeeded(ended: &std::process::Output) {
    // The test of the process says on its standard output what failed.
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
}

/// Sandboxes of one directory, each with a copy of its own, start and end at once: none takes what another is making.
#[test]
fn copies_that_are_made_at_once_do_not_harm_each_other() {
    let place = Place::new(&tree(1));
    let mut running: Vec<Child> = (0..4).map(|_| place.start(Deed::Beside)).collect();
    for _ in 0..20 {
        let ended = running.remove(0).wait_with_output().unwrap();
        succeeded(&ended);
        running.push(place.start(Deed::Beside));
    }
    for child in running {
        succeeded(&child.wait_with_output().unwrap());
    }
}
