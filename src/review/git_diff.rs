//! The diff of a change, in git's format, so that `git apply` reads it. Pure, but for contents that are read by hash.
//!
//! As in git's own diffs, a binary file is only named, and a file whose place a link takes is removed and added. Git knows no
//! directories, so a line that is no part of a diff names them; `git apply` passes over it.

use snowglobe_init::wire::tree::unescape;

use super::changes::Change;
use super::diff::{self, TextDiff};
use super::entry::{Entry, executable};
use super::names::{in_head, quoted};

/// What a person sees of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The diff, with its head.
    pub text: Vec<u8>,
    /// The hunks, if both sides are text.
    pub hunks: Option<TextDiff>,
}

/// Gives a content by its hash and its size in bytes, or none if it is too long to be shown.
pub type Read<'a, E> = dyn FnMut(&str, u64) -> Result<Option<Vec<u8>>, E> + 'a;

/// The diff of a change. `read` gives a content by its hash, or none if it is too long to be shown.
pub fn shown<E>(change: &Change, read: &mut Read<'_, E>) -> Result<Shown, E> {
    let is_directory = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_directory);
    let is_link = |entry: &Entry| matches!(entry, Entry::Link { .. });
    let mut text = Vec::new();
    let has_directory = is_directory(&change.old) || is_directory(&change.new);
    if has_directory {
        let name = quoted("", &change.path);
        let (old, new) = (in_words(&change.old), in_words(&change.new));
        text.extend_from_slice(format!("{name}: {old} -> {new}\n").as_bytes());
    }
    let old = change.old.as_ref().filter(|old| !old.is_directory());
    let new = change.new.as_ref().filter(|new| !new.is_directory());
    let hunks = match (old, new) {
        (None, None) => None,
        (Some(one), Some(other)) if is_link(one) != is_link(other) => {
            part(change, old, None, read, &mut text)?;
            part(change, None, new, read, &mut text)?;
            None
        }
        _ => part(change, old, new, read, &mut text)?.filter(|_| !has_directory),
    };
    Ok(Shown { text, hunks })
}

fn in_words(entry: &Option<Entry>) -> String {
    match entry {
        None => "nothing".to_owned(),
        Some(Entry::Directory { .. }) => "a directory".to_owned(),
        Some(Entry::Link { .. }) => "a link".to_owned(),
        Some(Entry::File { size, .. }) => format!("a file of {}", crate::text::size(*size)),
    }
}

/// Writes the diff of two files or links; gives the hunks of two text files.
fn part<E>(
    change: &Change,
    old: Option<&Entry>,
    new: Option<&Entry>,
    read: &mut Read<'_, E>,
    text: &mut Vec<u8>,
) -> Result<Option<TextDiff>, E> {
    head(change, old, new, text);
    let mut say = |line: String| text.extend_from_slice(format!("{line}\n").as_bytes());
    let old_path = change.from.as_ref().unwrap_or(&change.path);
    let name = |entry: Option<&Entry>, name: String| match entry {
        Some(_) => name,
        None => "/dev/null".to_owned(),
    };
    let same_content = matches!(
        (old, new),
        (Some(Entry::File { hash, .. }), Some(Entry::File { hash: same, .. })) if hash == same
    );
    let (Side::Text(before), Side::Text(after)) = (side(old, read)?, side(new, read)?) else {
        if !same_content {
            let old_name = name(old, quoted("a/", old_path));
            let new_name = name(new, quoted("b/", &change.path));
            say(format!("Binary files {old_name} and {new_name} differ"));
            let (old, new) = (old.cloned(), new.cloned());
            say(format!("{} -> {}", in_words(&old), in_words(&new)));
        }
        return Ok(None);
    };
    let hunks = TextDiff::of(&before, &after);
    if !hunks.hunks.is_empty() {
        say(format!("--- {}", name(old, in_head("a/", old_path))));
        say(format!("+++ {}", name(new, in_head("b/", &change.path))));
    }
    for hunk in &hunks.hunks {
        text.extend_from_slice(&hunk.text);
    }
    let is_link = |entry: Option<&Entry>| matches!(entry, Some(Entry::Link { .. }));
    Ok(Some(hunks).filter(|_| !is_link(old) && !is_link(new)))
}

