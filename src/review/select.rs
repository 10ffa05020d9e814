//! Which changes a person takes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use snowglobe_init::wire::tree::{escape, unescape};

use super::changes::Change;
use super::report::Selection;
use crate::text::did_you_mean;

/// A selected change, by its index, with its hunks (counted from 1); no hunks: all of it.
pub type Selected = BTreeMap<usize, Option<BTreeSet<usize>>>;

/// A selection that names what is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No change is at or below a path.
    #[error("find the change {path:?}: nothing changed there; {}`snowglobe changes` lists what did", did_you_mean(.path, .known.iter().map(String::as_str)))]
    NoChange {
        /// The path.
        path: String,
        /// The paths that changed.
        known: Vec<String>,
    },
    /// A hunk is not there.
    #[error("find hunk {hunk} of {path:?}: its diff has {count}")]
    NoHunk {
        /// The path.
        path: String,
        /// The hunk.
        hunk: usize,
        /// How many there are.
        count: usize,
    },
}

/// The path and the hunks of a word such as `src/main.rs:1,3`.
fn parse(word: &str) -> (&str, Option<BTreeSet<usize>>) {
    if let Some((path, hunks)) = word.rsplit_once(':') {
        let hunks: Option<BTreeSet<usize>> =
            hunks.split(',').map(|hunk| hunk.parse().ok()).collect();
        if let Some(hunks) = hunks.filter(|hunks| !hunks.is_empty()) {
            return (path, Some(hunks));
        }
    }
    (word, None)
}

