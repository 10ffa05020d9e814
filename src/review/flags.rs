//! Why a change is not applied unless it is named. Pure.

use std::collections::BTreeMap;

use snowglobe_init::wire::tree::unescape;
use unicode_normalization::UnicodeNormalization;

use super::changes::Change;
use super::entry::{Entry, special};
use super::flag::Flag;

/// The size from which a file is large, in bytes.
const LARGE: u64 = 10 << 20;

fn flag(word: &str, why: impl Into<String>) -> Flag {
    Flag {
        word: word.to_owned(),
        why: why.into(),
    }
}

/// Flags what is odd about changes, but for what the workspace's rules say.
pub fn mark(changes: &mut [Change]) {
    let mut names: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.new.is_some()) {
        *names.entry(folded(&change.path)).or_default() += 1;
    }
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
        if names
            .get(&folded(&change.path))
            .is_some_and(|count| *count > 1)
        {
            flags.push(flag(
                "same-name",
                "another changed file differs from it only in case",
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

/// What is odd about the names of a path.
fn odd_name(path: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(path) else {
        return Some("its name is not UTF-8");
    };
    if text.chars().any(|c| c.is_control()) {
        return Some("its name has control characters");
    }
    // Marks that change the direction of text, or take no room.
    let unseen = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}');
    if text.chars().any(unseen) {
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
        mark(&mut all);
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
        let mut all = changes(vec![added("README"), added("readme"), added("other")]);
        mark(&mut all);
        let flagged: Vec<_> = all.iter().map(|change| change.flags.len()).collect();
        assert_eq!(flagged, [1, 0, 1]);
    }
}
