//! Steps on real directories: whole or absent, whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;

mod host;

use super::super::changes::{Change, Differing, changes};
use super::super::entry::Entry;
use super::super::plan::{Outcome, Planned, operations, plan};
use super::*;

/// A tree: the content of each file, `None` for a directory.
type Tree = BTreeMap<String, Option<String>>;

/// A directory of the host, a place for steps, and contents.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "contents"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn applies(&self) -> Applies {
        Applies::open(&self.dir.path().join("applies")).unwrap()
    }

    fn contents(&self) -> Contents {
        Contents::at(self.dir.path().join("contents"))
    }

    fn entry(&self, content: &Option<String>) -> Entry {
        match content {
            None => Entry::Directory { mode: 0o755 },
            Some(text) => Entry::File {
                hash: self
                    .contents()
                    .add(&mut text.as_bytes(), text.len() as u64)
                    .unwrap(),
                size: text.len() as u64,
                mode: 0o644,
            },
        }
    }

    /// The operations that make one tree of another.
    fn operations(&self, old: &Tree, new: &Tree) -> Vec<Operation> {
        let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let operations = paths
            .into_iter()
            .filter(|path| old.get(*path) != new.get(*path));
        operations
            .map(|path| Operation {
                path: path.clone(),
                old: old.get(path).map(|content| self.entry(content)),
                new: new.get(path).map(|content| self.entry(content)),
            })
            .collect()
    }

    fn apply(&self, old: &Tree, new: &Tree) -> Result<(), ApplyError> {
        let directory = File::open(self.root()).unwrap();
        let root = Root::new(directory.as_fd());
        self.applies()
            .apply(&root, self.operations(old, new), &self.contents())
    }

    /// The changes of a guest that has made one tree of another.
    fn changes(&self, old: &Tree, new: &Tree) -> Vec<Change> {
        let differing = self.operations(old, new).into_iter().map(|one| Differing {
            path: one.bytes(),
            old: one.old,
            new: one.new,
        });
        changes(differing.collect())
    }

    /// Takes over all changes that are possible; gives what was planned.
    fn take_over(&self, old: &Tree, new: &Tree) -> Result<Vec<Planned>, ApplyError> {
        let (contents, changes) = (self.contents(), self.changes(old, new));
        let directory = File::open(self.root()).unwrap();
        let root = Root::new(directory.as_fd());
        let gone = old.iter().filter(|(path, _)| !new.contains_key(*path));
        let gone = gone.filter(|(_, content)| content.is_none());
        let gone = gone.map(|(path, _)| path.clone().into_bytes()).collect();
        let taken: Vec<_> = changes.iter().map(|change| (change, None)).collect();
        let plans = plan(&taken, &gone, &root, &contents).unwrap();
        let operations = operations(&plans, &gone, &root, &contents).unwrap();
        self.applies().apply(&root, operations, &contents)?;
        Ok(plans)
    }

    fn undo(&self, skip: bool) -> Result<(Vec<Operation>, Vec<String>, Contents), ApplyError> {
        let directory = File::open(self.root()).unwrap();
        let (applies, root) = (self.applies(), Root::new(directory.as_fd()));
        let undoing = applies.undoing(&root, skip)?;
        let undone = undoing.operations().filter(|(_, changes)| *changes);
        let undone = undone.map(|(operation, _)| operation.clone()).collect();
        let (left, contents) = (undoing.changed().cloned().collect(), undoing.contents());
        applies.undo(&root, undoing)?;
        Ok((undone, left, contents))
    }

    fn recover(&self) -> Strangers {
        let directory = File::open(self.root()).unwrap();
        self.applies()
            .recover(&Root::new(directory.as_fd()))
            .unwrap()
    }
}

fn write(root: &Path, tree: &Tree) {
    for (path, content) in tree {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content {
            None => fs::create_dir_all(path).unwrap(),
            Some(text) => fs::write(path, text).unwrap(),
        }
    }
}

