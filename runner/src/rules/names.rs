//! Paths and names as the host's file systems compare them.
//!
//! Some ignore case (APFS, NTFS, exFAT, ext4 with casefold), some ignore code points without a width (HFS+), some ignore
//! dots and blanks at the end (NTFS). A name is folded by all of these at once. Two names of one file thus always fold to
//! the same bytes; two files may, and are then treated alike.

use crate::protection::fold_case;

/// Code points that HFS+ ignores in a name.
const IGNORED: &[std::ops::RangeInclusive<char>] = &[
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
];

/// The short name that NTFS gives to `.git`.
const SHORT_GIT: &[u8] = b"git~1";

/// The names in a path.
pub(super) fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .collect()
}

/// A path and one more name.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory.is_empty() {
        true => name.to_owned(),
        false => [directory, b"/", name].concat(),
    }
}

/// The directory of a path, and the last name.
pub(super) fn parent(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// What follows `directory` in `path`; nothing if the path is not below it. A path is below itself.
pub(super) fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    if directory.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(directory)? {
        [] => Some(b""),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// The form of a name in which two names of one file are equal.
pub(super) fn fold(name: &[u8]) -> Vec<u8> {
    let folded = match std::str::from_utf8(name) {
        Ok(name) if name.is_ascii() => name.to_ascii_lowercase().into_bytes(),
        Ok(name) => {
            let ignored = |c: &char| IGNORED.iter().any(|range| range.contains(c));
            let seen: String = name.chars().filter(|c| !ignored(c)).collect();
            fold_case(&seen).into_bytes()
        }
        Err(_) => name.to_ascii_lowercase(),
    };
    let end = folded
        .iter()
        .rposition(|byte| !matches!(byte, b'.' | b' '))
        .map_or(folded.len(), |last| last + 1);
    let folded = &folded[..end];
    // NTFS takes what follows a colon for a stream of the file.
    let folded = match folded.iter().position(|byte| *byte == b':') {
        Some(at) if folded.starts_with(b".git:") || folded.starts_with(SHORT_GIT) => &folded[..at],
        _ => folded,
    };
    match folded == SHORT_GIT {
        true => b".git".to_vec(),
        false => folded.to_vec(),
    }
}

/// The form of a path in which two paths of one file are equal.
pub(super) fn fold_path(path: &[u8]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = split(path).into_iter().map(fold).collect();
    names.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_fold_to_the_same() {
        for (name, folded) in [
            (".GIT", ".git"),
            (".g\u{200c}it", ".git"),
            (".gi\u{feff}t", ".git"),
            ("git~1", ".git"),
            ("GIT~1", ".git"),
            (".git.", ".git"),
            (".git . ", ".git"),
            (".git::$INDEX_ALLOCATION", ".git"),
            ("con\u{fb01}g", "config"),
            ("HOO\u{212a}\u{17f}", "hooks"),
            ("a:b", "a:b"),
            ("...", "..."),
            ("Straße", "strasse"),
        ] {
            assert_eq!(fold(name.as_bytes()), folded.as_bytes(), "{name}");
        }
        assert_eq!(fold(b"\xffA"), b"\xffa");
    }

    #[test]
    fn a_path_is_below_its_directories_only() {
        assert_eq!(below(b"a/b", b"a"), Some(&b"b"[..]));
        assert_eq!(below(b"a", b"a"), Some(&b""[..]));
        assert_eq!(below(b"ab", b"a"), None);
        assert_eq!(below(b"a/b", b""), Some(&b"a/b"[..]));
        assert_eq!(parent(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent(b"a"), (&b""[..], &b"a"[..]));
    }
}
