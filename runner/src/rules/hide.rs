//! Files that look absent to the guest.
//!
//! The globs are those of gitignore without negation. They ignore case, since the host's file system may.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::protection::{PATTERNS, glob, names_place};
use globset::{GlobSet, GlobSetBuilder};

use super::names;

/// How much of a pattern an error shows, in characters.
const SHOWN: usize = 256;

/// A pattern that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("hide[{index}] ({pattern:?}): {why}")]
pub struct PatternError {
    /// Its position in the list, from 0.
    index: usize,
    /// The pattern.
    pattern: String,
    /// What is wrong with it.
    why: String,
}

/// The hidden files of a share.
#[derive(Debug)]
pub(super) struct Hide {
    set: GlobSet,
    /// Whether a pattern names a place, so that a move can bring a file out of it.
    pub(super) places: bool,
}

impl Hide {
    pub(super) fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let error = |why| PatternError {
                index,
                pattern: pattern.chars().take(SHOWN).collect(),
                why,
            };
            if index == PATTERNS {
                return Err(error(format!("more than {PATTERNS} patterns")));
            }
            set.add(glob(pattern).map_err(error)?);
        }
        let places = patterns.iter().any(|pattern| names_place(pattern));
        let set = set.build().map_err(|all| PatternError {
            index: 0,
            pattern: patterns.join(", ").chars().take(SHOWN).collect(),
            why: all.kind().to_string(),
        })?;
        Ok(Self { set, places })
    }

    /// Whether a path, or a directory above it, is hidden.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        if self.set.is_empty() {
            return false;
        }
        let (mut plain, mut folded) = (Vec::new(), Vec::new());
        names::split(path).into_iter().any(|name| {
            plain = names::join(&plain, name);
            folded = names::join(&folded, &names::fold(name));
            [&plain, &folded]
                .into_iter()
                .any(|path| self.set.is_match(Path::new(OsStr::from_bytes(path))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(patterns: &[&str]) -> Result<Hide, PatternError> {
        let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
        Hide::new(&patterns)
    }

    #[test]
    fn a_pattern_matches_as_in_gitignore() {
        let set = hide(&[
            ".env",
            "*.pem",
            "/top",
            "a/secret",
            "**/deep/*.key",
            "dir/",
            "Caps",
            "[xy]z",
        ])
        .unwrap();
        for hidden in [
            ".env",
            "a/b/.env",
            ".ENV",
            ".env/below/it",
            "k.pem",
            "a/k.PEM",
            "top",
            "top/x",
            "a/secret/x",
            "A/Secret",
            "q/deep/a.key",
            "dir/x",
            "q/dir",
            "caps",
            "CAPS",
            "xz",
            "q/yz",
            ".e\u{200c}nv",
        ] {
            assert!(set.hides(hidden.as_bytes()), "{hidden}");
        }
        for seen in [
            "",
            "env",
            ".envrc",
            "a/top",
            "b/a/secret",
            "deep/x/a.key",
            "dirs",
            "z",
        ] {
            assert!(!set.hides(seen.as_bytes()), "{seen}");
        }
        assert!(!hide(&[]).unwrap().hides(b".env"));
    }

    #[test]
    fn an_invalid_pattern_is_named_with_its_position() {
        for (patterns, said) in [
            (&["a", "[b"][..], "hide[1] (\"[b\"): "),
            (&["!a"], "hide[0] (\"!a\"): a pattern can't be negated"),
            (
                &["a", "b", ""],
                "hide[2] (\"\"): the pattern matches no name",
            ),
            (&["/"], "hide[0] (\"/\"): the pattern matches no name"),
            (&["{a"], "hide[0]"),
        ] {
            let error = hide(patterns).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
        let long = "a".repeat(SHOWN + 1);
        hide(&[&long]).unwrap_err();
        hide(&["a"; PATTERNS]).unwrap();
        hide(&["a"; PATTERNS + 1]).unwrap_err();
    }

    #[test]
    fn only_a_pattern_with_a_slash_inside_names_a_place() {
        for (pattern, places) in [
            ("a", false),
            ("a/", false),
            ("**/a", false),
            ("/a", true),
            ("a/b", true),
            ("**/a/b", true),
        ] {
            assert_eq!(hide(&[pattern]).unwrap().places, places, "{pattern}");
        }
    }
}
