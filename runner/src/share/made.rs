//! The changes that the guest made, for the runner's parent.
//!
//! The first paths are kept by name until they are asked for, the changes at others are counted: a guest that changes very
//! many files costs nothing else. What was made and removed again between two questions is left out, and what changes in a
//! repository's own directory is a change of that directory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use snowglobe_runner::protection::{Made, TOLD};
use snowglobe_runner::rules::{Change, Finding};

use super::known::lock;

/// The changes that were made and not told yet.
#[derive(Debug, Default)]
pub(super) struct AllMade(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    paths: BTreeMap<Vec<u8>, At>,
    more: u64,
}

/// What happened at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// It is new.
    Made,
    /// It was there, and has changed.
    Changed,
    /// It was there, and is gone.
    Removed,
}

impl AllMade {
    /// Keeps a change.
    pub(super) fn add(&self, change: &Change<'_>) {
        let mut kept = lock(&self.0);
        match *change {
            Change::Create { path, .. } | Change::Symlink { path, .. } => kept.made(path),
            Change::Link { to, .. } => kept.made(to),
            Change::Write { path, .. }
            | Change::Truncate { path, .. }
            | Change::Attributes { path } => kept.changed(path),
            Change::Remove { path } => kept.removed(path),
            Change::Rename { from, to, exchange } => {
                match exchange {
                    true => kept.changed(from),
                    false => kept.removed(from),
                }
                kept.changed(to);
            }
        }
    }

    /// All that were kept since the last time, and how many changes at other paths there were.
    pub(super) fn take(&self) -> (Vec<Made>, u64) {
        let Kept { paths, more } = std::mem::take(&mut *lock(&self.0));
        let told = |(path, at): (Vec<u8>, At)| Made {
            path: Finding::text(&path),
            removed: at == At::Removed,
        };
        (paths.into_iter().map(told).collect(), more)
    }
}

impl Kept {
    fn made(&mut self, path: &[u8]) {
        self.set(path, |before| match before {
            None => Some(At::Made),
            // It takes the place of one that was removed.
            Some(_) => Some(At::Changed),
        });
    }

    fn changed(&mut self, path: &[u8]) {
        self.set(path, |before| match before {
            Some(At::Made) => Some(At::Made),
            _ => Some(At::Changed),
        });
    }

    fn removed(&mut self, path: &[u8]) {
        self.set(path, |before| match before {
            Some(At::Made) => None,
            _ => Some(At::Removed),
        });
    }

    fn set(&mut self, path: &[u8], now: impl FnOnce(Option<At>) -> Option<At>) {
        let (path, inside) = outside_of_git(path);
        // A repository's own directory stays.
        let now = |before| match inside {
            true => Some(At::Changed),
            false => now(before),
        };
        let before = self.paths.get(path).copied();
        match (before, now(before)) {
            (Some(_), None) => drop(self.paths.remove(path)),
            (Some(before), Some(now)) if before == now => {}
            (None, Some(_)) if self.paths.len() >= TOLD => self.more += 1,
            (_, Some(now)) => drop(self.paths.insert(path.to_owned(), now)),
            (None, None) => {}
        }
    }
}

/// A path, or that of the repository's own directory that it lies in; and whether it lies in one.
fn outside_of_git(path: &[u8]) -> (&[u8], bool) {
    let mut end = 0;
    for name in path.split(|byte| *byte == b'/') {
        end += name.len();
        if name == b".git" && end < path.len() {
            return (&path[..end], true);
        }
        end += 1;
    }
    (path, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snowglobe_runner::rules::Kind;

    use super::*;

    fn create(path: &str) -> Change<'_> {
        Change::Create {
            path: path.as_bytes(),
            kind: Kind::File,
        }
    }

    fn remove(path: &str) -> Change<'_> {
        let path = path.as_bytes();
        Change::Remove { path }
    }

    fn told(all: &AllMade) -> Vec<(String, bool)> {
        let made = all.take().0.into_iter();
        made.map(|made| (made.path, made.removed)).collect()
    }

    #[test]
    fn what_is_left_at_the_end_is_told_once() {
        let all = AllMade::default();
        all.add(&create("new"));
        all.add(&create("t.tmp"));
        let write = Change::Write {
            path: b"t.tmp",
            offset: 0,
            data: &[],
        };
        all.add(&write);
        let rename = Change::Rename {
            from: b"t.tmp",
            to: b"saved",
            exchange: false,
        };
        all.add(&rename);
        all.add(&remove("old"));
        for path in ["sub/.git/objects/ab", ".git/index.lock"] {
            all.add(&create(path));
            all.add(&remove(path));
        }
        let expected = [
            (".git", false),
            ("new", false),
            ("old", true),
            ("saved", false),
            ("sub/.git", false),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(path, removed)| (path.to_owned(), removed))
            .collect();
        assert_eq!(told(&all), expected);
        assert_eq!(told(&all), []);
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let all = AllMade::default();
        for number in 0..1000 {
            all.add(&create(&format!("{number}{}", "x".repeat(4000))));
        }
        let (made, more) = all.take();
        assert_eq!((made.len(), more), (TOLD, 900));
        assert!(made.iter().all(|made| made.path.len() <= 300));
    }

    proptest! {
        #[test]
        fn a_path_is_told_as_it_is_at_the_end(steps in prop::collection::vec((0..4_usize, any::<bool>()), 0..30)) {
            let names = ["a", "b/c", "d", "e"];
            // Of these, `a` and `d` were there before.
            let before = [true, false, true, false];
            let (all, mut now) = (AllMade::default(), before);
            let mut touched = [false; 4];
            for (file, makes) in steps {
                match (now[file], makes) {
                    (true, true) | (false, false) => continue,
                    (false, true) => all.add(&create(names[file])),
                    (true, false) => all.add(&remove(names[file])),
                }
                now[file] = makes;
                touched[file] = true;
            }
            let told = told(&all);
            for file in 0..4 {
                let expected = match (before[file], now[file]) {
                    (false, false) => None,
                    (true, true) if !touched[file] => None,
                    (_, now) => Some(!now),
                };
                let found = told.iter().find(|(path, _)| path == names[file]);
                prop_assert_eq!(found.map(|(_, removed)| *removed), expected);
            }
        }
    }
}