/// Writes the lines before the names of both sides.
fn head(change: &Change, old: Option<&Entry>, new: Option<&Entry>, text: &mut Vec<u8>) {
    let mut say = |line: String| text.extend_from_slice(format!("{line}\n").as_bytes());
    let old_path = change.from.as_ref().unwrap_or(&change.path);
    let (old_name, new_name) = (quoted("a/", old_path), quoted("b/", &change.path));
    say(format!("diff --git {old_name} {new_name}"));
    match (old.map(mode), new.map(mode)) {
        (None, Some(mode)) => say(format!("new file mode {mode}")),
        (Some(mode), None) => say(format!("deleted file mode {mode}")),
        (Some(old), Some(new)) if old != new => {
            say(format!("old mode {old}"));
            say(format!("new mode {new}"));
        }
        _ => {}
    }
    if let Some(from) = &change.from {
        say("similarity index 100%".to_owned());
        say(format!("rename from {}", quoted("", from)));
        say(format!("rename to {}", quoted("", &change.path)));
    }
}

/// The mode of a file or a link, as git has it.
fn mode(entry: &Entry) -> &'static str {
    match entry {
        Entry::Link { .. } => "120000",
        Entry::File { mode, .. } if executable(*mode) => "100755",
        Entry::File { .. } | Entry::Directory { .. } => "100644",
    }
}

/// One side of a change.
enum Side {
    Text(Vec<u8>),
    /// Binary, or too long to be shown.
    Binary,
}

