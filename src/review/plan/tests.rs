//! What is planned for changes of single files, and on hosts of every kind.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::changes::{Differing, changes};
use super::*;

/// A text and its mode; `None`: nothing.
type Side = Option<(&'static str, u32)>;

/// A guest's change of a path: before and after.
type Changed = (&'static str, Side, Side);

/// What is planned for each path, in words, with the mode of a new file. `host` makes the host's directory.
fn planned(
    host: impl Fn(&Path),
    changed: &[Changed],
    gone: &[&str],
    hunks: Option<&[usize]>,
) -> Vec<(String, String)> {
    planned_with_umask(0o022, host, changed, gone, hunks)
}

fn planned_with_umask(
    umask: u32,
    host: impl FnOnce(&Path),
    changed: &[Changed],
    gone: &[&str],
    hunks: Option<&[usize]>,
) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["root", "contents"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    host(&dir.path().join("root"));
    let contents = Contents::at(dir.path().join("contents"));
    let entry = |side: Side| {
        side.map(|(text, mode)| match text {
            "DIR" => Entry::Directory { mode },
            text => file(text.as_bytes(), mode, &contents).unwrap(),
        })
    };
    let differing = changed.iter().map(|(path, old, new)| Differing {
        path: path.as_bytes().to_vec(),
        old: entry(*old),
        new: entry(*new),
    });
    let changes = changes(differing.collect());
    let hunks = hunks.map(|hunks| hunks.iter().copied().collect());
    let taken: Vec<_> = changes
        .iter()
        .map(|change| (change, hunks.as_ref()))
        .collect();
    let gone = gone.iter().map(|path| path.as_bytes().to_vec()).collect();
    let directory = File::open(dir.path().join("root")).unwrap();
    let root = Root::new(directory.as_fd()).with_umask(umask);
    let plans = plan(&taken, &gone, &root, &contents).unwrap();
    let word = |planned: &Planned| {
        let what = match &planned.outcome {
            Outcome::Already => "already".to_owned(),
            Outcome::Conflict(why) => format!("conflict: {why}"),
            Outcome::Do(operation, what) => match &operation.new {
                Some(Entry::File { mode, .. }) => format!("{what} {mode:o}"),
                Some(Entry::Directory { mode }) => format!("directory {mode:o}"),
                _ => (*what).to_owned(),
            },
        };
        (escape(&planned.path), what)
    };
    plans.iter().map(word).collect()
}

fn files(files: &'static [(&'static str, &'static str)]) -> impl Fn(&Path) {
    move |root| {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

const OLD: Side = Some(("text\n", 0o644));

#[test]
fn both_paths_of_a_renamed_file_conflict_if_one_does() {
    let renamed = [("new", None, OLD), ("old", OLD, None)];
    for host in [
        files(&[("old", "text\n"), ("new", "the host's\n")]),
        files(&[("old", "the host's\n")]),
    ] {
        let all = planned(host, &renamed, &[], None);
        assert_eq!(all.len(), 2);
        let conflicts = all.iter().all(|(_, what)| what.starts_with("conflict"));
        assert!(conflicts, "{all:?}");
    }
    let all = planned(files(&[("old", "text\n")]), &renamed, &[], None);
    let expected = [("old", "removed"), ("new", "written 644")];
    assert_eq!(all, expected.map(|(path, what)| (path.into(), what.into())));
}

#[test]
fn all_hunks_are_the_whole_change() {
    let host = files(&[("a", "1\n2\n3\n4\n5\n6\n7\n8\n9\n")]);
    let old = Some(("1\n2\n3\n4\n5\n6\n7\n8\n9\n", 0o644));
    let new = Some(("one\n2\n3\n4\n5\n6\n7\n8\nnine\n", 0o777));
    let what = |new, hunks: &[usize]| {
        planned(&host, &[("a", old, new)], &[], Some(hunks))
            .remove(0)
            .1
    };
    assert_eq!(what(None, &[1]), "removed");
    // The right to execute is in no hunk, so it comes with the last one.
    assert_eq!(what(new, &[1]), "written 644");
    assert_eq!(what(new, &[1, 2]), "written 755");
}

#[test]
fn of_a_guests_mode_only_the_right_to_execute_counts() {
    for (guest, host) in [
        (0o777, 0o755),
        (0o666, 0o644),
        (0o000, 0o644),
        (0o700, 0o755),
        (0o6755, 0o755),
        (0o444, 0o644),
    ] {
        let all = planned(|_| {}, &[("a", None, Some(("text\n", guest)))], &[], None);
        assert_eq!(all[0].1, format!("written {host:o}"), "{guest:o}");
        // The file that the host has keeps its mode, but for that right.
        let changed = [("a", OLD, Some(("new\n", guest)))];
        let all = planned(files(&[("a", "text\n")]), &changed, &[], None);
        let kept = if guest & 0o100 == 0 { 0o644 } else { 0o755 };
        assert_eq!(all[0].1, format!("written {kept:o}"), "{guest:o}");
    }
    let all = planned(|_| {}, &[("d", None, Some(("DIR", 0o777)))], &[], None);
    assert_eq!(all[0].1, "directory 755");
    let modes = [
        (0o600, 0o755),
        (0o4711, 0o666),
        (0o664, 0o666),
        (0o4755, 0o777),
    ];
    let modes = modes.map(|(kept, guest)| host_mode(kept, guest));
    assert_eq!(modes, [0o700, 0o600, 0o664, 0o755]);
}

#[test]
fn what_is_new_lacks_the_permissions_that_the_users_files_lack() {
    for (umask, modes) in [
        (0o002, ["664", "775", "775"]),
        (0o077, ["600", "700", "700"]),
        (0o777, ["0", "100", "0"]),
    ] {
        let changed = [
            ("a", None, OLD),
            ("b", None, Some(("text\n", 0o755))),
            ("c", None, Some(("DIR", 0o755))),
        ];
        let all = planned_with_umask(umask, |_| {}, &changed, &[], None);
        let modes = modes.map(|mode| format!(" {mode}"));
        for ((_, what), mode) in all.iter().zip(modes) {
            assert!(what.ends_with(&mode), "{umask:o}: {what}");
        }
    }
    // A file that the host has keeps its mode.
    let changed = [("a", OLD, Some(("new\n", 0o644)))];
    let all = planned_with_umask(0o077, files(&[("a", "text\n")]), &changed, &[], None);
    assert_eq!(all[0].1, "written 644");
}

#[test]
fn a_directory_in_which_the_host_has_files_is_not_replaced() {
    let dir = Some(("DIR", 0o755));
    let changed = [
        ("d", dir, OLD),
        ("d/a", OLD, None),
        ("d/s", dir, None),
        ("d/s/b", OLD, None),
        ("e", None, OLD),
    ];
    let gone = ["d/s"];
    let conflicts = |host: &dyn Fn(&Path)| -> Vec<String> {
        let all = planned(host, &changed, &gone, None);
        let conflicts = all
            .into_iter()
            .filter(|(_, what)| what.starts_with("conflict"));
        conflicts.map(|(path, _)| path).collect()
    };
    let mine = files(&[("d/a", "text\n"), ("d/s/b", "text\n")]);
    assert_eq!(conflicts(&mine), Vec::<String>::new());
    for more in ["d/built", "d/s/built"] {
        let host = |root: &Path| {
            mine(root);
            fs::write(root.join(more), "the host's").unwrap();
        };
        assert_eq!(conflicts(&host), ["d"], "{more}");
    }
    // What is removed there conflicts, so the directory stays.
    let host = files(&[("d/a", "the host's\n"), ("d/s/b", "text\n")]);
    assert_eq!(conflicts(&host), ["d", "d/a"]);
    // The host has removed a file itself: its empty directory is none.
    let host = |root: &Path| {
        files(&[("d/a", "text\n")])(root);
        fs::create_dir(root.join("d/s")).unwrap();
    };
    assert_eq!(conflicts(&host), Vec::<String>::new());
}

#[test]
fn nothing_is_planned_below_a_file_or_a_link_of_the_host() {
    let changed = [
        ("d", OLD, Some(("DIR", 0o755))),
        ("d/s/x", None, OLD),
        ("e", None, OLD),
    ];
    let conflicts = |host: &dyn Fn(&Path), changed: &[Changed]| -> Vec<String> {
        let all = planned(host, changed, &[], None);
        let conflicts = all
            .into_iter()
            .filter(|(_, what)| what.starts_with("conflict"));
        conflicts.map(|(path, _)| path).collect()
    };
    assert_eq!(
        conflicts(&files(&[("d", "text\n")]), &changed),
        Vec::<String>::new()
    );
    let changed_file = files(&[("d", "the host's\n")]);
    assert_eq!(conflicts(&changed_file, &changed), ["d", "d/s/x"]);
    assert_eq!(
        conflicts(&files(&[("d", "text\n")]), &changed[1..]),
        ["d/s/x"]
    );
    let link = |root: &Path| symlink("/tmp", root.join("d")).unwrap();
    assert_eq!(conflicts(&link, &changed[1..]), ["d/s/x"]);
    // A file that cannot come does not leave its old name either.
    let moved = [
        ("a", Some(("moved\n", 0o644)), None),
        ("d/s/x", None, Some(("moved\n", 0o644))),
    ];
    let host = files(&[("a", "moved\n"), ("d", "the host's\n")]);
    assert_eq!(conflicts(&host, &moved), ["a", "d/s/x"]);
}