fn read(root: &Path) -> Tree {
    fn add(root: &Path, dir: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.is_dir() {
                tree.insert(name, None);
                add(root, &path, tree);
            } else {
                tree.insert(name, Some(fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut tree = Tree::new();
    add(root, root, &mut tree);
    tree
}

/// Trees of a few paths, where files and directories take each other's places.
fn tree() -> impl Strategy<Value = Tree> {
    const PATHS: [&str; 9] = ["a", "b", "d/x", "d/y", "d/e/z", "e", "e/f", "g/h/i", "g"];
    prop::collection::btree_map(
        prop::sample::select(&PATHS[..]),
        prop::option::weighted(0.9, 0_u8..4),
        0..8,
    )
    .prop_map(|chosen| {
        let mut tree = Tree::new();
        for (path, content) in chosen {
            let parents = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            let parents: Vec<String> = parents.collect();
            let blocked = parents
                .iter()
                .any(|dir| matches!(tree.get(dir), Some(Some(_))));
            if blocked || tree.contains_key(path) {
                continue;
            }
            tree.extend(parents.into_iter().map(|dir| (dir, None)));
            tree.insert(
                path.to_owned(),
                content.map(|number| format!("content {number}\n")),
            );
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_step_makes_the_new_tree_and_undoing_it_the_old(old in tree(), new in tree(), newest in tree()) {
        let place = Place::new();
        write(&place.root(), &old);
        place.apply(&old, &new).unwrap();
        prop_assert_eq!(read(&place.root()), new.clone());
        place.apply(&new, &newest).unwrap();
        prop_assert_eq!(read(&place.root()), newest.clone());
        if new != newest {
            place.undo(false).unwrap();
        }
        prop_assert_eq!(read(&place.root()), new.clone());
        if old != new {
            place.undo(false).unwrap();
            prop_assert_eq!(read(&place.root()), old);
        }
    }

    #[test]
    fn what_the_host_changed_is_never_lost(old in tree(), new in tree(), host in tree(), interrupted in any::<bool>()) {
        let place = Place::new();
        write(&place.root(), &host);
        let plans = place.take_over(&old, &new).unwrap();
        let now = read(&place.root());
        let done: BTreeSet<String> = plans.iter().filter(|one| matches!(one.outcome, Outcome::Do(..))).map(|one| {
            String::from_utf8(one.path.clone()).unwrap()
        }).collect();
        for (path, content) in host.iter().filter(|(_, content)| content.is_some()) {
            let is_kept = now.get(path) == Some(content) || done.contains(path);
            prop_assert!(is_kept, "{path}: {now:?}");
            // Merging aside, nothing is changed that the host has changed.
            let is_as_before = old.get(path) == Some(content);
            let is_merged = old.contains_key(path) && new.contains_key(path) && now.contains_key(path);
            prop_assert!(now.get(path) == Some(content) || is_as_before || is_merged, "{path}: {now:?}");
        }
        // All that was there comes back.
        if place.dir.path().join("applies/1").exists() {
            match interrupted {
                true => {
                    interrupt(&place);
                    prop_assert_eq!(place.recover(), Vec::<String>::new());
                }
                false => drop(place.undo(false).unwrap()),
            }
        }
        prop_assert_eq!(read(&place.root()), host);
    }

    #[test]
    fn a_renamed_file_is_taken_as_a_whole_or_not_at_all(old in tree(), new in tree(), host in tree()) {
        let place = Place::new();
        write(&place.root(), &host);
        let before = read(&place.root());
        let plans = place.take_over(&old, &new).unwrap();
        let now = read(&place.root());
        let is_conflict = |path: &[u8]| {
            let planned = plans.iter().find(|one| one.path == path).unwrap();
            matches!(planned.outcome, Outcome::Conflict(_))
        };
        for change in place.changes(&old, &new) {
            let Some(from) = &change.from else { continue };
            prop_assert_eq!(is_conflict(from), is_conflict(&change.path));
            let at = |tree: &Tree, path: &[u8]| tree.get(std::str::from_utf8(path).unwrap()).cloned();
            if is_conflict(from) {
                prop_assert_eq!(at(&now, from), at(&before, from));
                prop_assert_eq!(at(&now, &change.path), at(&before, &change.path));
            } else {
                prop_assert_eq!(at(&now, &change.path), at(&new, &change.path));
                prop_assert!(!matches!(at(&now, from), Some(Some(text)) if Some(&Some(text.clone())) == old.get(std::str::from_utf8(from).unwrap())));
            }
        }
    }
}

#[test]
fn modes_and_links_come_and_go_back() {
    let place = Place::new();
    let root = place.root();
    fs::write(root.join("run"), "x").unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("run", root.join("link")).unwrap();
    let directory = File::open(&root).unwrap();
    let open = Root::new(directory.as_fd());
    let contents = place.contents();
    let look = |path: &str| open.look(path.as_bytes(), &contents).unwrap();
    let Some(Entry::File { hash, size, .. }) = look("run") else {
        panic!()
    };
    let operations = vec![
        Operation {
            path: "run".into(),
            old: look("run"),
            new: Some(Entry::File {
                hash,
                size,
                mode: 0o755,
            }),
        },
        Operation {
            path: "link".into(),
            old: look("link"),
            new: Some(Entry::Link {
                target: "a%20b".into(),
            }),
        },
    ];
    place.applies().apply(&open, operations, &contents).unwrap();
    let mode = || fs::metadata(root.join("run")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o755);
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("a b"));
    place.undo(false).unwrap();
    assert_eq!(mode(), 0o600);
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("run"));
}

#[test]
fn nothing_outside_of_the_root_is_touched() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "theirs").unwrap();
    symlink(&outside, place.root().join("d")).unwrap();
    symlink("../outside", place.root().join("up")).unwrap();
    let file = |text: &str| place.entry(&Some(text.into()));
    for path in ["d/f", "d/new", "up/f", "../outside/f", "d/../../outside/f"] {
        for old in [None, Some(file("theirs"))] {
            let operation = Operation {
                path: path.into(),
                old,
                new: Some(file("mine")),
            };
            let directory = File::open(place.root()).unwrap();
            let applied = place.applies().apply(
                &Root::new(directory.as_fd()),
                vec![operation],
                &place.contents(),
            );
            assert!(applied.is_err(), "{path}");
        }
    }
    let left: Vec<_> = fs::read_dir(&outside).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "theirs");
}

#[test]
fn what_changed_since_is_not_undone() {
    let place = Place::new();
    let tree = |pairs: &[(&str, &str)]| -> Tree {
        pairs
            .iter()
            .map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned())))
            .collect()
    };
    let (old, new) = (
        tree(&[("a", "1"), ("b", "1")]),
        tree(&[("a", "2"), ("b", "2")]),
    );
    write(&place.root(), &old);
    place.apply(&old, &new).unwrap();
    fs::write(place.root().join("a"), "3").unwrap();
    assert!(matches!(place.undo(false), Err(ApplyError::Since(path)) if path == "a"));
    assert_eq!(read(&place.root()), tree(&[("a", "3"), ("b", "2")]));
    let (undone, left, _) = place.undo(true).unwrap();
    assert_eq!((undone.len(), left), (1, vec!["a".to_owned()]));
    assert_eq!(read(&place.root()), tree(&[("a", "3"), ("b", "1")]));
    assert!(matches!(place.undo(false), Err(ApplyError::Nothing)));
}