fn side<E>(entry: Option<&Entry>, read: &mut Read<'_, E>) -> Result<Side, E> {
    Ok(match entry {
        None | Some(Entry::Directory { .. }) => Side::Text(Vec::new()),
        Some(Entry::Link { target }) => Side::Text(unescape(target)),
        Some(Entry::File { hash, size, .. }) => match read(hash, *size)? {
            Some(bytes) if diff::is_text(&bytes) => Side::Text(bytes),
            _ => Side::Binary,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::process::Command;

    use snowglobe_init::wire::tree::escape;

    use super::super::changes::{Differing, changes};
    use super::*;

    /// What is at a path: a text and whether it can be executed, or the target of a link.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Thing {
        Text(&'static str, bool),
        Link(&'static str),
    }
    use Thing::{Link, Text};

    /// Names that differ in how git writes them.
    const NAMES: [&[u8]; 12] = [
        b"plain",
        b"d/a b",
        b" c ",
        b"100%",
        b"tab\there",
        b"line\nfeed",
        b"q\"u'o",
        b"back\\slash",
        "h\u{e9}\u{202e}".as_bytes(),
        b"\xff\x01\x7f",
        b"bell\x07\x08\x0b\x0c\r",
        b"-dash",
    ];

    fn entry(thing: Thing) -> Entry {
        match thing {
            Text(text, executable) => Entry::File {
                hash: text.to_owned(),
                size: text.len() as u64,
                mode: if executable { 0o777 } else { 0o600 },
            },
            Link(target) => Entry::Link {
                target: escape(target.as_bytes()),
            },
        }
    }

    fn git(dir: &Path, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(dir);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }

    /// The paths of a directory, with what they are.
    type Things<'a> = Vec<(&'a [u8], Thing)>;

    fn write(dir: &Path, things: &Things<'_>) {
        for (path, thing) in things {
            let path = dir.join(OsStr::from_bytes(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match thing {
                Link(target) => symlink(target, path).unwrap(),
                Text(text, executable) => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::write(&path, text).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
            }
        }
    }

    /// The diff of two directories, ours and git's. Applying ours makes the tree that git has.
    fn both(old: &Things<'_>, new: &Things<'_>) -> (String, String) {
        let all = old.iter().chain(new).map(|(path, _)| path.to_vec());
        let at = |things: &Things<'_>, path: &[u8]| {
            let found = things.iter().find(|(at, _)| *at == path);
            found.map(|(_, thing)| entry(*thing))
        };
        let mut paths: Vec<_> = all.collect();
        paths.sort();
        paths.dedup();
        let differing = paths.into_iter().map(|path| Differing {
            old: at(old, &path),
            new: at(new, &path),
            path,
        });
        let differing = differing.filter(|one| one.old != one.new).collect();
        let mut ours = Vec::new();
        for change in changes(differing) {
            let mut read =
                |hash: &str, _| Ok::<_, std::convert::Infallible>(Some(hash.as_bytes().to_vec()));
            ours.extend(shown(&change, &mut read).unwrap().text);
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = |things| {
            for entry in fs::read_dir(dir.path()).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() && !path.is_symlink() {
                    true if path.ends_with(".git") => {}
                    true => fs::remove_dir_all(path).unwrap(),
                    false => fs::remove_file(path).unwrap(),
                }
            }
            write(dir.path(), things);
            git(dir.path(), &["add", "-A"]);
            String::from_utf8(git(dir.path(), &["write-tree"]))
                .unwrap()
                .trim()
                .to_owned()
        };
        git(dir.path(), &["init", "-q"]);
        let (made, before) = (tree(new), tree(old));
        let theirs = git(dir.path(), &["diff", "-M100%", &before, &made]);
        let patch = dir.path().join(".git/ours");
        fs::write(&patch, &ours).unwrap();
        git(dir.path(), &["apply", "--index", patch.to_str().unwrap()]);
        let applied = git(dir.path(), &["write-tree"]);
        assert_eq!(
            String::from_utf8(applied).unwrap().trim(),
            made,
            "{old:?} -> {new:?}"
        );
        // Only git's has the names of its objects.
        let theirs = String::from_utf8(theirs).unwrap();
        let lines = theirs
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("index "));
        (String::from_utf8(ours).unwrap(), lines.collect())
    }

    #[test]
    fn a_diff_is_what_git_writes_and_reads() {
        let sides = [
            None,
            Some(Text("one\ntwo\n", false)),
            Some(Text("one\nTWO", true)),
            Some(Text("one\nTWO", false)),
            Some(Text("", false)),
            Some(Link("to where")),
            Some(Link("elsewhere")),
        ];
        let pairs = sides
            .iter()
            .flat_map(|old| sides.iter().map(move |new| (*old, *new)));
        let pairs: Vec<_> = pairs.filter(|(old, new)| old != new).collect();
        for (number, name) in NAMES.iter().enumerate() {
            // Every pair with a plain name, and with the others those of texts.
            for (old, new) in pairs.iter().take(if number < 2 { pairs.len() } else { 9 }) {
                let things =
                    |thing: &Option<Thing>| thing.iter().map(|one| (*name, *one)).collect();
                let (ours, theirs) = both(&things(old), &things(new));
                assert_eq!(ours, theirs, "{old:?} -> {new:?}");
            }
        }
    }

    #[test]
    fn renamed_files_and_removed_directories_are_what_git_reads() {
        let text = Text("one\ntwo\n", false);
        for name in NAMES {
            let moved = Text("one\ntwo\n", name.len() % 2 == 0);
            let (ours, theirs) = both(&vec![(b"was here", text)], &vec![(name, moved)]);
            assert_eq!(ours, theirs);
        }
        let (ours, theirs) = both(
            &vec![(b"d/a", Text("a\n", false)), (b"d/b", Text("b\n", false))],
            &vec![(b"d", Text("c\n", false))],
        );
        assert_eq!(ours.len(), theirs.len(), "{ours}{theirs}");
    }

    #[test]
    fn what_git_has_no_text_for_is_named() {
        let file = |hash: &str| Entry::File {
            hash: hash.to_owned(),
            size: 1,
            mode: 0o644,
        };
        let text = |old, new| {
            let change = changes(vec![Differing {
                path: b"a b".to_vec(),
                old,
                new,
            }]);
            let mut read = |hash: &str, _| {
                Ok::<_, std::convert::Infallible>(match hash {
                    "long" => None,
                    "binary" => Some(b"\0\0".to_vec()),
                    _ => Some(b"one\n".to_vec()),
                })
            };
            let shown = shown(&change[0], &mut read).unwrap();
            assert_eq!(shown.hunks, None);
            String::from_utf8(shown.text).unwrap()
        };
        for (old, new) in [("text", "binary"), ("long", "text"), ("binary", "long")] {
            let head = "diff --git a/a b b/a b\nBinary files a/a b and b/a b differ\n";
            assert_eq!(
                text(Some(file(old)), Some(file(new))),
                format!("{head}a file of 1 byte -> a file of 1 byte\n")
            );
        }
        let directory = Some(Entry::Directory { mode: 0o755 });
        assert_eq!(
            text(None, directory.clone()),
            "a b: nothing -> a directory\n"
        );
        assert_eq!(
            text(directory, Some(file("text"))),
            "a b: a directory -> a file of 1 byte\ndiff --git a/a b b/a b\nnew file mode 100644\n\
             --- /dev/null\n+++ b/a b\t\n@@ -0,0 +1 @@\n+one\n"
        );
    }
}
