//! The host's view of a real directory.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::system::users::{Account, account};
use crate::wire::tree::{EntryKind, Placed, PlacedResult, TreeEntry, UNREADABLE, escape};
use crate::wire::{Report, User};

fn decoded(mut bytes: &[u8]) -> Vec<TreeEntry> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (entry, rest) = TreeEntry::decode(bytes).unwrap();
        all.push(entry);
        bytes = rest;
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn listed(root: &Path, ignore: bool, excludes: &str) -> Vec<TreeEntry> {
    let mut bytes = Vec::new();
    let mut send = |piece: Vec<u8>| {
        bytes.extend(piece);
        true
    };
    list(root, ignore, excludes, &mut send).unwrap();
    decoded(&bytes)
}

fn paths(entries: &[TreeEntry]) -> Vec<String> {
    entries.iter().map(|entry| escape(&entry.path)).collect()
}

/// The account that this process has, so that a test needs no privileges.
fn me() -> Account {
    let mut me = account(Path::new("/"), User::Root, None);
    me.credentials.uid = rustix::process::geteuid().as_raw();
    me.credentials.gid = rustix::process::getegid().as_raw();
    me
}

fn placed(root: &Path, changes: &[Placed], input: &[u8]) -> Vec<PlacedResult> {
    match place(root, &me(), changes, &mut &*input).unwrap() {
        Report::Placed { results } => results,
        other => panic!("{other:?}"),
    }
}

fn change(path: &str, kind: EntryKind, size: u64) -> Placed {
    Placed {
        path: path.into(),
        kind,
        mode: 0o644,
        mtime_ns: 1_000_000_001_000_000_002,
        size,
        target: String::new(),
    }
}

#[test]
fn all_is_listed_but_git_and_what_it_ignores() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for path in [".git/info", "sub/.git", "target", "sub/deep"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join(".gitignore"), "target/\n*.log\n").unwrap();
    fs::write(root.join(".git/info/exclude"), "private\n").unwrap();
    for path in [
        "a.log",
        "target/x",
        "private",
        "sub/deep/f",
        ".hidden",
        "mine",
    ] {
        fs::write(root.join(path), path).unwrap();
    }
    symlink("sub/deep", root.join("link")).unwrap();
    let odd = OsStr::from_bytes(b"odd\xff\n");
    fs::write(root.join(odd), "x").unwrap();
    let all = listed(root, true, "mine\n");
    let expected = [
        ".gitignore",
        ".hidden",
        "link",
        "odd%FF%0A",
        "sub",
        "sub/deep",
        "sub/deep/f",
    ];
    assert_eq!(paths(&all), expected);
    assert_eq!(all[2].target, b"sub/deep");
    assert_eq!(all[2].kind, EntryKind::Link);
    assert_eq!(all[6].size, 10);
    let meta = fs::metadata(root.join("sub/deep/f")).unwrap();
    let ns = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    assert_eq!(all[6].mtime_ns, ns(meta.mtime(), meta.mtime_nsec()));
    assert_eq!(all[6].ctime_ns, ns(meta.ctime(), meta.ctime_nsec()));
    let everything = paths(&listed(root, false, "mine\n"));
    for path in ["a.log", "target/x", "private", "mine"] {
        assert!(everything.contains(&path.to_owned()), "{path}");
    }
    assert!(!everything.iter().any(|path| path.contains(".git/")));
}

#[test]
fn single_paths_are_looked_at_and_no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "12345").unwrap();
    symlink("d", root.join("l")).unwrap();
    let mut bytes = Vec::new();
    let asked: Vec<_> = ["d/f", "l", "l/f", "none", "../etc"]
        .map(String::from)
        .into();
    look(root, &asked, &mut |piece| {
        bytes.extend(piece);
        true
    })
    .unwrap();
    let kind_of = |path: &str| {
        let all = decoded(&bytes);
        all.iter()
            .find(|entry| entry.path == path.as_bytes())
            .unwrap()
            .kind
    };
    assert_eq!(kind_of("d/f"), EntryKind::File);
    assert_eq!(kind_of("l"), EntryKind::Link);
    for path in ["l/f", "none", "../etc"] {
        assert_eq!(kind_of(path), EntryKind::Absent, "{path}");
    }
}

