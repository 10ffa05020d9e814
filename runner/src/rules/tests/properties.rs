//! Whatever git reads from a file of settings, the rules see it, too.

use std::process::Command;

use crate::git_config::{self as config, Setting};
use proptest::prelude::*;

use super::super::git::links;
use super::super::hide::Hide;
use super::super::names;
use super::super::{Change, Kind, Verdict};
use super::rules;
use super::tree::Tree;

/// What `git config --list` says: each name and value, up to the first error.
fn read_by_git(text: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c");
    std::fs::write(&file, text).unwrap();
    let output = Command::new("git")
        .args(["config", "--no-includes", "--list", "-z", "-f"])
        .arg(&file)
        .current_dir(directory.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    let mut all: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
    assert_eq!(all.pop(), Some(&b""[..]));
    all.into_iter()
        .map(|one| match one.iter().position(|byte| *byte == b'\n') {
            Some(at) => (one[..at].to_vec(), Some(one[at + 1..].to_vec())),
            None => (one.to_vec(), None),
        })
        .collect()
}

/// A setting in the same form.
fn seen(setting: Setting) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut key = setting.section.into_bytes();
    key.push(b'.');
    if !setting.subsection.is_empty() {
        key.extend([&setting.subsection[..], b"."].concat());
    }
    key.extend(setting.name.into_bytes());
    (key, setting.value)
}

/// Pieces of a file: whole lines that are right, and characters that matter.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("[core]\n".to_owned()),
        Just("[Core] pager = x\n".to_owned()),
        Just("[remote \"a.B \\\"c\\\\\"]\n".to_owned()),
        Just("[remote.A.b]\n".to_owned()),
        Just("[a.b \"c\"]".to_owned()),
        Just("\tFsMonitor = ./x # y\n".to_owned()),
        Just("name\n".to_owned()),
        Just("a-1= \"b ; c\" d \\\n e ; f\r\n".to_owned()),
        Just("x = a\\tb\\n\\\"\\\\\n".to_owned()),
        Just("; comment \\\n".to_owned()),
        Just("\u{feff}".to_owned()),
        "[ \t]{0,2}[a-zA-Z][a-zA-Z0-9-]{0,4} {0,2}= {0,2}[a-z \t\"#;!/]{0,8}\n",
        "\\[[a-zA-Z0-9.-]{0,5}( \"[a-zA-Z. \\]\\[#]{0,4}\")?\\]\n?",
        "[\\[\\]\"\\\\\r\n\t =;#a-cA-C.0-1-]{1,6}",
    ];
    proptest::collection::vec(line, 0..7).prop_map(|lines| lines.concat().into_bytes())
}

#[test]
fn the_rules_read_what_git_reads() {
    let (mut agreed, mut refused) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (agreed_ref, refused_ref) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    runner
        .run(&text(), |text| {
            let by_git = read_by_git(&text);
            let Ok(settings) = config::parse(&text) else {
                refused_ref.set(refused_ref.get() + 1);
                return Ok(());
            };
            let by_rules: Vec<_> = settings.into_iter().map(seen).collect();
            agreed_ref.set(agreed_ref.get() + usize::from(!by_rules.is_empty()));
            let by_rules: Vec<_> = by_rules
                .into_iter()
                // An empty subsection is none here, and one for git.
                .map(|(key, value)| (String::from_utf8_lossy(&key).replace("..", "."), value))
                .collect();
            for (key, value) in by_git {
                let key = String::from_utf8_lossy(&key).replace("..", ".");
                let same = |value: &Option<Vec<u8>>| value.clone().map(|value| blanks(&value));
                prop_assert!(
                    by_rules
                        .iter()
                        .any(|(name, it)| *name == key && same(it) == same(&value)),
                    "git reads {key:?} = {value:?}, the rules read {by_rules:?}"
                );
            }
            Ok(())
        })
        .unwrap();
    agreed += agreed_ref.get();
    refused += refused_ref.get();
    assert!(
        agreed > 200 && refused > 100,
        "{agreed} files read, {refused} refused"
    );
}

