//! Why a change is not applied unless it is named. Pure.

use std::collections::{BTreeMap, BTreeSet};

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use snowglobe_init::wire::tree::unescape;
use unicode_normalization::UnicodeNormalization;

use super::changes::Change;
use super::entry::{Entry, special};
use super::flag::Flag;
use super::root::above;

/// The most bytes of a file that is not large.
pub const LARGE: u64 = 10 << 20;

fn flag(word: &str, why: impl Into<String>) -> Flag {
    Flag {
        word: word.to_owned(),
        why: why.into(),
    }
}

/// Flags what is odd about changes, but for what the workspace's rules say. `now` are all paths that the guest has, and
/// `was_there` says of a path whether the copy began with it.
pub fn mark<'a>(
    changes: &mut [Change],
    now: impl Iterator<Item = &'a [u8]>,
    was_there: impl Fn(&[u8]) -> bool,
) {
    // The spellings of each path.
    let mut names: BTreeMap<Vec<u8>, BTreeSet<&[u8]>> = BTreeMap::new();
    for path in now {
        names.entry(folded(path)).or_default().insert(path);
    }
    // Two paths that the copy began with are no news.
    let is_one_of_several = |path: &[u8]| {
        let spellings = names.get(&folded(path));
        spellings.is_some_and(|all| all.len() > 1 && !all.iter().all(|path| was_there(path)))
    };
    for change in changes {
        let Some(new) = &change.new else { continue };
        let mut flags = Vec::new();
        match new {
            Entry::Link { target } if leads_outside(&change.path, &unescape(target)) => {
                flags.push(flag(
                    "outside-link",
                    format!("it is a link that leads out of the directory, to {target}"),
                ));
            }
            Entry::File { mode, .. } if special(*mode) != 0 => {
                flags.push(flag(
                    "setuid",
                    "it has setuid or setgid bits, which are not taken",
                ));
            }
            Entry::File { size, .. } if *size > LARGE => {
                flags.push(flag(
                    "large",
                    format!("it has {}", crate::text::size(*size)),
                ));
            }
            _ => {}
        }
        if let Some(why) = odd_name(&change.path) {
            flags.push(flag("odd-name", why));
        }
        if above(&change.path)
            .chain([change.path.as_slice()])
            .any(is_one_of_several)
        {
            flags.push(flag(
                "same-name",
                "another path differs from it only in case, or in how its letters are encoded",
            ));
        }
        change.flags = flags;
    }
}

/// A path as a file system compares it that ignores case.
fn folded(path: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(path) {
        Ok(text) => text.nfc().collect::<String>().to_lowercase().into_bytes(),
        Err(_) => path.to_vec(),
    }
}

/// Whether a link at a path leads out of the tree, by its names alone.
pub fn leads_outside(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

/// Whether a character takes no room, changes the direction of text or breaks a line.
fn is_unseen(character: char) -> bool {
    use GeneralCategory::{Format, LineSeparator, ParagraphSeparator};
    let category = CodePointMapData::<GeneralCategory>::new().get(character);
    matches!(category, Format | LineSeparator | ParagraphSeparator)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
}

/// What is odd about the names of a path.
fn odd_name(path: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(path) else {
        return Some("its name is not UTF-8");
    };
    if text.chars().any(|c| c.is_control()) {
        return Some("its name has control characters");
    }
    if text.chars().any(is_unseen) {
        return Some("its name has characters that can't be seen");
    }
    let names = || text.split('/');
    if names().any(|name| name.starts_with('-')) {
        return Some("its name begins with a dash, as options of commands do");
    }
    if names().any(|name| name.ends_with(' ') || name.ends_with('.') || name.starts_with(' ')) {
        return Some("its name begins or ends with a space or ends with a dot");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::changes::{Differing, changes};
    use super::*;

    fn flags(path: &str, new: Entry) -> Vec<String> {
        let mut all = changes(vec![Differing {
            path: path.into(),
            old: None,
            new: Some(new),
        }]);
        mark(&mut all, std::iter::empty(), |_| false);
        all.remove(0)
            .flags
            .into_iter()
            .map(|flag| flag.word)
            .collect()
    }

    fn file(size: u64, mode: u32) -> Entry {
        Entry::File {
            hash: "x".into(),
            size,
            mode,
        }
    }

    fn link(target: &str) -> Entry {
        Entry::Link {
            target: target.into(),
        }
    }

    #[test]
    fn what_is_odd_is_flagged() {
        assert!(flags("src/main.rs", file(1, 0o755)).is_empty());
        assert!(flags("a/b/link", link("../../c/../d")).is_empty());
        assert!(flags("héllo wörld.txt", file(1, 0o644)).is_empty());
        for (path, new, word) in [
            ("a/link", link("../../x"), "outside-link"),
            ("link", link("/etc/passwd"), "outside-link"),
            ("link", link("a/../../x"), "outside-link"),
            ("x", file(1, 0o4755), "setuid"),
            ("x", file(11 << 20, 0o644), "large"),
            ("-rf", file(1, 0o644), "odd-name"),
            ("a\u{202e}txt.exe", file(1, 0o644), "odd-name"),
            ("a\u{61c}b", file(1, 0o644), "odd-name"),
            ("a\u{2028}b", file(1, 0o644), "odd-name"),
            ("a\u{3164}b", file(1, 0o644), "odd-name"),
            ("a\u{fe0f}b", file(1, 0o644), "odd-name"),
            ("a\u{e0041}b", file(1, 0o644), "odd-name"),
            ("a\u{85}b", file(1, 0o644), "odd-name"),
            ("a\tb", file(1, 0o644), "odd-name"),
            ("dir /x", file(1, 0o644), "odd-name"),
        ] {
            assert_eq!(flags(path, new), [word], "{path:?}");
        }
    }

    #[test]
    fn names_that_differ_in_case_only_are_flagged() {
        let added = |path: &str| Differing {
            path: path.into(),
            old: None,
            new: Some(file(1, 0o644)),
        };
        let flagged = |paths: &[&str], others: &[&str], was_there: &[&str]| -> Vec<usize> {
            let mut all = changes(paths.iter().map(|path| added(path)).collect());
            let now = paths.iter().chain(others).map(|path| path.as_bytes());
            mark(&mut all, now, |path| {
                was_there.iter().any(|was| was.as_bytes() == path)
            });
            all.iter().map(|change| change.flags.len()).collect()
        };
        assert_eq!(flagged(&["README", "other", "readme"], &[], &[]), [1, 0, 1]);
        assert_eq!(flagged(&["readme"], &["README"], &["README"]), [1]);
        assert_eq!(
            flagged(&["Src/a", "lib/a"], &["Src", "lib", "src"], &["lib", "src"]),
            [1, 0]
        );
        assert_eq!(flagged(&["e\u{301}"], &["\u{e9}"], &["\u{e9}"]), [1]);
        // They were two before, and one of them has another content now.
        assert_eq!(flagged(&["make"], &["Make"], &["make", "Make"]), [0]);
    }
}