/// Makes the newest step one that was interrupted before its last mark.
fn interrupt(place: &Place) {
    let journal = place.dir.path().join("applies/1/journal.json");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("\"done\"", "\"begun\"")).unwrap();
}

#[test]
fn what_stands_in_the_way_is_left_alone_and_the_rest_is_taken_back() {
    let tree = |text: &str| -> Tree {
        let file = |path: &str| (path.to_owned(), Some(text.to_owned()));
        Tree::from([("d".to_owned(), None), file("d/a"), file("e")])
    };
    for what in ["a link above", "a pipe", "a file above", "an edit"] {
        let place = Place::new();
        let (root, old) = (place.root(), tree("old"));
        write(&root, &old);
        place.apply(&old, &tree("new")).unwrap();
        interrupt(&place);
        match what {
            "a link above" => {
                fs::rename(root.join("d"), place.dir.path().join("d")).unwrap();
                symlink("../d", root.join("d")).unwrap();
            }
            "a pipe" => {
                fs::remove_file(root.join("d/a")).unwrap();
                let mode = rustix::fs::Mode::RUSR;
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    root.join("d/a"),
                    rustix::fs::FileType::Fifo,
                    mode,
                    0,
                )
                .unwrap();
            }
            "a file above" => {
                fs::remove_dir_all(root.join("d")).unwrap();
                fs::write(root.join("d"), "theirs").unwrap();
            }
            _ => fs::write(root.join("d/a"), "new, edited").unwrap(),
        }
        assert!(place.recover().contains(&"d/a".to_owned()), "{what}");
        assert_eq!(fs::read_to_string(root.join("e")).unwrap(), "old", "{what}");
        // The old content is nowhere else.
        let kept = fs::read_dir(place.dir.path().join("applies/1/contents")).unwrap();
        let mut kept = kept.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        assert!(kept.any(|text| text == "old"), "{what}");
        let more = Tree::from([("z".to_owned(), Some("z".to_owned()))]);
        place.apply(&Tree::new(), &more).unwrap();
        assert_eq!(fs::read_to_string(root.join("z")).unwrap(), "z", "{what}");
    }
}

#[test]
fn a_directory_with_files_of_the_hosts_stays() {
    let place = Place::new();
    let new = Tree::from([
        ("pkg".to_owned(), None),
        ("pkg/a".to_owned(), Some("a".to_owned())),
    ]);
    place.apply(&Tree::new(), &new).unwrap();
    fs::write(place.root().join("pkg/built"), "theirs").unwrap();
    place.undo(false).unwrap();
    let left = Tree::from([
        ("pkg".to_owned(), None),
        ("pkg/built".to_owned(), Some("theirs".to_owned())),
    ]);
    assert_eq!(read(&place.root()), left);
}