#[test]
fn contents_come_after_their_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let long = vec![7; 200_000];
    fs::write(root.join("long"), &long).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    symlink("long", root.join("link")).unwrap();
    let mut bytes = Vec::new();
    let asked: Vec<_> = ["long", "empty", "link", "none", "long"]
        .map(String::from)
        .into();
    fetch(root, &asked, 300_000, &mut |piece| {
        bytes.extend(piece);
        true
    })
    .unwrap();
    let mut expected = 200_000_u64.to_le_bytes().to_vec();
    expected.extend(&long);
    expected.extend(0_u64.to_le_bytes());
    for _ in 0..3 {
        // A link, no file, and one that would exceed the bound.
        expected.extend(UNREADABLE.to_le_bytes());
    }
    assert!(bytes == expected, "{} bytes", bytes.len());
}

#[test]
fn changes_are_made_and_a_failed_one_ends_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("full")).unwrap();
    fs::write(root.join("full/x"), "").unwrap();
    fs::create_dir(root.join("was-dir")).unwrap();
    fs::write(root.join("was-file"), "old").unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    let link = Placed {
        target: "a%20b".into(),
        ..change("new/link", EntryKind::Link, 0)
    };
    let changes = [
        change("new/deep/f", EntryKind::File, 3),
        change("full", EntryKind::Absent, 0),
        change("out/f", EntryKind::File, 2),
        link,
        change("was-dir", EntryKind::File, 1),
        Placed {
            mode: 0o755,
            ..change("was-file", EntryKind::Directory, 0)
        },
        change("none/at/all", EntryKind::Absent, 0),
        change("full/x", EntryKind::Absent, 0),
    ];
    let results = placed(root, &changes, b"onetw!");
    let done: Vec<_> = results
        .iter()
        .map(|result| matches!(result, PlacedResult::Done(_)))
        .collect();
    assert_eq!(
        done,
        [true, false, false, true, true, true, true, true],
        "{results:?}"
    );
    assert_eq!(fs::read(root.join("new/deep/f")).unwrap(), b"one");
    assert_eq!(fs::read(root.join("was-dir")).unwrap(), b"!");
    assert_eq!(
        fs::read_link(root.join("new/link")).unwrap(),
        Path::new("a b")
    );
    assert!(root.join("was-file").is_dir() && !root.join("full/x").exists());
    assert_eq!(
        fs::read_dir(outside.path()).unwrap().count(),
        0,
        "a link was followed"
    );
    let meta = fs::metadata(root.join("new/deep/f")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_001, 2));
    assert_eq!(meta.permissions().mode() & 0o777, 0o644);
    let PlacedResult::Done(ctime) = results[0] else {
        unreachable!()
    };
    assert_eq!(ctime, meta.ctime() * 1_000_000_000 + meta.ctime_nsec());
    let short = placed(root, &[change("short", EntryKind::File, 9)], b"12");
    assert!(matches!(&short[0], PlacedResult::Failed(why) if why.contains("2 of 9")));
    assert!(!root.join("short").exists() && !root.join("short").is_symlink());
}

/// A reader that gives a part of a content, and then ends the process that reads, as far as that one can tell.
struct Killer(usize);

impl io::Read for Killer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(self.0 > 0, "killed");
        let length = self.0.min(buffer.len());
        buffer[..length].fill(b'x');
        self.0 -= length;
        Ok(length)
    }
}

#[test]
fn what_a_killed_machine_left_of_a_file_goes_when_it_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let changes = [change("d/f", EntryKind::File, 9)];
    let killed = std::panic::catch_unwind(|| place(root, &me(), &changes, &mut Killer(5)).is_ok());
    assert!(killed.is_err());
    let left = || fs::read_dir(root.join("d")).unwrap().count();
    assert_eq!((left(), root.join("d/f").exists()), (1, false));
    let again = placed(root, &changes, b"whole now");
    assert!(matches!(again[0], PlacedResult::Done(_)), "{again:?}");
    assert_eq!(left(), 1);
    assert_eq!(fs::read(root.join("d/f")).unwrap(), b"whole now");
}
