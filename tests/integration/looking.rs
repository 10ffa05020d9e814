//! To look changes nothing: no subcommand that only shows something makes, changes or removes a file.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::PROGRAM;

/// Every subcommand that only looks, with the exit status that it may have in an empty home.
const LOOKING: &[&[&str]] = &[
    &["--version"],
    &["--help"],
    &["snapshot", "list"],
    &["snapshot", "ls", "--json"],
    &["snapshot", "--name", "foo", "list"],
    &["snapshot", "delete", "never-saved"],
    &["snapshot", "restore", "never-saved"],
    &["image", "ls"],
    &["image", "ls", "--json"],
    &["image", "inspect", "debian"],
    &["image", "inspect", "never-made"],
    &["ls"],
    &["ls", "--json"],
    &["status"],
    &["logs"],
    &["config"],
    &["doctor"],
    &["doctor", "--json"],
    &["ssh-config"],
    &["completions", "bash"],
    &["completions", "zsh"],
    &["completions", "fish"],
];

/// What is known of each path below a directory without opening it.
fn tree(dir: &Path, all: &mut BTreeMap<PathBuf, (u32, u64, i64, i64)>) {
    let meta = dir.symlink_metadata().unwrap();
    let seen = (meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec());
    all.insert(dir.to_owned(), seen);
    if meta.is_dir() {
        for entry in dir.read_dir().unwrap() {
            tree(&entry.unwrap().path(), all);
        }
    }
}

/// Runs each subcommand in that home; gives those after which it is another.
fn changing(home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for arguments in LOOKING {
        let before = seen(home);
        let output = Command::new(PROGRAM)
            .args(*arguments)
            .current_dir(home.join("project"))
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("runtime"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code().is_some_and(|code| code < 126),
            "{arguments:?}: {said}"
        );
        let after = seen(home);
        if before != after {
            let new: Vec<_> = after
                .iter()
                .filter(|(path, what)| before.get(*path) != Some(what))
                .collect();
            found.push(format!("{arguments:?} {new:?}"));
        }
    }
    found
}

fn seen(home: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut all = BTreeMap::new();
    tree(home, &mut all);
    all
}

fn private_dir(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(path, mode).unwrap();
}

#[test]
fn looking_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for dir in ["project", "runtime"] {
        private_dir(&home.join(dir));
    }
    let found = changing(home);
    assert!(found.is_empty(), "where nothing is: {found:#?}");
    let data = home.join(".local/share/snowglobe");
    for dir in [
        &data,
        &home.join(".cache/snowglobe"),
        &home.join("runtime/snowglobe"),
    ] {
        private_dir(dir);
    }
    let found = changing(home);
    assert!(
        found.is_empty(),
        "where the directories are empty: {found:#?}"
    );
    // What a sweep would take: a disk that no record names, a dead sandbox's directories, half a download.
    for dir in [
        "images/names",
        "images/disks",
        "images/uses",
        "images/removed",
        "images/building/x",
        "images/partial",
        "images/blobs/sha256",
        "sandboxes/old/snapshots",
        "sandboxes/old/layers",
        "sandboxes/old/run/dead",
        "sandboxes/old@0123456789abcdef",
    ] {
        private_dir(&data.join(dir));
    }
    for file in [
        "images/lock",
        "images/disks/0123456789abcdef0123456789abcdef.raw",
        "images/uses/0123456789abcdef0123456789abcdef.0",
        "images/removed/0123456789abcdef0123456789abcdef.raw",
        "images/partial/half",
        "sandboxes/old/layers/0.qcow2",
        "sandboxes/old@0123456789abcdef/session",
    ] {
        std::fs::write(data.join(file), "x").unwrap();
    }
    let dead = home.join("runtime/snowglobe/deadbeef");
    private_dir(&dead);
    std::fs::write(dead.join("lock"), "").unwrap();
    let found = changing(home);
    assert!(
        found.is_empty(),
        "where a sweep would take something: {found:#?}"
    );
}
