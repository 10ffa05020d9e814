//! File names that look the same: a name as a model types it, and the name that the file has.
//!
//! A model types composed characters, plain spaces and straight quotes. The file's name may have decomposed characters
//! (from macOS), narrow no-break spaces (macOS screenshots) or typographic quotes. Two names look the same if they have
//! the same [`key`]: canonical decomposition, and a small table. The confusables of UTS 39 are of no use here: they treat
//! `l` and `1` as the same.
//!
//! Only a name that does not exist is looked up in this way, and only if exactly one file matches.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::wire::WireError;

/// How many entries of a directory are compared.
const COMPARED: usize = 100_000;

/// How many names a message has.
const LISTED: usize = 5;

/// The plain text that a character looks like; `"\0"` for the character itself.
fn plain(char: char) -> &'static str {
    match char {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' => "-",
        '\u{2018}'..='\u{201b}' | '\u{2032}' | '\u{2bc}' => "'",
        '\u{201c}'..='\u{201f}' | '\u{2033}' => "\"",
        '\u{2026}' => "...",
        '\u{a789}' | '\u{2236}' => ":",
        // Marks of direction, joiners, variation selectors, soft hyphens: invisible.
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => "",
        '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' => "",
        '\u{feff}' | '\u{fe00}'..='\u{fe0f}' => "",
        char if char.is_whitespace() && !char.is_control() => " ",
        _ => "\0",
    }
}

/// A text that is the same for names that look the same.
fn key(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    for char in name.nfd() {
        match plain(char) {
            // Full width forms, which some programs use if a plain character is not allowed.
            "\0" => key.push(match char {
                '\u{ff01}'..='\u{ff5e}' => char::from_u32(char as u32 - 0xfee0).unwrap_or(char),
                char => char,
            }),
            plain => key.push_str(plain),
        }
    }
    // Characters that are now neighbours may combine.
    match key.is_ascii() {
        true => key,
        false => key.nfd().collect(),
    }
}

