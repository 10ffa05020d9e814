//! What other programs do at the worst moments: nothing of theirs is lost.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::super::super::root::beside;
use super::*;

fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::new();
    for (path, text) in files {
        let parents = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
        tree.extend(parents.map(|dir| (dir, None)));
        tree.insert((*path).into(), Some((*text).into()));
    }
    tree
}

/// A place with a step that a killed process has left, after all changes and before its last mark.
fn interrupted(old: &Tree, new: &Tree) -> Place {
    let place = Place::new();
    write(&place.root(), old);
    place.apply(old, new).unwrap();
    interrupt(&place);
    place
}

/// The temporary name of the newest step's operation of a path.
fn temporary_of(place: &Place, path: &str) -> PathBuf {
    let text = fs::read(place.dir.path().join("applies/1/journal.json")).unwrap();
    let journal: Journal = serde_json::from_slice(&text).unwrap();
    let all = journal.operations.iter().zip(&journal.temporary);
    let mut found = all.filter(|(operation, _)| operation.path == path);
    let (operation, temporary) = found.next().unwrap();
    let beside = beside(&operation.bytes(), temporary);
    place.root().join(String::from_utf8(beside).unwrap())
}

type Act = fn(&Path);

/// Ways to put something else at a path.
const OTHERS: [(&str, Act); 5] = [
    ("a text", |path| fs::write(path, "the host's").unwrap()),
    ("a mode", |path| {
        fs::write(path, "old").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("a link", |path| symlink("elsewhere", path).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a pipe", |path| {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    }),
];

/// What is at a path, in words.
fn state(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(error) => error.kind().to_string(),
        Ok(found) => format!(
            "{:?} {:o} {:?}",
            found.file_type(),
            found.permissions().mode(),
            found.is_file().then(|| fs::read_to_string(path).unwrap())
        ),
    }
}

#[test]
fn what_another_program_puts_there_after_the_check_keeps_its_name() {
    for (what, put) in OTHERS {
        let place = Place::new();
        let directory = File::open(place.root()).unwrap();
        let (root, contents) = (Root::new(directory.as_fd()), place.contents());
        let (old, new) = (
            place.entry(&Some("old".into())),
            place.entry(&Some("new".into())),
        );
        let path = place.root().join("f");
        put(&path);
        let before = state(&path);
        for expected in [None, Some(&old)] {
            root.stage(b"f", &new, "temporary", &contents).unwrap();
            assert!(!root.swap(b"f", "temporary", expected, &contents).unwrap());
            assert_eq!(state(&path), before, "{what}");
            root.unstage(b"f", "temporary").unwrap();
        }
        assert!(!root.take_away(b"f", "temporary", &old, &contents).unwrap());
        assert_eq!(state(&path), before, "{what}");
        let names = fs::read_dir(place.root()).unwrap();
        assert_eq!(names.count(), 1, "{what}");
    }
}

#[test]
fn what_a_killed_process_had_moved_away_gets_its_name_back() {
    let (old, new) = (
        tree_of(&[("d/a", "old"), ("d/b", "old"), ("e", "old")]),
        tree_of(&[("d/a", "new"), ("e", "new"), ("n", "new")]),
    );
    for (what, put) in OTHERS.into_iter().filter(|(what, _)| *what != "a mode") {
        // The process was killed after it had moved the path's file away, and before it looked at that. The file of a
        // replaced path is changed, that of a removed path, and one that has come where nothing was.
        for path in ["d/a", "d/b"] {
            let place = interrupted(&old, &new);
            let temporary = temporary_of(&place, path);
            put(&temporary);
            let before = state(&temporary);
            assert_eq!(place.recover(), [path], "{what}");
            assert_eq!(state(&place.root().join(path)), before, "{what}");
            assert!(!temporary.exists() && !temporary.is_symlink(), "{what}");
            assert_eq!(fs::read_to_string(place.root().join("e")).unwrap(), "old");
            assert!(!place.root().join("n").exists());
        }
    }
    // The name is taken: both files stay.
    let place = interrupted(&old, &new);
    let temporary = temporary_of(&place, "d/a");
    fs::write(&temporary, "the host's").unwrap();
    fs::write(place.root().join("d/a"), "the host's newer").unwrap();
    let beside = temporary.strip_prefix(place.root()).unwrap();
    assert_eq!(place.recover(), [beside.to_str().unwrap(), "d/a"]);
    assert_eq!(fs::read_to_string(&temporary).unwrap(), "the host's");
    let left = fs::read_to_string(place.root().join("d/a")).unwrap();
    assert_eq!(left, "the host's newer");
}

#[test]
fn what_the_host_removed_after_an_interrupted_step_does_not_come_back() {
    let (old, new) = (
        tree_of(&[("a", "old"), ("b", "old")]),
        tree_of(&[("a", "new"), ("b", "new")]),
    );
    let place = interrupted(&old, &new);
    fs::remove_file(place.root().join("a")).unwrap();
    assert_eq!(place.recover(), ["a"]);
    assert_eq!(read(&place.root()), tree_of(&[("b", "old")]));
    assert_eq!(place.recover(), Vec::<String>::new());
    assert_eq!(read(&place.root()), tree_of(&[("b", "old")]));
}

#[test]
fn what_cant_be_read_is_taken_back_later() {
    let (old, new) = (
        tree_of(&[("a", "old"), ("b", "old")]),
        tree_of(&[("a", "new"), ("b", "new")]),
    );
    let place = interrupted(&old, &new);
    // No content can be read from the host's files.
    let contents = place.dir.path().join("applies/1/contents");
    let moved = place.dir.path().join("moved");
    fs::rename(&contents, &moved).unwrap();
    let directory = File::open(place.root()).unwrap();
    let root = Root::new(directory.as_fd());
    let failed = place.applies().recover(&root);
    assert!(
        matches!(failed, Err(ApplyError::TakeBack { .. })),
        "{failed:?}"
    );
    let applied = place.apply(&new, &Tree::new());
    assert!(
        matches!(applied, Err(ApplyError::TakeBack { .. })),
        "{applied:?}"
    );
    assert_eq!(read(&place.root()), new);
    fs::rename(&moved, &contents).unwrap();
    assert_eq!(place.recover(), Vec::<String>::new());
    assert_eq!(read(&place.root()), old);
}

#[test]
fn a_directory_comes_back_with_its_mode() {
    let place = Place::new();
    let (dir, mode) = (place.root().join("d"), fs::Permissions::from_mode(0o777));
    write(&place.root(), &tree_of(&[("d/a", "1")]));
    fs::set_permissions(&dir, mode).unwrap();
    let mut gone = place.operations(&tree_of(&[("d/a", "1")]), &Tree::new());
    gone[0].old = Some(Entry::Directory { mode: 0o777 });
    let directory = File::open(place.root()).unwrap();
    let root = Root::new(directory.as_fd());
    place
        .applies()
        .apply(&root, gone, &place.contents())
        .unwrap();
    assert!(!dir.exists());
    place.undo(false).unwrap();
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}

/// A step that is prepared, and nothing more.
fn prepared(place: &Place, old: &Tree, new: &Tree) -> (Step, Vec<Option<Entry>>) {
    let dir = place.dir.path().join("applies/1");
    fs::create_dir_all(dir.join("contents")).unwrap();
    let operations = place.operations(old, new);
    let step = Step {
        number: 1,
        dir,
        journal: Journal {
            version: VERSION,
            progress: Progress::Begun,
            undoes: None,
            temporary: operations.iter().map(|_| temporary()).collect(),
            operations,
        },
    };
    step.write().unwrap();
    let directory = File::open(place.root()).unwrap();
    let found = prepare(&step, &Root::new(directory.as_fd()), &place.contents()).unwrap();
    (step, found)
}

#[test]
fn a_step_that_meets_a_change_of_the_hosts_is_taken_back_and_the_change_stays() {
    let (old, new) = (
        tree_of(&[
            ("a", "old"),
            ("c/gone", "old"),
            ("c/stays", "old"),
            ("z", "old"),
        ]),
        tree_of(&[
            ("a", "new"),
            ("b", "new"),
            ("c/stays", "old"),
            ("n/new", "new"),
            ("z", "new"),
        ]),
    );
    // A file that is replaced, one that comes, and one that goes.
    for path in ["z", "b", "c/gone"] {
        for (what, put) in OTHERS {
            let place = Place::new();
            write(&place.root(), &old);
            let (step, found) = prepared(&place, &old, &new);
            let changed = place.root().join(path);
            fs::remove_file(&changed).ok();
            put(&changed);
            let before = state(&changed);
            let directory = File::open(place.root()).unwrap();
            let root = Root::new(directory.as_fd());
            let made = make(&step, &root, &found);
            assert!(
                matches!(&made, Err(ApplyError::Meanwhile(found)) if found == path),
                "{path}, {what}: {made:?}"
            );
            let strangers = take_back(&step, &root).unwrap();
            assert!(
                strangers.iter().all(|stranger| stranger == path),
                "{strangers:?}"
            );
            assert_eq!(state(&changed), before, "{path}, {what}");
            if what == "a text" {
                let mut expected = old.clone();
                expected.insert(path.into(), Some("the host's".into()));
                assert_eq!(read(&place.root()), expected, "{path}");
            }
        }
    }
}
