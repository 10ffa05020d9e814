//! Changes that are planned together are judged by the tree after all of them.

mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::super::names;
use super::super::planned::{Becomes, Content, Planned, judge};
use super::super::{DEEPEST, Finding, HIDE, LONGEST, TOO_LONG, UNCHECKED};
use super::attacks::ATTACKS;
use super::ordinary::{WORKS, change, steps};
use super::tree::Tree;
use crate::protection::{Effect, Protection};

/// How much of a file is compared; the rest are holes.
const MOST: u64 = 4 << 20;

/// Attacks that are none as a plan, which makes new files of given contents: a second name is a copy, and there are no
/// modes.
const HARMLESS: &[&str] = &[
    "a hook made executable",
    "a second name of a hook",
    "a second name of the settings",
    "a second name of a list of servers",
];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File(Vec<u8>, u64),
    Link(Vec<u8>),
}

type Entries = BTreeMap<Vec<u8>, Entry>;

/// All that a tree contains.
fn entries(tree: &Tree) -> Entries {
    let mut all = Entries::new();
    let mut open = vec![Vec::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(tree.at(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = names::join(&directory, entry.file_name().as_bytes());
            let kind = entry.file_type().unwrap();
            let it = if kind.is_dir() {
                open.push(path.clone());
                Entry::Directory
            } else if kind.is_symlink() {
                Entry::Link(
                    fs::read_link(entry.path())
                        .unwrap()
                        .into_os_string()
                        .into_vec(),
                )
            } else {
                let mut text = Vec::new();
                let file = File::open(entry.path()).unwrap();
                let size = file.metadata().unwrap().len();
                file.take(MOST).read_to_end(&mut text).unwrap();
                Entry::File(text, size)
            };
            all.insert(path, it);
        }
    }
    all
}

fn content(text: &[u8]) -> Content {
    let text = text.to_vec();
    Box::new(move |at_most| Ok(text[..text.len().min(at_most)].to_vec()))
}

fn planned(path: &[u8], entry: Option<&Entry>) -> Planned {
    Planned {
        path: path.to_vec(),
        becomes: match entry {
            None => Becomes::Absent,
            Some(Entry::Directory) => Becomes::Directory,
            Some(Entry::File(text, _)) => Becomes::File(content(text)),
            Some(Entry::Link(target)) => Becomes::Link(target.clone()),
        },
    }
}

/// The changes that make one tree of another.
fn difference(before: &Entries, after: &Entries) -> Vec<Planned> {
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path));
    changed.map(|path| planned(path, after.get(path))).collect()
}

fn plan(changes: &[(&str, Option<Entry>)]) -> Vec<Planned> {
    let one = |(path, entry): &(&str, Option<Entry>)| planned(path.as_bytes(), entry.as_ref());
    changes.iter().map(one).collect()
}

fn file(text: &str) -> Option<Entry> {
    Some(Entry::File(text.into(), text.len() as u64))
}

fn link(target: &str) -> Option<Entry> {
    Some(Entry::Link(target.into()))
}

const DIRECTORY: Option<Entry> = Some(Entry::Directory);
const ABSENT: Option<Entry> = None;

fn judged_by(settings: &Protection, tree: &Tree, planned: &[Planned]) -> Vec<Option<Finding>> {
    let root = File::open(tree.root()).unwrap();
    judge(root.as_fd(), tree.surroundings(), settings, planned).unwrap()
}

fn judged(tree: &Tree, planned: &[Planned]) -> Vec<Option<Finding>> {
    judged_by(&Protection::default(), tree, planned)
}

/// The rule of each change, empty where there is none.
fn rules_of(found: &[Option<Finding>]) -> Vec<&'static str> {
    let rule = |found: &Option<Finding>| found.as_ref().map_or("", |it| it.rule);
    found.iter().map(rule).collect()
}

fn is_in_git(path: &[u8]) -> bool {
    names::fold_path(path)
        .split(|byte| *byte == b'/')
        .any(|name| name == b".git")
}

