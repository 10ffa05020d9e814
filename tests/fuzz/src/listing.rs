//! Any bytes are a guest's listing of its workspace, or none. What it lists becomes changes of which the odd ones are
//! flagged; applied to a directory of the host, they touch nothing outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use snowglobe::copy::Contents;
use snowglobe::review::apply::Applies;
use snowglobe::review::changes::{Change, Differing, changes};
use snowglobe::review::entry::Entry;
use snowglobe::review::flags;
use snowglobe::review::plan::{operations, plan};
use snowglobe::review::report::Selection;
use snowglobe::review::root::Root;
use snowglobe::review::select::select;
use snowglobe_init::wire::tree::{EntryKind, TreeEntry, escape, unescape};

use crate::tree;

/// What the guest's files contain: few contents, so that files look renamed.
const CONTENTS: [&str; 3] = ["", "one\n", "one\ntwo\n"];

/// The most changes that are applied.
const APPLIED: usize = 12;

/// The entries of a listing; none if it is broken.
fn listed(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, TreeEntry>> {
    let mut all = BTreeMap::new();
    while !bytes.is_empty() {
        let (entry, rest) = TreeEntry::decode(bytes)?;
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(again, bytes[..bytes.len() - rest.len()]);
        assert_eq!(unescape(&escape(&entry.path)), entry.path);
        all.insert(entry.path.clone(), entry);
        bytes = rest;
    }
    Some(all)
}

fn file(number: u64, mode: u32, contents: &Contents) -> Entry {
    let content = CONTENTS[(number % 3) as usize];
    let size = content.len() as u64;
    let hash = contents.add(&mut content.as_bytes(), size);
    Entry::File {
        hash: hash.expect("there is room"),
        size,
        mode,
    }
}

/// What an entry is beside what the copy began with: the time of its last change says what that was.
fn differing(entry: &TreeEntry, contents: &Contents) -> Differing {
    let old = match entry.ctime_ns % 3 {
        0 => None,
        _ => Some(file(entry.ctime_ns.unsigned_abs() / 3, 0o644, contents)),
    };
    let new = match entry.kind {
        EntryKind::File => Some(file(entry.size, entry.mode, contents)),
        EntryKind::Directory => Some(Entry::Directory { mode: entry.mode }),
        EntryKind::Link => Some(Entry::Link {
            target: escape(&entry.target),
        }),
        EntryKind::Other | EntryKind::Absent => None,
    };
    Differing {
        path: entry.path.clone(),
        old,
        new,
    }
}

/// Nothing odd is applied by a person who names nothing.
fn check_flags(changes: &[Change]) {
    let chosen = select(changes, &Selection::default(), |_| 1).expect("nothing is named");
    for index in chosen.into_keys() {
        let change = &changes[index];
        let links_outside = match &change.new {
            Some(Entry::Link { target }) => flags::leads_outside(&change.path, &unescape(target)),
            _ => false,
        };
        let special = matches!(&change.new, Some(Entry::File { mode, .. }) if mode & 0o6000 != 0);
        let unreadable = change.new.is_some() && std::str::from_utf8(&change.path).is_err();
        assert!(
            !links_outside && !special && !unreadable,
            "it is not flagged: {change:?}"
        );
    }
}

/// Applies each change alone, then all together. The directory has a neighbour, which must stay as it is.
fn apply(changes: &[Change], dir: &Path, contents: &Contents) {
    let (root, outside) = (dir.join("root"), dir.join("outside"));
    for path in [&root, &outside] {
        fs::create_dir(path).expect("there is room");
    }
    fs::write(outside.join("file"), CONTENTS[1]).expect("there is room");
    std::os::unix::fs::symlink("../outside", root.join("a")).expect("there is room");
    let directory = File::open(&root).expect("it is there");
    let host = Root::new(directory.as_fd());
    let applies = Applies::open(&dir.join("applies")).expect("there is room");
    let taken: Vec<_> = changes.iter().take(APPLIED).collect();
    let taken: Vec<_> = taken.into_iter().map(|change| (change, None)).collect();
    let gone = BTreeSet::new();
    let parts = taken.iter().map(|one| vec![*one]);
    for part in parts.chain([taken.clone()]) {
        let planned = plan(&part, &gone, &host, contents);
        let made = planned.and_then(|plans| operations(&plans, &gone, &host, contents));
        if let Ok(made) = made {
            let _ = applies.apply(&host, made, contents);
        }
    }
    let left: Vec<_> = fs::read_dir(&outside).expect("it is there").collect();
    assert_eq!(left.len(), 1, "something is outside");
    let text = fs::read_to_string(outside.join("file")).expect("it is there");
    assert_eq!(text, CONTENTS[1], "a file outside was changed");
}

pub(crate) fn play(bytes: &[u8]) {
    let Some(listed) = listed(bytes) else { return };
    let dir = tree::directory();
    let kept = dir.path().join("contents");
    fs::create_dir(&kept).expect("there is room");
    let contents = Contents::at(kept);
    let all = listed.values().map(|entry| differing(entry, &contents));
    let mut changes = changes(all.collect());
    flags::mark(&mut changes, listed.keys().map(Vec::as_slice), |_| false);
    for change in &changes {
        assert!(listed.contains_key(&change.path), "{change:?}");
    }
    check_flags(&changes);
    if !changes.is_empty() {
        apply(&changes, dir.path(), &contents);
    }
}
