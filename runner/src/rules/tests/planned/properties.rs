//! What holds for any changes that are planned together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::super::planned::Planned;
use super::super::super::{Finding, names};
use super::super::properties::harm;
use super::super::tree::Tree;
use super::{ABSENT, DIRECTORY, Entry, entries, judged, planned};

/// A path of names that matter; `alike`: also of names that a file system may take for one of them.
fn path(alike: bool) -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("hooks"),
        Just("config"),
        Just("objects"),
        Just("refs"),
        Just("HEAD"),
        Just(if alike { "commondir" } else { "y" }),
        Just("a"),
        Just("pre-commit"),
        Just(".vscode"),
        Just(if alike { "OBJECTS" } else { "b" }),
        Just(if alike { "Config" } else { "refs" }),
    ];
    proptest::collection::vec(name, 0..3).prop_flat_map(|names| {
        let last = prop_oneof![
            Just("hooks"),
            Just("config"),
            Just("objects"),
            Just("refs"),
            Just("HEAD"),
            Just("pre-commit"),
            Just("x"),
        ];
        last.prop_map(move |last| [&names[..], &[last]].concat().join("/"))
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let text = |text: &str| Entry::File(text.into(), text.len() as u64);
    prop_oneof![
        4 => Just(Entry::Directory),
        2 => Just(text("[core]\n\tbare = no\n")),
        2 => Just(text("[core]\n\tpager = x\n")),
        1 => Just(Entry::Link("../x".into())),
    ]
}

/// Entries of a tree, or changes to one, without those that others leave no place.
fn fitting<T: Clone>(
    all: Vec<(String, T)>,
    is_directory: impl Fn(&[u8], Option<&T>) -> bool,
) -> BTreeMap<Vec<u8>, T> {
    let all: BTreeMap<Vec<u8>, T> = all
        .into_iter()
        .map(|(path, it)| (path.into_bytes(), it))
        .collect();
    let mut kept = BTreeMap::new();
    for (path, it) in all {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = ends.map(|(end, _)| &path[..end]);
        if above.all(|path| is_directory(path, kept.get(path))) {
            kept.insert(path, it);
        }
    }
    kept
}

/// The entries of a tree and changes to it, some of which have no place.
type Made = (Vec<(String, Entry)>, Vec<(String, Option<Entry>)>);

/// A tree and changes to it.
type Case = (Tree, BTreeMap<Vec<u8>, Option<Entry>>);

fn case((tree, changes): Made) -> Case {
    let mut tree = fitting(tree, |_, above| {
        matches!(above, None | Some(Entry::Directory))
    });
    // The host has no half of a repository that git would take for a whole one.
    tree.retain(|path, entry| {
        let marks: [&[u8]; 3] = [b"objects", b"refs", b"HEAD"];
        let is_link = matches!(entry, Entry::Link(_)) && marks.contains(&names::parent(path).1);
        !is_link && !names::split(path).contains(&&b"commondir"[..])
    });
    let made = Tree::new(&[]);
    make(
        &made,
        tree.iter()
            .map(|(path, entry)| (path.as_slice(), Some(entry))),
    );
    let before = entries(&made);
    let mut changes = fitting(changes, |path, above| match above {
        Some(above) => *above == DIRECTORY,
        None => matches!(before.get(path), None | Some(Entry::Directory)),
    });
    changes.retain(|path, entry| entry.is_some() || before.contains_key(path));
    (made, changes)
}

/// Makes changes, removals first.
fn make<'a>(tree: &Tree, changes: impl Iterator<Item = (&'a [u8], Option<&'a Entry>)> + Clone) {
    let remove = |path: &[u8]| {
        let at = tree.at(path);
        match at.symlink_metadata() {
            Err(_) => {}
            Ok(it) if it.is_dir() => fs::remove_dir_all(at).unwrap(),
            Ok(_) => fs::remove_file(at).unwrap(),
        }
    };
    for (path, _) in changes.clone().filter(|(_, entry)| entry.is_none()) {
        remove(path);
    }
    for (path, entry) in changes {
        let Some(entry) = entry else { continue };
        let at = tree.at(path);
        if *entry != Entry::Directory || !at.symlink_metadata().is_ok_and(|it| it.is_dir()) {
            remove(path);
        }
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match entry {
            Entry::Directory => fs::create_dir_all(at).unwrap(),
            Entry::File(text, _) => fs::write(at, text).unwrap(),
            Entry::Link(target) => symlink(OsStr::from_bytes(target), at).unwrap(),
        }
    }
}

