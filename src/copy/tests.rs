//! Real directories, real git, and the disk as e2fsck and its reader see it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

fn git(dir: &Path, words: &[&str]) {
    let done = Command::new("git")
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(words)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "{words:?}: {done:?}");
}

fn paths(listing: &Listing) -> Vec<String> {
    let files = listing.entries.keys().filter(|path| !is_of_git(path));
    files
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect()
}

fn listed(root: &Path) -> Listing {
    Listing::of(root, None, Which::NotIgnored, &|_| false).unwrap()
}

#[test]
fn nothing_is_looked_up_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "-q"]);
    for path in ["d/e/f", "real/e/f"] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    }
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-qm", "one"]);
    fs::remove_dir_all(root.join("d")).unwrap();
    symlink("real", root.join("d")).unwrap();
    // Git names the link, then what it tracks below the directory that was there.
    assert_eq!(paths(&listed(&root)), ["d", "real", "real/e", "real/e/f"]);
}

#[test]
fn what_git_tracks_and_does_not_ignore_belongs_to_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let inner = tempfile::tempdir().unwrap();
    git(inner.path(), &["init", "-q"]);
    fs::write(inner.path().join("in-submodule"), "").unwrap();
    git(inner.path(), &["add", "-A"]);
    git(inner.path(), &["commit", "-qm", "one"]);
    git(&root, &["init", "-q"]);
    fs::write(root.join(".gitignore"), "target/\n*.log\n").unwrap();
    for path in [
        "tracked.log",
        "a.log",
        "new",
        "d/e",
        "target/x",
        "nested/n",
        "nested/ignored.o",
    ] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    }
    git(&root, &["add", "-f", "tracked.log", ".gitignore"]);
    git(
        &root,
        &[
            "submodule",
            "--quiet",
            "add",
            inner.path().to_str().unwrap(),
            "sub",
        ],
    );
    git(&root, &["commit", "-qm", "one"]);
    fs::write(root.join("gone"), "").unwrap();
    git(&root, &["add", "gone"]);
    fs::remove_file(root.join("gone")).unwrap();
    git(&root.join("nested"), &["init", "-q"]);
    fs::write(root.join("nested/.gitignore"), "*.o\n").unwrap();
    symlink("nowhere", root.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("target/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff odd\n");
    fs::write(root.join(odd), "").unwrap();
    let listing = listed(&root);
    let expected = [
        ".gitignore",
        ".gitmodules",
        "d",
        "d/e",
        "link",
        "nested",
        "nested/.gitignore",
        "nested/n",
        "new",
        "sub",
        "sub/in-submodule",
        "tracked.log",
        "\u{fffd} odd\n",
    ];
    assert_eq!(paths(&listing), expected);
    assert!(listing.of_git);
    for path in [
        ".git/HEAD",
        ".git/modules/sub/HEAD",
        "nested/.git/HEAD",
        "sub/.git",
    ] {
        assert!(listing.entries.contains_key(path.as_bytes()), "{path}");
    }
    let all = Listing::of(&root, None, Which::All, &|path| path.starts_with(b"d")).unwrap();
    let is_ignored = |path: &str| all.entries.get(path.as_bytes()).map(|entry| entry.ignored);
    for path in ["target", "target/x", "a.log", "nested/ignored.o"] {
        assert_eq!(is_ignored(path), Some(true), "{path}");
    }
    for path in paths(&listing) {
        let hidden = path.starts_with('d');
        let expected = (!hidden && path != "\u{fffd} odd\n").then_some(false);
        assert_eq!(is_ignored(&path), expected, "{path:?}");
    }
    assert!(all.of_git && all.left_out.iter().any(|(path, _)| path == b"target/fifo"));
}

#[test]
fn what_git_ignores_is_copied_and_compared_no_more() {
    let (dir, bases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path();
    git(root, &["init", "-q"]);
    fs::write(root.join(".gitignore"), "*.o\n").unwrap();
    for path in ["a", "a.o", "b.o"] {
        fs::write(root.join(path), path).unwrap();
    }
    let all = Listing::of(root, None, Which::All, &|_| false).unwrap();
    let base = Base::write(bases.path(), root, all, (1, 1)).unwrap();
    assert_eq!(Base::open(base.dir()).unwrap().entries(), base.entries());
    let mut began = Began::with(base);
    let seen = |began: &Began| {
        let all = began.all().into_keys().filter(|path| !is_of_git(path));
        all.collect::<Vec<_>>()
    };
    assert_eq!(seen(&began), [b".gitignore".to_vec(), b"a".to_vec()]);
    assert!(began.get(b"a.o").is_none() && began.get_also_ignored(b"a.o").is_some());
    let known = began.get_also_ignored(b"a.o");
    began.set_ignored(b"c.o", known.clone());
    began.set(b"b.o", known);
    let name = began.write(bases.path()).unwrap();
    let read = Began::read(began.base().dir(), bases.path(), &name).unwrap();
    let expected = [b".gitignore".to_vec(), b"a".to_vec(), b"b.o".to_vec()];
    assert_eq!(seen(&read), expected, "git ignores `b.o` no more");
    assert!(read.all_also_ignored().contains_key(&b"c.o"[..]));
    let contents = Contents::at(bases.path().to_owned());
    let mut bytes = Vec::new();
    let mut files = read.reader(&contents).unwrap();
    files.read(b"a.o", &mut bytes).unwrap();
    assert_eq!(bytes, b"a.o");
}

#[test]
fn a_directory_without_git_is_listed_whole() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/c"), "x").unwrap();
    fs::write(dir.path().join(".gitignore"), "a\n").unwrap();
    let listing = listed(dir.path());
    assert_eq!(paths(&listing), [".gitignore", "a", "a/b", "a/b/c"]);
    assert!(!listing.of_git);
}