/// Versions of git differ in what blanks inside a value become.
fn blanks(value: &[u8]) -> Vec<u8> {
    value
        .iter()
        .map(|byte| if *byte == b'\t' { b' ' } else { *byte })
        .collect()
}

#[test]
fn what_programs_read_in_different_ways_is_refused() {
    for text in [
        &b"[core]\n\tpager = a\0b\n"[..],
        b"[core]\rpager = evil\n",
        b"pager = evil\n[core]\n",
        b"[core]\npager = a\\",
        b"[core]\npager = \"a\n",
        b"[core]\npager = \\q\n",
        b"[core\npager = x\n",
        b"[core \"a\n",
        b"[core]x]\n",
        b"[core]\n1x = y\n",
        b"\xef\xbb[core]\n",
        b"[a]\n\xef\xbb\xbf[core]\n",
        b"[core] pager \x0c= x\n",
        b"[co re]\n",
    ] {
        assert!(
            config::parse(text).is_err(),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
    let large = vec![b'\n'; config::LARGEST + 1];
    assert_eq!(config::parse(&large), Err(config::Unsure::Large));
    assert_eq!(config::parse(&large[1..]), Ok(Vec::new()));
    let read = config::parse(b"\xef\xbb\xbf[core]pager=x\r\n").unwrap();
    assert_eq!((read.len(), read[0].key()), (1, "core.pager".to_owned()));
}

/// A path of names that matter.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just(".git"),
        Just("hooks"),
        Just("config"),
        Just("objects"),
        Just("refs"),
        Just("HEAD"),
        Just("commondir"),
        Just("worktrees"),
        Just("a"),
        Just("b"),
        Just("pre-commit"),
        Just(".vscode"),
        Just("tasks.json"),
        Just(".husky"),
    ];
    proptest::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

#[derive(Debug, Clone)]
enum Step {
    Directory(String),
    File(String),
    Symlink(String, String),
    Write(String, bool),
    Link(String, String),
    Rename(String, String, bool),
    Remove(String),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => path().prop_map(Step::Directory),
        3 => path().prop_map(Step::File),
        1 => (path(), path()).prop_map(|(a, b)| Step::Symlink(a, b)),
        2 => (path(), any::<bool>()).prop_map(|(a, b)| Step::Write(a, b)),
        1 => (path(), path()).prop_map(|(a, b)| Step::Link(a, b)),
        6 => (path(), path(), any::<bool>()).prop_map(|(a, b, c)| Step::Rename(a, b, c)),
        1 => path().prop_map(Step::Remove),
    ]
}

/// All paths of a tree.
fn all(root: &std::path::Path, at: &str, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{at}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            all(root, &path, into);
        }
        into.push(path);
    }
}

/// What git would run in a tree, found by git's own notion of a repository.
pub(super) fn harm(tree: &Tree) -> Option<String> {
    let mut paths = Vec::new();
    all(tree.root(), ".", &mut paths);
    let exists = |path: String| tree.root().join(path).exists();
    paths.into_iter().find(|path| {
        let repository = |directory: &str| {
            directory.ends_with("/.git")
                || (exists(format!("{directory}/objects"))
                    && exists(format!("{directory}/refs"))
                    && exists(format!("{directory}/HEAD")))
        };
        let hook = path
            .strip_suffix("/hooks/pre-commit")
            .is_some_and(repository);
        let settings = path.strip_suffix("/config").is_some_and(|directory| {
            let text = std::fs::read_to_string(tree.root().join(path)).unwrap_or_default();
            repository(directory) && text.contains("pager")
        });
        let link = tree.root().join(path).is_symlink()
            && path
                .match_indices('/')
                .any(|(at, _)| repository(&path[..at]));
        hook || settings || link || path.contains("/.vscode")
    })
}