#[test]
fn every_attack_of_the_list_is_found_as_a_plan() {
    let (mut failed, mut outside_git) = (Vec::new(), 0);
    for attack in ATTACKS {
        let (before, after) = (Tree::new(attack.tree), Tree::new(attack.tree));
        for change in attack.changes {
            for path in change.paths() {
                after.make_parent(std::str::from_utf8(path).unwrap());
            }
            after.apply(change);
        }
        let planned = difference(&entries(&before), &entries(&after));
        let found = judged(&before, &planned);
        let in_git = planned.iter().any(|one| is_in_git(&one.path));
        let expected = match in_git {
            true => "git-directory",
            false => attack.rule,
        };
        let right = match HARMLESS.contains(&attack.what) {
            true => found.iter().all(Option::is_none),
            false => rules_of(&found).contains(&expected),
        };
        outside_git += usize::from(!in_git);
        if !right {
            failed.push(format!(
                "{}: {planned:?}: {found:?} instead of {expected}",
                attack.what
            ));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(outside_git >= 40, "{outside_git}");
}

#[test]
fn ordinary_work_outside_of_git_directories_has_no_findings() {
    let mut judged_plans = 0;
    for work in WORKS {
        // As a plan, what is moved is made anew.
        if work.what == "a repository moved and copied" {
            continue;
        }
        let (before, after) = (Tree::new(work.tree), Tree::new(work.tree));
        for line in work.changes.lines() {
            for step in &steps(line) {
                after.apply(&change(step));
            }
            let planned = difference(&entries(&before), &entries(&after));
            for (one, found) in planned.iter().zip(judged(&before, &planned)) {
                let right = match &found {
                    Some(found) => found.rule == "git-directory" && found.what.contains(".git"),
                    None => !is_in_git(&one.path),
                };
                assert!(right, "{}: {line}: {one:?}: {found:?}", work.what);
            }
            judged_plans += 1;
        }
    }
    assert!(judged_plans > 100, "{judged_plans}");
}

#[test]
fn a_repository_of_several_planned_files_is_found() {
    let evil = file("[core]\n\tfsmonitor = ./evil\n");
    let harmless = file("[core]\n\tbare = true\n");
    let tree = Tree::new(&["a=x"]);
    let whole = |config: &Option<Entry>| {
        plan(&[
            ("b/config", config.clone()),
            ("b/HEAD", file("ref: refs/heads/main\n")),
            ("b", DIRECTORY),
            ("b/refs", DIRECTORY),
            ("b/objects", DIRECTORY),
        ])
    };
    let found = judged(&tree, &whole(&evil));
    assert_eq!(rules_of(&found)[0], "git-settings", "{found:?}");
    assert_eq!(judged(&tree, &whole(&harmless)), vec![None; 5]);
    // Without one of its parts it is no repository.
    for part in ["b/refs", "b/objects"] {
        let mut rest = whole(&evil);
        rest.retain(|one| one.path != part.as_bytes());
        assert_eq!(judged(&tree, &rest), vec![None; 4], "{part}");
    }
    // The directories that are made for files count, and names that the host's file system may take for the same.
    for (objects, refs) in [
        ("b/objects/aa/bb", "b/refs/heads/main"),
        ("b/OBJECTS/aa", "B/Refs/main"),
    ] {
        let planned = plan(&[
            ("b/config", evil.clone()),
            (objects, file("x")),
            (refs, file("x")),
        ]);
        let found = judged(&tree, &planned);
        assert_eq!(rules_of(&found)[0], "git-settings", "{found:?}");
    }
    // What the host has counts as soon as it is in a repository: the change that makes it one is found.
    let tree = Tree::new(&[
        "b/config=[core]\n\tpager = evil\n",
        "b/objects/",
        "c/hooks/update=x",
        "c/refs/",
    ]);
    let planned = plan(&[
        ("b/refs/heads/main", file("x")),
        ("c/objects", link("../b/objects")),
    ]);
    assert_eq!(
        rules_of(&judged(&tree, &planned)),
        ["git-settings", "git-hooks"]
    );
}

#[test]
fn what_the_host_had_before_is_no_finding() {
    let old = "[core]\n\tpager = less -R\n";
    let config = format!("b/config={old}");
    let tree = Tree::new(&[&config, "b/objects/", "b/refs/", "b/HEAD=x"]);
    let with = |more: &str| plan(&[("b/config", file(&format!("{old}{more}")))]);
    assert_eq!(judged(&tree, &with("[user]\n\tname = x\n")), [None]);
    assert_eq!(
        rules_of(&judged(&tree, &with("[alias]\n\tx = !y\n"))),
        ["git-aliases"]
    );
}

#[test]
fn a_path_in_gits_directory_is_always_found() {
    let tree = Tree::new(&["r/.git/HEAD=x", "r/a=x", "s/.git=gitdir: ../r/.git\n"]);
    let settings = Protection {
        rules: [("git-directory".to_owned(), Effect::Allow)].into(),
        ..Protection::default()
    };
    let planned = plan(&[
        ("r/.git/index", file("DIRC")),
        ("r/.GIT", DIRECTORY),
        ("t/git~1/x", file("x")),
        ("t/.g\u{200c}it", link("x")),
        ("t/.git. /x", file("x")),
        ("t/.git::$INDEX_ALLOCATION/x", file("x")),
        ("r/.git/HEAD", ABSENT),
        // What takes one away.
        ("s", ABSENT),
        ("r/.gitignore", file("x")),
    ]);
    let found = judged_by(&settings, &tree, &planned);
    let (last, others) = found.split_last().unwrap();
    assert!(
        rules_of(others).iter().all(|rule| *rule == "git-directory"),
        "{found:?}"
    );
    assert_eq!(*last, None);
}

#[test]
fn a_rule_counts_as_the_settings_say() {
    let tree = Tree::new(&[".vscode/settings.json={}", ".env=x", "d/.env=x", "d/y=x"]);
    let planned = plan(&[
        (".vscode/tasks.json", file("{}")),
        (".vscode/settings.json", ABSENT),
        ("new/.env", file("x")),
        ("d", ABSENT),
        ("a", file("x")),
    ]);
    for (effect, expected) in [
        (Effect::Allow, ""),
        (Effect::Ask, "vscode"),
        (Effect::Deny, "vscode"),
    ] {
        let settings = Protection {
            rules: [("vscode".to_owned(), effect)].into(),
            hide: vec![".env".to_owned()],
            read_only: true,
        };
        let found = judged_by(&settings, &tree, &planned);
        assert_eq!(
            rules_of(&found),
            [expected, expected, HIDE, HIDE, ""],
            "{effect:?}"
        );
    }
    let wrong = Protection {
        hide: vec!["[".to_owned()],
        ..Protection::default()
    };
    let root = File::open(tree.root()).unwrap();
    judge(root.as_fd(), tree.surroundings(), &wrong, &[]).unwrap_err();
}

#[test]
fn a_path_that_leads_elsewhere_is_found() {
    let tree = Tree::new(&["out->/tmp", "f=x", "d/x=x", "was/x=x"]);
    let deep = vec!["a"; DEEPEST + 1].join("/");
    let long = "a".repeat(LONGEST + 1);
    let planned = plan(&[
        ("out/x", file("x")),
        ("out/y", ABSENT),
        ("f/x", file("x")),
        ("l", link("d")),
        ("l/x", file("x")),
        ("was", ABSENT),
        ("was/x", file("y")),
        ("", DIRECTORY),
        ("/etc/x", file("x")),
        ("d/../../x", file("x")),
        ("d//y", file("x")),
        ("d/\0", file("x")),
        ("twice", file("x")),
        ("twice", ABSENT),
        (&deep, file("x")),
        (&long, file("x")),
        ("d/x", ABSENT),
        ("d/z/x", file("x")),
        ("Same", link("d")),
        ("same/x", file("x")),
    ]);
    let (no, long) = (UNCHECKED, TOO_LONG);
    let expected = [
        no, no, no, "", no, "", no, no, no, no, no, no, no, no, long, long, "", "", "", no,
    ];
    assert_eq!(rules_of(&judged(&tree, &planned)), expected);
    // A directory in the place of a link or a file is one.
    let planned = plan(&[
        ("out", DIRECTORY),
        ("out/x", file("x")),
        ("f", DIRECTORY),
        ("f/x", file("x")),
    ]);
    assert_eq!(judged(&tree, &planned), vec![None; 4]);
}

#[test]
fn only_contents_that_count_are_read() {
    let tree = Tree::new(&["b/objects/", "b/refs/"]);
    let unreadable = |path: &str| Planned {
        path: path.into(),
        becomes: Becomes::File(Box::new(|_| Err(std::io::Error::other("no")))),
    };
    let found = judged(
        &tree,
        &[unreadable("a"), unreadable("b/config"), unreadable("b/x")],
    );
    assert_eq!(rules_of(&found), ["", UNCHECKED, ""]);
}