/// A name in which characters that look like others are escaped.
pub(crate) fn escaped(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for char in chunk.valid().chars() {
            let looks_like_another = char != ' ' && plain(char) != "\0";
            let full_width = ('\u{ff01}'..='\u{ff5e}').contains(&char);
            if looks_like_another || full_width || char.is_control() || is_combining_mark(char) {
                text += &format!("\\u{{{:x}}}", u32::from(char));
            } else {
                text.push(char);
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

/// The path, in which each missing part is replaced by the one entry that looks the same. If there is no such entry, this
/// part and all following parts stay the same.
pub(super) fn look_alike(path: PathBuf, notes: &mut Vec<String>) -> Result<PathBuf, WireError> {
    let mut found = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            found.push(part);
            continue;
        };
        if found.join(name).symlink_metadata().is_ok() {
            found.push(name);
            continue;
        }
        let mut alike = same_key(&found, name);
        match alike.len() {
            0 => {
                found.push(name);
                // Pushing an empty path would add a slash.
                found.extend(parts.as_path());
                return Ok(found);
            }
            1 => {
                let taken = alike.remove(0);
                notes.push(format!(
                    "there is no {:?} in {}: \"{}\", which looks the same, was taken",
                    name.to_string_lossy(),
                    found.display(),
                    escaped(&taken)
                ));
                found.push(taken);
            }
            count => {
                let listed: Vec<String> = alike
                    .iter()
                    .take(LISTED)
                    .map(|name| format!("\"{}\"", escaped(name)))
                    .collect();
                return Err(WireError::invalid(format!(
                    "use the path {}: {count} names in {} look like {:?}: {}; name one of them exactly",
                    path.display(),
                    found.display(),
                    name.to_string_lossy(),
                    listed.join(", ")
                )));
            }
        }
    }
    Ok(found)
}

/// The entries of a directory that look like `wanted`, sorted.
fn same_key(dir: &Path, wanted: &OsStr) -> Vec<std::ffi::OsString> {
    let Ok(entries) = dir.read_dir() else {
        return Vec::new();
    };
    let wanted = wanted.to_string_lossy();
    let wanted_key = key(&wanted);
    let mut alike: Vec<_> = entries
        .flatten()
        .take(COMPARED)
        .map(|entry| entry.file_name())
        // Different ASCII names do not look the same.
        .filter(|name| !(name.as_bytes().is_ascii() && wanted.is_ascii()))
        .filter(|name| key(&name.to_string_lossy()) == wanted_key)
        .collect();
    alike.sort();
    alike
}

/// A remark with names in the same directory that the caller may have meant.
pub(super) fn near(path: &Path) -> String {
    let lower = |name: &OsStr| key(&name.to_string_lossy()).to_lowercase();
    let wanted = lower(path.file_name().unwrap_or_default());
    let Some(parent) = path.parent() else {
        return String::new();
    };
    let Ok(entries) = parent.read_dir() else {
        return format!("; the directory {} does not exist either", parent.display());
    };
    let stem = wanted.split('.').next().unwrap_or_default();
    let mut names: Vec<String> = entries
        .flatten()
        .take(COMPARED)
        .map(|entry| entry.file_name())
        .filter(|name| {
            let name = lower(name);
            name.contains(&wanted)
                || wanted.contains(&name)
                || (stem.len() > 2 && name.starts_with(stem))
        })
        .take(LISTED)
        .map(|name| escaped(&name))
        .collect();
    names.sort();
    match names.is_empty() {
        true => String::new(),
        false => format!("; the directory has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn found(dir: &Path, name: &str) -> Result<(PathBuf, Vec<String>), String> {
        let mut notes = Vec::new();
        look_alike(dir.join(name), &mut notes)
            .map(|path| (path, notes))
            .map_err(|e| e.message)
    }

    #[test]
    fn the_one_file_that_looks_the_same_is_taken_and_said() {
        let dir = tempfile::tempdir().unwrap();
        for (has, typed, shown) in [
            ("Cafe\u{301}.txt", "Caf\u{e9}.txt", "Cafe\\u{301}.txt"),
            ("\u{e5}.txt", "a\u{30a}.txt", "\u{e5}.txt"),
            (
                "Shot 10.30\u{202f}AM.png",
                "Shot 10.30 AM.png",
                "Shot 10.30\\u{202f}AM.png",
            ),
            ("no\u{a0}break", "no break", "no\\u{a0}break"),
            ("it\u{2019}s", "it's", "it\\u{2019}s"),
            ("a \u{2013} b\u{2026}", "a - b...", "a \\u{2013} b\\u{2026}"),
            ("zero\u{200b}width", "zerowidth", "zero\\u{200b}width"),
            ("what\u{ff1f}", "what?", "what\\u{ff1f}"),
        ] {
            fs::write(dir.path().join(has), "").unwrap();
            let (path, notes) = found(dir.path(), typed).unwrap();
            assert_eq!(path, dir.path().join(has), "{typed}");
            assert!(notes[0].contains(shown), "{notes:?}");
        }
        let bytes = OsStr::from_bytes(b"caf\xe9-latin");
        fs::write(dir.path().join(bytes), "").unwrap();
        let (path, notes) = found(dir.path(), "caf\u{fffd}-latin").unwrap();
        assert_eq!(path, dir.path().join(bytes));
        assert!(notes[0].contains("caf\\xe9-latin"), "{notes:?}");
    }

    #[test]
    fn directories_on_the_way_are_found_too_and_what_is_new_stays() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("Cafe\u{301}");
        fs::create_dir(&real).unwrap();
        let (path, notes) = found(dir.path(), "Caf\u{e9}/new/x.txt").unwrap();
        assert_eq!(path, real.join("new/x.txt"));
        assert_eq!(notes.len(), 1);
        let (path, notes) = found(dir.path(), "none/x").unwrap();
        assert_eq!(path, dir.path().join("none/x"));
        let (path, _) = found(dir.path(), "none").unwrap();
        assert_eq!(path.as_os_str(), dir.path().join("none").as_os_str());
        assert!(notes.is_empty());
    }

    #[test]
    fn of_several_none_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a\u{202f}b"), "").unwrap();
        fs::write(dir.path().join("a\u{a0}b"), "").unwrap();
        let refused = found(dir.path(), "a b").unwrap_err();
        assert!(
            refused.contains("\"a\\u{a0}b\", \"a\\u{202f}b\"; name one"),
            "{refused}"
        );
        assert!(near(&dir.path().join("a bc")).contains("a\\u{a0}b"));
    }

    proptest! {
        #[test]
        fn forms_of_one_name_have_one_key(name in "\\PC{0,20}") {
            let (nfc, nfd): (String, String) = (name.nfc().collect(), name.nfd().collect());
            prop_assert_eq!(key(&nfc), key(&nfd));
            prop_assert_eq!(key(&key(&name)), key(&name));
        }

        #[test]
        fn plain_names_are_their_own_keys(name in "[ -~]{0,30}") {
            prop_assert_eq!(&key(&name), &name);
            prop_assert_eq!(&escaped(OsStr::new(&name)), &name);
        }
    }
}
