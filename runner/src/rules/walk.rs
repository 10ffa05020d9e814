//! What a move brings to its new place.

use std::io;

use crate::protection::Effect;

use super::change::{Finding, Kind, Look};
use super::git::weigh;
use super::git::{layout, shared, worktrees};
use super::hide::Hide;
use super::names;
use super::role::{Role, Roles};

/// The most files and directories that are looked at for one change.
pub(super) const ENTRIES: usize = 50_000;

/// The two trees of a change.
pub(super) struct Walk<'a> {
    pub(super) roles: &'a Roles,
    pub(super) hide: &'a Hide,
    pub(super) before: &'a dyn Look,
    pub(super) after: &'a dyn Look,
}

impl Walk<'_> {
    /// What is new at `to`, which was at `from`.
    pub(super) fn moved(&self, from: &[u8], to: &[u8]) -> io::Result<Vec<Finding>> {
        match self.after.kind(to)? {
            Some(Kind::Directory) => {
                let links = layout::is_git(to, self.after)? && !layout::is_git(from, self.before)?;
                match !links && self.stays_same(from, to)? {
                    true => Ok(Vec::new()),
                    false => self.search(from, to, links),
                }
            }
            Some(Kind::Symlink) if shared::leads_below(to, self.after)? => {
                Ok(vec![Finding::new(shared::RULE, to, "")])
            }
            kind => {
                let mut all = self.file(to, kind)?;
                if kind == Some(Kind::Symlink) && layout::is_git(to, self.after)? {
                    all.push(link(to));
                }
                Ok(all)
            }
        }
    }

    /// What a path takes away with it that a rule protects.
    pub(super) fn lost(&self, path: &[u8]) -> io::Result<Vec<Finding>> {
        let Some(Role::Container(_)) = self.roles.of(path, self.before)? else {
            return Ok(Vec::new());
        };
        let names = self.before.list(path, ENTRIES)?;
        if names.len() > ENTRIES {
            return Ok(vec![too_many(path)]);
        }
        let mut lost = Vec::new();
        for name in names {
            let inner = names::join(path, &name);
            if let Some(Role::Fixed(rule)) = self.roles.of(&inner, self.before)? {
                lost.push(Finding::new(rule, &inner, ""));
            }
        }
        Ok(lost)
    }

    /// What counts in the directory of `path` if it becomes a git directory by the change.
    pub(super) fn completed(&self, path: &[u8]) -> io::Result<Vec<Finding>> {
        let (directory, name) = names::parent(path);
        if !layout::is_mark(&names::fold(name)) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        if layout::is_git(directory, self.after)? && !layout::is_git(directory, self.before)? {
            all.extend(self.search(directory, directory, true)?);
        }
        if !layout::is_git_directory(directory, self.after)?
            || layout::is_git_directory(directory, self.before)?
        {
            return Ok(all);
        }
        let entries = self.after.list(directory, ENTRIES)?;
        if entries.len() > ENTRIES {
            return Ok(vec![too_many(directory)]);
        }
        for name in entries {
            if layout::is_head(&names::fold(&name)) {
                let inner = names::join(directory, &name);
                all.extend(self.search(&inner, &inner, false)?);
            }
        }
        Ok(all)
    }

    /// A directory of a submodule to which a symbolic link leads by a change to `path`.
    pub(super) fn linked(&self, path: &[u8]) -> io::Result<Option<Finding>> {
        if self.roles.effect("git-worktree") == Effect::Allow {
            return Ok(None);
        }
        let said = "git would write the submodule's files through a link";
        let linked = worktrees::linked(path, self.after)?;
        Ok(linked.map(|worktree| Finding::new("git-worktree", &worktree, said)))
    }

    /// A file at a new place.
    fn file(&self, to: &[u8], kind: Option<Kind>) -> io::Result<Vec<Finding>> {
        Ok(match self.roles.of(to, self.after)? {
            None => Vec::new(),
            Some(Role::Fixed(rule) | Role::Container(rule)) => vec![Finding::new(rule, to, "")],
            Some(Role::Contents(contents)) => {
                let old = match kind {
                    Some(Kind::File) => weigh::weigh(contents, to, self.before)?,
                    _ => Vec::new(),
                };
                weigh::added(old, weigh::weigh(contents, to, self.after)?)
            }
        })
    }

    /// Whether no file of a directory gets another role by a move. Its names stay, so only the new place can give a role:
    /// by a name there that means something, by a git directory that the path to a common directory now reaches, or since
    /// relative paths lead further up.
    fn stays_same(&self, from: &[u8], to: &[u8]) -> io::Result<bool> {
        let (old, new) = (names::split(from), names::split(to));
        let plain = new.iter().chain(&old).all(|name| self.roles.is_plain(name));
        let common = names::join(from, b"commondir");
        Ok(plain
            && new.len() >= old.len()
            && !self.hide.places
            && self.roles.of(to, self.after)?.is_none()
            && self.before.kind(&common)?.is_none()
            && !shared::leads_below(to, self.after)?)
    }

    /// Everything at and below a path, against where it was; `links`: symbolic links count.
    fn search(&self, from: &[u8], to: &[u8], links: bool) -> io::Result<Vec<Finding>> {
        let mut left = ENTRIES;
        let mut asked = None;
        let mut open = vec![(from.to_vec(), to.to_vec())];
        while let Some((old, new)) = open.pop() {
            let mut found = self.entry(&old, &new)?;
            let kind = self.after.kind(&new)?;
            if links && kind == Some(Kind::Symlink) {
                found.push(link(&new));
            }
            match self.roles.strongest(found) {
                Some((Effect::Deny, finding)) => return Ok(vec![finding]),
                Some((_, finding)) => asked = Some(finding),
                None => {}
            }
            if kind != Some(Kind::Directory) {
                continue;
            }
            let names = self.after.list(&new, left)?;
            let Some(rest) = left.checked_sub(names.len()) else {
                return Ok(vec![too_many(to)]);
            };
            left = rest;
            for name in names {
                open.push((names::join(&old, &name), names::join(&new, &name)));
            }
        }
        Ok(asked.into_iter().collect())
    }

    /// What is new about one path of a moved directory.
    pub(super) fn entry(&self, old: &[u8], new: &[u8]) -> io::Result<Vec<Finding>> {
        if self.hide.hides(old) != self.hide.hides(new) {
            return Ok(vec![Finding::new("hide", new, "")]);
        }
        let before = self.roles.of(old, self.before)?;
        let after = self.roles.of(new, self.after)?;
        Ok(match after {
            None => Vec::new(),
            Some(Role::Fixed(_)) if before == after => Vec::new(),
            Some(Role::Fixed(rule)) => vec![Finding::new(rule, new, "")],
            Some(Role::Container(rule)) => match self.after.kind(new)? {
                Some(Kind::Directory) => Vec::new(),
                _ if before == after => Vec::new(),
                _ => vec![Finding::new(rule, new, "")],
            },
            Some(Role::Contents(contents)) => {
                let was = match before == after {
                    true => weigh::weigh(contents, old, self.before)?,
                    false => Vec::new(),
                };
                weigh::added(was, weigh::weigh(contents, new, self.after)?)
            }
        })
    }
}

/// The finding of a symbolic link in a git directory.
pub(super) fn link(path: &[u8]) -> Finding {
    Finding::new("git-links", path, "a symbolic link in a git directory")
}

/// The finding of a directory that is too large to search.
pub(super) fn too_many(path: &[u8]) -> Finding {
    let said = format!("the directory has more than {ENTRIES} files to check");
    Finding::new("unchecked", path, &said)
}
