//! Which planned changes touch what a rule protects.
//!
//! A person takes changes over into a directory: those of a copy of it, say, that a guest worked in. They are made
//! together, so each is judged by the tree as it is after all of them ([`Overlay`]), and a file by its contents as a
//! whole. It follows that
//!
//! - the findings don't depend on the order of the changes;
//! - other changes than those that were judged have other findings: a part of them is judged anew;
//! - no tree between the first change and the last has more to find, if removals are made first, then replacements, then
//!   what is new.
//!
//! Git's own directory is its user's: any path in it is a finding, whatever it contains, and also if the rule
//! `git-directory` is turned off.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use super::change::{Finding, Kind, Look};
use super::directory::Directory;
use super::git::{layout, shared};
use super::outside::Outside;
pub use super::overlay::{Becomes, Content, Planned};
use super::overlay::{Overlay, above};
use super::role::Role;
use super::walk::{self, Walk};
use super::{DEEPEST, LONGEST, Rules, RulesError, names, whole};
use crate::protection::{HIDE, Protection, TOO_LONG, UNCHECKED};

/// The rule of git's own directory.
const GIT_DIRECTORY: &str = "git-directory";

/// Says for each of the changes that are planned for the directory `root` which rule it touches: one that denies it or has
/// a person asked. Whether the guest may change nothing at all ([`Protection::read_only`]) is no question here.
pub fn judge(
    root: BorrowedFd<'_>,
    outside: &Outside,
    settings: &Protection,
    planned: &[Planned],
) -> Result<Vec<Option<Finding>>, RulesError> {
    let rules = Rules::new(settings)?;
    Ok(judge_in(&Directory::new(root, outside), &rules, planned))
}

/// The same for any tree.
pub(super) fn judge_in(
    before: &dyn Look,
    rules: &Rules,
    planned: &[Planned],
) -> Vec<Option<Finding>> {
    let mut times: HashMap<&[u8], usize> = HashMap::new();
    for one in planned {
        *times.entry(&one.path).or_default() += 1;
    }
    let refused: Vec<Option<Finding>> = planned
        .iter()
        .map(|one| {
            let twice = times.get(one.path.as_slice()) != Some(&1);
            refused(&one.path, twice)
        })
        .collect();
    let taken = planned.iter().zip(&refused);
    let taken = taken.filter(|(_, refused)| refused.is_none());
    let after = Overlay::new(
        before,
        taken.map(|(one, _)| (one.path.as_slice(), &one.becomes)),
    );
    let plan = Plan {
        rules,
        before,
        after: &after,
    };
    let judged = planned.iter().zip(refused);
    judged
        .map(|(one, refused)| refused.or_else(|| plan.judge(one)))
        .collect()
}

/// Why a path can't be judged; such a change is no part of the tree.
fn refused(path: &[u8], twice: bool) -> Option<Finding> {
    if path.len() > LONGEST || names::split(path).len() > DEEPEST {
        return Some(Finding::new(TOO_LONG, path, ""));
    }
    let mut all = path.split(|byte| *byte == b'/');
    let why = if all.any(|name| matches!(name, b"" | b"." | b"..") || name.contains(&0)) {
        "it is no path of a file in the directory"
    } else if twice {
        "it is planned twice"
    } else {
        return None;
    };
    Some(Finding::new(UNCHECKED, path, why))
}

/// Whether a path leads through a directory of git's, as some file system compares names.
pub fn is_in_git(path: &[u8]) -> bool {
    let mut all = names::split(path).into_iter();
    all.any(|name| names::fold(name) == b".git")
}

/// Planned changes, and the trees before and after them.
struct Plan<'a> {
    rules: &'a Rules,
    before: &'a dyn Look,
    after: &'a Overlay<'a>,
}