#[test]
fn the_disk_has_all_and_is_sound() {
    let (dir, bases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path();
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(root.join("big"), &big).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("../outside", root.join("link")).unwrap();
    let long = "n".repeat(255);
    let odd = std::ffi::OsStr::from_bytes(b"\xc3( \n\xff");
    fs::create_dir(root.join("many")).unwrap();
    for name in (0..3000).map(|n| format!("many/f{n}")) {
        fs::write(root.join(&name), &name).unwrap();
    }
    fs::write(root.join(&long), "long").unwrap();
    fs::write(root.join(odd), "odd").unwrap();
    let base = Base::write(bases.path(), root, listed(root), (1234, 99)).unwrap();
    let disk = base.dir().join("disk.raw");
    let checked = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(&disk)
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
    let again = Base::open(base.dir()).unwrap();
    assert_eq!(again.entries(), base.entries());
    assert_eq!(
        (again.owner(), again.stamp_ns()),
        ((1234, 99), base.stamp_ns())
    );
    let contents = Contents::at(bases.path().to_owned());
    let began = Began::with(again);
    let mut files = began.reader(&contents).unwrap();
    let mut read = |path: &[u8]| {
        let mut bytes = Vec::new();
        files.read(path, &mut bytes).unwrap();
        bytes
    };
    assert!(read(b"big") == big);
    assert_eq!(read(b"empty"), b"");
    assert_eq!(read(long.as_bytes()), b"long");
    assert_eq!(read(odd.as_bytes()), b"odd");
    assert_eq!(read(b"many/f2999"), b"many/f2999");
    let mode = base.entries()[&b"run.sh"[..]].mode;
    assert_eq!(mode, 0o755, "setuid is no part of a copy");
    let shown = |command: &str| {
        let output = Command::new("/sbin/debugfs")
            .args(["-R", command])
            .arg(&disk)
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let stat = shown("stat /tree/run.sh");
    assert!(
        stat.contains("User:  1234   Group:    99") && stat.contains("Mode:  0755"),
        "{stat}"
    );
    assert!(shown("stat /tree/link").contains("../outside"));
}

#[test]
fn what_a_copy_began_with_is_stored_with_its_differences() {
    let (dir, bases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("a"), "a").unwrap();
    fs::write(dir.path().join("b"), "b").unwrap();
    let base = Base::write(bases.path(), dir.path(), listed(dir.path()), (1, 1)).unwrap();
    let contents = Contents::at(bases.path().to_owned());
    let hash = contents.add(&mut &b"newer"[..], 5).unwrap();
    let mut began = Began::with(base.clone());
    began.set(b"a", None);
    let known = Known {
        size: 5,
        content: Content::Kept(hash.clone()),
        ..began.get(b"b").unwrap()
    };
    began.set(b"b", Some(known.clone()));
    began.set(b"new\xff", Some(known.clone()));
    let name = began.write(bases.path()).unwrap();
    let read = Began::read(base.dir(), bases.path(), &name).unwrap();
    assert_eq!(read.get(b"a"), None);
    assert_eq!(
        read.all().into_keys().collect::<Vec<_>>(),
        [b"b".to_vec(), b"new\xff".to_vec()]
    );
    let mut bytes = Vec::new();
    read.reader(&contents)
        .unwrap()
        .read(b"b", &mut bytes)
        .unwrap();
    assert_eq!(bytes, b"newer");
    let tree = bases.path().join(format!("{name}.json"));
    let needed = Began::needed(&tree).unwrap();
    assert_eq!(needed.iter().collect::<Vec<_>>(), [&hash]);
    contents.add(&mut &b"other"[..], 5).unwrap();
    contents.keep_only(&needed).unwrap();
    assert!(contents.open(&hash).is_ok());
    let kept = fs::read_dir(bases.path()).unwrap();
    let hashes = kept.filter(|entry| entry.as_ref().unwrap().file_name().len() == 64);
    assert_eq!(hashes.count(), 1);
}