#[test]
fn only_the_newest_steps_are_kept() {
    let place = Place::new();
    let tree = |number: usize| Tree::from([("a".to_owned(), Some(number.to_string()))]);
    write(&place.root(), &tree(0));
    for number in 0..KEPT + 5 {
        place.apply(&tree(number), &tree(number + 1)).unwrap();
    }
    for number in (5..KEPT + 5).rev() {
        place.undo(false).unwrap();
        assert_eq!(read(&place.root()), tree(number));
        // An undoing is a step, too, and goes with the oldest ones.
        if number == 15 {
            break;
        }
    }
}

#[test]
fn old_steps_go_when_their_contents_take_too_much_but_the_newest_stays() {
    let place = Place::new();
    let tree = |number: usize| Tree::from([("a".to_owned(), Some(number.to_string().repeat(100)))]);
    write(&place.root(), &tree(0));
    for number in 0..6 {
        place.apply(&tree(number), &tree(number + 1)).unwrap();
    }
    // Each step has 100 bytes on either side.
    for (most, left) in [(1200, 6), (650, 3), (0, 1)] {
        place.applies().forget_old(most).unwrap();
        assert_eq!(place.applies().steps().unwrap().len(), left);
    }
    place.undo(false).unwrap();
    assert_eq!(read(&place.root()), tree(5));
}

/// What the killed processes do: changes, additions and removals in several directories.
fn two_trees() -> (Tree, Tree) {
    let file =
        |number: usize, text: &str| (format!("d{}/f{number}", number % 5), Some(text.repeat(200)));
    let mut old: Tree = (0..5).map(|dir| (format!("d{dir}"), None)).collect();
    let mut new = old.clone();
    old.extend((0..30).map(|number| file(number, "old\n")));
    new.extend(
        (10..40).map(|number| file(number, if number % 2 == 0 { "new\n" } else { "old\n" })),
    );
    new.insert("e".into(), None);
    new.insert("e/g".into(), Some("made\n".into()));
    (old, new)
}

const CHILD: &str = "SNOWGLOBE_TEST_APPLIES";

#[test]
#[ignore = "a process that the next test starts and kills"]
fn a_process_that_applies() {
    let place = PathBuf::from(std::env::var_os(CHILD).unwrap());
    let (old, new) = two_trees();
    let directory = File::open(place.join("root")).unwrap();
    let root = Root::new(directory.as_fd());
    let contents = Contents::at(place.join("contents"));
    let text = fs::read(place.join("operations")).unwrap();
    let operations: Vec<Operation> = serde_json::from_slice(&text).unwrap();
    assert!(!operations.is_empty() && old != new);
    let applies = Applies::open(&place.join("applies")).unwrap();
    fs::write(place.join("begins"), "").unwrap();
    applies.apply(&root, operations, &contents).unwrap();
    fs::write(place.join("ended"), "").unwrap();
}

/// Starts a process that applies the place's operations, and kills it after the wait. Gives whether it had ended.
fn applies_until_killed(place: &Place, wait: Duration) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "review::apply::tests::a_process_that_applies",
            "--ignored",
        ])
        .env(CHILD, place.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begins = place.dir.path().join("begins");
    while !begins.exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    assert!(begins.exists(), "the process could not begin");
    let began = Instant::now();
    while began.elapsed() < wait && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.dir.path().join("ended").exists()
}

#[test]
fn a_process_killed_at_any_moment_leaves_the_old_tree_or_the_new_one() {
    /// How often a step must have been killed within its changes, and how often it must have been whole.
    const ENOUGH: usize = 10;
    let (old, new) = two_trees();
    let (mut taken_back, mut whole, mut round) = (0, 0, 0);
    // The moments are spread over a window that follows the duration of a step, however fast the machine is now: about a
    // third of the steps end before their moment.
    let mut window = Duration::from_millis(40);
    while round < 200 || taken_back < ENOUGH || whole < ENOUGH {
        round += 1;
        assert!(
            round <= 600,
            "{taken_back} were taken back, {whole} were whole"
        );
        let place = Place::new();
        write(&place.root(), &old);
        let operations = serde_json::to_vec(&place.operations(&old, &new)).unwrap();
        fs::write(place.dir.path().join("operations"), operations).unwrap();
        let ended = applies_until_killed(&place, window.mul_f64(rand::random()));
        window = window.mul_f64(if ended { 0.9 } else { 1.05 });
        let mixed = read(&place.root());
        assert_eq!(place.recover(), Vec::<String>::new());
        let now = read(&place.root());
        assert!(now == old || now == new, "round {round}: {now:?}");
        assert!(
            !ended || now == new,
            "round {round}: a step that was done is gone"
        );
        match now == new {
            true => {
                whole += 1;
                place.undo(false).unwrap();
                assert_eq!(read(&place.root()), old, "round {round}");
            }
            false => taken_back += usize::from(mixed != old),
        }
    }
}