impl Plan<'_> {
    fn judge(&self, one: &Planned) -> Option<Finding> {
        let path = &one.path;
        if is_in_git(path) {
            return Some(Finding::new(GIT_DIRECTORY, path, ""));
        }
        if self.rules.hides(path) {
            return Some(Finding::new(HIDE, path, ""));
        }
        let found = self.findings(one);
        let found = found.unwrap_or_else(|error| vec![Finding::unchecked(path, &error)]);
        let always = found.iter().find(|one| one.rule == GIT_DIRECTORY).cloned();
        let strongest = self.rules.roles.strongest(found);
        strongest.map(|(_, finding)| finding).or(always)
    }

    fn findings(&self, one: &Planned) -> io::Result<Vec<Finding>> {
        let mut all = Vec::new();
        all.extend(self.wrong_way(one)?);
        all.extend(self.replaced(&one.path, &one.becomes)?);
        if matches!(one.becomes, Becomes::Absent) {
            return Ok(all);
        }
        // The directories that are made for it.
        for directory in above(&one.path).filter(|path| !self.after.plans(path)) {
            if self.before.kind(directory)?.is_none() {
                all.extend(self.made(directory, &Becomes::Directory)?);
            }
        }
        all.extend(self.made(&one.path, &one.becomes)?);
        Ok(all)
    }

    /// A path that leads through something else than directories: the change would be made elsewhere.
    fn wrong_way(&self, one: &Planned) -> io::Result<Option<Finding>> {
        for directory in above(&one.path) {
            let fits = match one.becomes {
                Becomes::Absent => self.before.kind(directory)? != Some(Kind::Symlink),
                _ => self.after.kind(directory)? == Some(Kind::Directory),
            };
            if !fits {
                let said = "its path leads through what is no directory";
                return Ok(Some(Finding::new(UNCHECKED, &one.path, said)));
            }
        }
        Ok(None)
    }

    /// What a change takes away that a rule protects.
    fn replaced(&self, path: &[u8], becomes: &Becomes) -> io::Result<Vec<Finding>> {
        let kind = self.before.kind(path)?;
        let role = match kind {
            None => None,
            Some(_) => self.rules.roles.of(path, self.before)?,
        };
        let own = match role {
            Some(Role::Fixed(rule)) => Some(rule),
            Some(Role::Container(rule)) if kind == Some(Kind::Symlink) => Some(rule),
            _ => None,
        };
        let mut all: Vec<_> = own
            .into_iter()
            .map(|rule| Finding::new(rule, path, ""))
            .collect();
        if kind == Some(Kind::Directory) && !matches!(becomes, Becomes::Directory) {
            all.extend(self.lost_below(path)?);
        }
        Ok(all)
    }

    /// What a directory takes away with it.
    fn lost_below(&self, path: &[u8]) -> io::Result<Vec<Finding>> {
        let mut left = walk::ENTRIES;
        let mut all = Vec::new();
        let mut open = vec![path.to_vec()];
        while let Some(directory) = open.pop() {
            let entries = self.before.list(&directory, left)?;
            let Some(rest) = left.checked_sub(entries.len()) else {
                return Ok(vec![walk::too_many(path)]);
            };
            left = rest;
            for name in entries {
                let inner = names::join(&directory, &name);
                if is_in_git(&inner) {
                    return Ok(vec![Finding::new(GIT_DIRECTORY, &inner, "")]);
                }
                if self.rules.hides(&inner) {
                    return Ok(vec![Finding::new(HIDE, &inner, "")]);
                }
                match self.rules.roles.of(&inner, self.before)? {
                    Some(Role::Fixed(rule)) => all.push(Finding::new(rule, &inner, "")),
                    _ if self.before.kind(&inner)? == Some(Kind::Directory) => open.push(inner),
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    /// What a change brings.
    fn made(&self, path: &[u8], becomes: &Becomes) -> io::Result<Vec<Finding>> {
        let walk = Walk {
            roles: &self.rules.roles,
            hide: &self.rules.hide,
            before: self.before,
            after: self.after,
        };
        let mut all = match (self.rules.roles.of(path, self.after)?, becomes) {
            (None, _) => Vec::new(),
            (Some(Role::Contents(_) | Role::Container(_)), Becomes::Directory) => Vec::new(),
            (Some(Role::Contents(_)), Becomes::File(_)) => walk.entry(path, path)?,
            (Some(role), _) => vec![whole(role, path)],
        };
        if let Becomes::Link(_) = becomes {
            if shared::leads_below(path, self.after)? {
                all.push(Finding::new(shared::RULE, path, ""));
            }
            if layout::is_git(path, self.after)? {
                all.push(walk::link(path));
            }
            all.extend(walk.linked(path)?);
        }
        all.extend(walk.completed(path)?);
        Ok(all)
    }
}