fn cases(alike: bool) -> impl Strategy<Value = Made> {
    let change = prop_oneof![5 => entry().prop_map(Some), 1 => Just(ABSENT)];
    (
        proptest::collection::vec((path(alike), entry()), 0..12),
        proptest::collection::vec((path(alike), change), 1..12),
    )
}

fn planned_of(changes: &BTreeMap<Vec<u8>, Option<Entry>>) -> Vec<Planned> {
    changes
        .iter()
        .map(|(path, entry)| planned(path, entry.as_ref()))
        .collect()
}

/// Whether git would run something in a tree if each directory had a `HEAD`: the rules demand less of a repository than git.
fn may_harm(tree: &Tree) -> bool {
    let all = entries(tree);
    let paths = || {
        all.iter()
            .map(|(path, entry)| (path.as_slice(), Some(entry)))
    };
    let with_heads = Tree::new(&["HEAD"]);
    make(&with_heads, paths());
    for (path, _) in paths().filter(|(_, entry)| *entry == DIRECTORY.as_ref()) {
        let head = with_heads.at(&names::join(path, b"HEAD"));
        if !head.exists() {
            fs::write(head, "").unwrap();
        }
    }
    harm(&with_heads).is_some()
}

fn some(found: &[Option<Finding>]) -> bool {
    found.iter().any(Option::is_some)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_without_findings_leave_nothing_that_git_would_run(case_of in cases(true)) {
        let (tree, changes) = case(case_of);
        prop_assume!(!may_harm(&tree));
        if !some(&judged(&tree, &planned_of(&changes))) {
            make(&tree, changes.iter().map(|(path, entry)| (path.as_slice(), entry.as_ref())));
            prop_assert_eq!(harm(&tree), None);
        }
    }

    #[test]
    fn the_order_of_changes_does_not_matter(
        (case_of, order) in (cases(true), proptest::collection::vec(any::<Index>(), 12)),
    ) {
        let (tree, changes) = case(case_of);
        let mut planned = planned_of(&changes);
        let by_path = |planned: &[Planned]| -> BTreeMap<Vec<u8>, Option<Finding>> {
            let paths = planned.iter().map(|one| one.path.clone());
            paths.zip(judged(&tree, planned)).collect()
        };
        let found = by_path(&planned);
        for (at, other) in order.iter().enumerate().take(planned.len()) {
            let other = other.index(planned.len());
            planned.swap(at, other);
        }
        prop_assert_eq!(by_path(&planned), found);
    }

    /// Sets of changes that are judged and made one after another have no finding that all of them together have not:
    /// removals first, then what is replaced, then what is new. If all is new, it is also the other way round.
    #[test]
    fn changes_in_sets_have_findings_as_all_at_once(
        (case_of, sets) in (cases(false), proptest::collection::vec(2..4_usize, 12)),
    ) {
        let (tree, changes) = case(case_of);
        let at_once = judged(&tree, &planned_of(&changes));
        let before = entries(&tree);
        let mut set_of: BTreeMap<&[u8], usize> = BTreeMap::new();
        for ((path, entry), set) in changes.iter().zip(sets) {
            let above = set_of.iter().filter(|(above, _)| names::below(path, above).is_some());
            let least = above.map(|(_, set)| *set).max().unwrap_or_default();
            let set = match (entry, before.get(path)) {
                (None, _) => 0,
                (Some(_), Some(_)) => 1,
                (Some(_), None) => set.max(least),
            };
            set_of.insert(path, set);
        }
        let all_new = set_of.values().all(|set| *set >= 2);
        let mut found = false;
        for set in 0..4 {
            let mut part = changes.clone();
            part.retain(|path, _| set_of[path.as_slice()] == set);
            found |= some(&judged(&tree, &planned_of(&part)));
            make(&tree, part.iter().map(|(path, entry)| (path.as_slice(), entry.as_ref())));
        }
        prop_assert!(!found || some(&at_once), "{changes:?}: only in sets");
        prop_assert!(!all_new || found == some(&at_once), "{changes:?}: only at once: {at_once:?}");
    }
}