/// A path as a person types it: relative, perhaps with `./` in front, a slash at its end or as a path of the sandbox.
fn typed(path: &str) -> Vec<u8> {
    let path = path.strip_prefix("/workspace/").unwrap_or(path);
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.trim_end_matches('/');
    unescape(path)
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    let root = above.is_empty() || above == b".";
    root || path
        .strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The changes that a selection takes. `hunks` says how many hunks the diff of a change has.
pub fn select(
    changes: &[Change],
    selection: &Selection,
    hunks: impl Fn(&Change) -> usize,
) -> Result<Selected, SelectError> {
    let mut selected = Selected::new();
    if selection.paths.is_empty() {
        let taken = changes.iter().enumerate();
        let taken = taken.filter(|(_, change)| selection.flagged || change.flags.is_empty());
        selected.extend(taken.map(|(index, _)| (index, None)));
    }
    for word in &selection.paths {
        // A file may be called `a:1`.
        let whole = matching(changes, word);
        let (found, taken) = match (whole.is_empty(), parse(word)) {
            (true, (path, Some(taken))) => (matching(changes, path), Some(taken)),
            _ => (whole, None),
        };
        if found.is_empty() {
            return Err(SelectError::NoChange {
                path: word.clone(),
                known: changes.iter().map(|change| escape(&change.path)).collect(),
            });
        }
        for index in found {
            let exact = escape(&changes[index].path) == escape(&typed(parse(word).0));
            let named = exact || changes[index].path == typed(word);
            // A directory stands for what is not flagged in it.
            if !named && !selection.flagged && !changes[index].flags.is_empty() {
                continue;
            }
            if let Some(taken) = &taken {
                let count = hunks(&changes[index]);
                if let Some(hunk) = taken.iter().find(|hunk| **hunk == 0 || **hunk > count) {
                    return Err(SelectError::NoHunk {
                        path: escape(&changes[index].path),
                        hunk: *hunk,
                        count,
                    });
                }
            }
            match (selected.get_mut(&index), &taken) {
                (Some(Some(known)), Some(more)) => known.extend(more),
                (Some(known), None) => *known = None,
                (Some(None), Some(_)) => {}
                (None, _) => {
                    selected.insert(index, taken.clone());
                }
            }
        }
    }
    for word in &selection.except {
        let left = matching(changes, word);
        if left.is_empty() {
            return Err(SelectError::NoChange {
                path: word.clone(),
                known: changes.iter().map(|change| escape(&change.path)).collect(),
            });
        }
        for index in left {
            selected.remove(&index);
        }
    }
    Ok(selected)
}

/// Whether a selection may take a change of this path, which has a flag or not.
pub fn may_take(selection: &Selection, path: &[u8], is_flagged: bool) -> bool {
    let takes_any = selection.flagged || !is_flagged;
    let reaches = |word: &String| {
        let words = [word.as_str(), parse(word).0].map(typed);
        words
            .iter()
            .any(|above| path == above || (takes_any && is_at_or_below(path, above)))
    };
    match selection.paths.is_empty() {
        true => takes_any,
        false => selection.paths.iter().any(reaches),
    }
}

/// The changes at or below a path.
pub fn matching(changes: &[Change], path: &str) -> Vec<usize> {
    let path = typed(path);
    let at = |change: &Change| {
        is_at_or_below(&change.path, &path)
            || change
                .from
                .as_ref()
                .is_some_and(|from| is_at_or_below(from, &path))
    };
    let found = changes.iter().enumerate().filter(|(_, change)| at(change));
    found.map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::Entry;
    use super::super::flag::Flag;
    use super::*;

    fn change(path: &str, flagged: bool) -> Change {
        let flag = Flag {
            word: "large".into(),
            why: "it is".into(),
        };
        Change {
            path: path.into(),
            from: None,
            old: None,
            new: Some(Entry::Directory { mode: 0o755 }),
            flags: flagged.then_some(flag).into_iter().collect(),
        }
    }

    fn selected(
        paths: &[&str],
        except: &[&str],
        flagged: bool,
    ) -> Result<Vec<String>, SelectError> {
        let changes = [
            change("a:1", false),
            change("src/a", false),
            change("src/b", true),
            change("srcs", false),
        ];
        let selection = Selection {
            paths: paths.iter().map(|path| (*path).into()).collect(),
            except: except.iter().map(|path| (*path).into()).collect(),
            flagged,
            skip_conflicts: false,
        };
        let selected = select(&changes, &selection, |_| 2)?;
        Ok(selected
            .into_iter()
            .map(|(index, hunks)| {
                let hunks = hunks.map_or(String::new(), |hunks| format!(" {hunks:?}"));
                format!("{}{hunks}", escape(&changes[index].path))
            })
            .collect())
    }

    #[test]
    fn a_flagged_change_is_taken_only_by_its_name() {
        assert_eq!(selected(&[], &[], false).unwrap(), ["a:1", "src/a", "srcs"]);
        assert_eq!(selected(&["src"], &[], false).unwrap(), ["src/a"]);
        assert_eq!(selected(&["src/b"], &[], false).unwrap(), ["src/b"]);
        assert_eq!(
            selected(&["./src/"], &[], true).unwrap(),
            ["src/a", "src/b"]
        );
        assert_eq!(selected(&["."], &["src"], false).unwrap(), ["a:1", "srcs"]);
        assert_eq!(
            selected(&["/workspace/srcs"], &[], false).unwrap(),
            ["srcs"]
        );
    }

    #[test]
    fn what_is_taken_could_be_taken() {
        let changes = [
            change("src/a", false),
            change("src/b", true),
            change("c", true),
        ];
        for (paths, flagged) in [
            (&[][..], false),
            (&[], true),
            (&["src"], false),
            (&["src/"], true),
            (&["src/b"], false),
            (&["src/b:1,2"], false),
            (&["/workspace/c"], false),
            (&["."], false),
        ] {
            let selection = Selection {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                flagged,
                ..Selection::default()
            };
            let taken = select(&changes, &selection, |_| 2).unwrap();
            for (index, change) in changes.iter().enumerate() {
                let may = may_take(&selection, &change.path, !change.flags.is_empty());
                assert_eq!(taken.contains_key(&index), may, "{paths:?}: {change:?}");
            }
        }
    }

    #[test]
    fn hunks_are_taken_by_number() {
        assert_eq!(selected(&["src/a:2"], &[], false).unwrap(), ["src/a {2}"]);
        assert_eq!(
            selected(&["src/a:2", "src/a:1"], &[], false).unwrap(),
            ["src/a {1, 2}"]
        );
        assert_eq!(
            selected(&["src/a:2", "src/a"], &[], false).unwrap(),
            ["src/a"]
        );
        assert_eq!(
            selected(&["a:1"], &[], false).unwrap(),
            ["a:1"],
            "a name has a colon, too"
        );
        let error = selected(&["src/a:3"], &[], false).unwrap_err().to_string();
        assert!(
            error.contains("hunk 3") && error.contains("has 2"),
            "{error}"
        );
        let error = selected(&["src/aa"], &[], false).unwrap_err().to_string();
        assert!(error.contains("src/a"), "{error}");
        assert!(selected(&[], &["none"], false).is_err());
    }
}
