//! Which changes a guest may make in a shared directory, and what the changes that are planned for a directory touch.
//!
//! The guest writes to a directory of a person, whose programs run some files by themselves. The table of the protocol
//! says which. Here a change is judged before it is made: pure decisions about the [`Change`], and about as much of the
//! tree as [`Look`] shows.
//!
//! ```text
//! names     names as the host's file system compares them
//! role      which rule a path falls under;  git: what git's own files do
//! after     the tree after a change;  walk: what a moved directory brings
//! hide      files that look absent;  outside: what is around the tree
//! planned   changes that are made together;  overlay: the tree after them
//! directory a real tree
//! ```
//!
//! One sentence holds after each change: what a rule protects was there before, or was made by the host. It follows that
//!
//! - a change is judged by the tree after it: a directory that becomes a repository by the change is searched;
//! - a file whose contents count has one name only, and no symbolic link stands in its place;
//! - contents are judged as a whole, also those of a file that is written in place;
//! - what can't be read, or only by reading too much, is denied.
//!
//! Not protected is what a person runs by name: build files, scripts, programs in a virtual environment.

mod after;
mod change;
pub mod directory;
mod git;
mod hide;
mod names;
mod outside;
mod overlay;
pub mod planned;
mod role;
mod walk;

#[cfg(test)]
mod tests;

use std::io;

use crate::Repository;
use crate::protection::{Effect, HIDE, Protection, READ_ONLY, TOO_LONG, UNCHECKED};

use self::after::After;
pub use self::change::{Change, Finding, Kind, Look, Verdict};
use self::git::layout::Contents;
use self::git::{layout, shared, weigh};
use self::hide::Hide;
pub use self::hide::PatternError;
pub use self::outside::Outside;
use self::role::{Role, Roles};
use self::walk::Walk;

/// The longest path, in bytes, and the most names in it.
const LONGEST: usize = 4096;
const DEEPEST: usize = 256;

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A rule is not in the table.
    #[error("there is no rule {0:?}")]
    Unknown(String),
    /// A pattern is wrong.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// The rules of one share.
#[derive(Debug)]
pub struct Rules {
    roles: Roles,
    hide: Hide,
    read_only: bool,
}

impl Rules {
    /// The rules that `settings` make.
    pub fn new(settings: &Protection) -> Result<Self, RulesError> {
        Ok(Self {
            roles: Roles::new(settings).map_err(RulesError::Unknown)?,
            hide: Hide::new(&settings.hide)?,
            read_only: settings.read_only,
        })
    }

    /// The same rules for the directory of a repository.
    pub fn for_repository(mut self, repository: Repository) -> Self {
        self.roles.repository = Some(repository);
        self
    }

    /// Whether a path looks absent to the guest.
    pub fn hides(&self, path: &[u8]) -> bool {
        self.hide.hides(path)
    }

    /// Whether the contents of the file at a path decide about a change.
    pub fn weighs(&self, path: &[u8], look: &dyn Look) -> io::Result<bool> {
        Ok(matches!(
            self.roles.of(path, look)?,
            Some(Role::Contents(_))
        ))
    }

    /// Judges a change.
    pub fn check(&self, change: &Change<'_>, look: &dyn Look) -> Verdict {
        let first = change.paths().next().unwrap_or_default();
        if self.read_only {
            return Verdict::Deny(Finding::new(READ_ONLY, first, ""));
        }
        for path in change.paths() {
            if path.len() > LONGEST || names::split(path).len() > DEEPEST {
                return Verdict::Deny(Finding::new(TOO_LONG, path, ""));
            }
            if self.hides(path) {
                return Verdict::Deny(Finding::new(HIDE, path, ""));
            }
        }
        let findings = self
            .findings(*change, look)
            .unwrap_or_else(|error| vec![Finding::unchecked(first, &error)]);
        match self.roles.strongest(findings) {
            None | Some((Effect::Allow, _)) => Verdict::Allow,
            Some((Effect::Ask, finding)) => Verdict::Ask(finding),
            Some((Effect::Deny, finding)) => Verdict::Deny(finding),
        }
    }