fn fits(tree: &Tree, step: &Step) -> bool {
    let root = tree.root();
    let at = |path: &str| root.join(path);
    let real = |path: &str| {
        let parent = at(path).parent().unwrap().to_owned();
        parent.is_dir()
            && parent.canonicalize().unwrap()
                == root
                    .canonicalize()
                    .unwrap()
                    .join(parent.strip_prefix(root).unwrap())
    };
    let there = |path: &str| real(path) && at(path).symlink_metadata().is_ok();
    let free = |path: &str| real(path) && at(path).symlink_metadata().is_err();
    let file = |path: &str| there(path) && at(path).symlink_metadata().unwrap().is_file();
    match step {
        Step::Directory(path) | Step::File(path) | Step::Symlink(path, _) => free(path),
        Step::Write(path, _) => file(path),
        Step::Link(from, to) => file(from) && free(to),
        Step::Rename(from, to, exchange) => {
            let apart =
                !to.starts_with(&format!("{from}/")) && !from.starts_with(&format!("{to}/"));
            from != to
                && apart
                && there(from)
                && if *exchange {
                    there(to)
                } else {
                    free(to) || (file(from) && file(to))
                }
        }
        Step::Remove(path) => file(path),
    }
}

fn change(step: &Step) -> Change<'_> {
    match step {
        Step::Directory(path) => Change::Create {
            path: path.as_bytes(),
            kind: Kind::Directory,
        },
        Step::File(path) => Change::Create {
            path: path.as_bytes(),
            kind: Kind::File,
        },
        Step::Symlink(path, target) => Change::Symlink {
            path: path.as_bytes(),
            target: target.as_bytes(),
        },
        Step::Write(path, harmful) => Change::Write {
            path: path.as_bytes(),
            offset: 0,
            data: if *harmful {
                b"[core]\n\tpager = x\n"
            } else {
                b"[core]\n\tbare = no\n"
            },
        },
        Step::Link(from, to) => Change::Link {
            from: from.as_bytes(),
            to: to.as_bytes(),
        },
        Step::Rename(from, to, exchange) => Change::Rename {
            from: from.as_bytes(),
            to: to.as_bytes(),
            exchange: *exchange,
        },
        Step::Remove(path) => Change::Remove {
            path: path.as_bytes(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_series_of_allowed_changes_leaves_what_git_would_run(steps in proptest::collection::vec(step(), 1..120)) {
        let tree = Tree::new(&["a/", "b/hooks/", ".git/", "a/a/b/"]);
        let rules = rules();
        for (at, step) in steps.iter().enumerate() {
            if !fits(&tree, step) {
                continue;
            }
            let change = change(step);
            if rules.check(&change, &tree) == Verdict::Allow {
                tree.apply(&change);
                prop_assert_eq!(harm(&tree), None, "{:?}", &steps[..=at]);
            }
        }
    }

    #[test]
    fn a_folded_name_stays_as_it_is(name in any::<String>()) {
        let folded = names::fold(name.as_bytes());
        prop_assert_eq!(names::fold(&folded), folded);
    }

    #[test]
    fn nothing_that_a_guest_sends_is_a_panic(
        text in proptest::collection::vec(any::<u8>(), 0..200),
        path in "[a.*/\u{130}\u{fb01}\u{200c}:~ ]{0,12}",
        pattern in "[a*?\\[\\]{}!/\\\\^,-]{0,8}",
    ) {
        let _ = config::parse(&text);
        links::todo_commands(&text);
        links::by_names(path.as_bytes(), &text, &Tree::new(&[]));
        names::fold(&text);
        if let Ok(hide) = Hide::new(&[pattern]) {
            hide.hides(path.as_bytes());
            hide.hides(&text);
        }
        let tree = Tree::new(&[".git/config="]);
        rules().check(&Change::Write { path: b".git/config", offset: 3, data: &text }, &tree);
        rules().check(&Change::Symlink { path: path.as_bytes(), target: &text }, &tree);
    }
}