    fn findings(&self, change: Change<'_>, look: &dyn Look) -> io::Result<Vec<Finding>> {
        let after = After::new(look, change);
        let walk = Walk {
            roles: &self.roles,
            hide: &self.hide,
            before: look,
            after: &after,
        };
        let fixed = |path: &[u8], look: &dyn Look| -> io::Result<Vec<Finding>> {
            let role = self.roles.of(path, look)?;
            Ok(match role {
                Some(Role::Fixed(rule)) => vec![Finding::new(rule, path, "")],
                // The host made it: git does not.
                Some(Role::Container(rule)) if look.kind(path)? == Some(Kind::Symlink) => {
                    vec![Finding::new(rule, path, "")]
                }
                _ => Vec::new(),
            })
        };
        match change {
            Change::Remove { path } | Change::Attributes { path } => fixed(path, look),
            Change::Create { path, kind } => {
                let mut all = match (self.roles.of(path, &after)?, kind) {
                    (Some(Role::Contents(_)), Kind::File | Kind::Directory)
                    | (Some(Role::Container(_)), Kind::Directory) => Vec::new(),
                    (role, _) => role.into_iter().map(|role| whole(role, path)).collect(),
                };
                all.extend(walk.completed(path)?);
                Ok(all)
            }
            Change::Symlink { path, target } => {
                let role = self.roles.of(path, &after)?;
                let mut all: Vec<_> = role.into_iter().map(|role| whole(role, path)).collect();
                if shared::leads_below(path, &after)? {
                    all.push(Finding::new(shared::RULE, path, ""));
                }
                if !layout::is_trial(path, target) && layout::is_git(path, &after)? {
                    all.push(walk::link(path));
                }
                all.extend(walk.linked(path)?);
                all.extend(walk.completed(path)?);
                Ok(all)
            }
            Change::Link { from, to } => {
                let old = self.roles.of(from, look)?.map(|role| whole(role, from));
                let new = self.roles.of(to, &after)?.map(|role| whole(role, to));
                let mut all: Vec<_> = old.into_iter().chain(new).collect();
                if look.kind(from)? == Some(Kind::Symlink) && layout::is_git(to, &after)? {
                    all.push(walk::link(to));
                }
                all.extend(walk.completed(to)?);
                Ok(all)
            }
            Change::Write { path, .. } | Change::Truncate { path, .. } => {
                match self.roles.of(path, look)? {
                    Some(Role::Contents(contents)) => written(contents, path, look, &after),
                    role => Ok(role.into_iter().map(|role| whole(role, path)).collect()),
                }
            }
            Change::Rename { from, to, exchange } => {
                if from == to {
                    return Ok(Vec::new());
                }
                if names::below(to, from).or(names::below(from, to)).is_some() {
                    let said = "one path is below the other";
                    return Ok(vec![Finding::new(UNCHECKED, to, said)]);
                }
                let mut all = fixed(from, look)?;
                all.extend(fixed(to, look)?);
                all.extend(walk.lost(from)?);
                all.extend(walk.moved(from, to)?);
                if exchange {
                    all.extend(walk.lost(to)?);
                    all.extend(walk.moved(to, from)?);
                    all.extend(walk.completed(from)?);
                }
                all.extend(walk.completed(to)?);
                all.extend(walk.linked(to)?);
                all.extend(walk.linked(from)?);
                Ok(all)
            }
        }
    }
}

/// The finding at a path where nothing but a plain file or directory may be.
fn whole(role: Role, path: &[u8]) -> Finding {
    match role {
        Role::Fixed(rule) | Role::Container(rule) => Finding::new(rule, path, ""),
        Role::Contents(contents) => {
            Finding::new(weigh::rule(contents), path, "it may only be a regular file")
        }
    }
}

/// What a file that is written in place brings. Settings that count are not written around: a program that writes a file
/// in parts would lose them when the second part is denied.
fn written(
    contents: Contents,
    path: &[u8],
    before: &dyn Look,
    after: &dyn Look,
) -> io::Result<Vec<Finding>> {
    let old = weigh::weigh(contents, path, before)?;
    let new = weigh::weigh(contents, path, after)?;
    let in_place = match contents {
        Contents::Config => old.clone(),
        _ => Vec::new(),
    };
    let mut all = weigh::added(old, new);
    all.extend(in_place.into_iter().map(|one| one.finding));
    Ok(all)
}
