//! Which rule a path falls under, by its names.

use std::collections::HashMap;
use std::io;

use crate::Repository;
use crate::protection::{Effect, Protection, Protects, TABLE};

use super::change::{Finding, Look};
use super::git::layout::{self, Contents};
use super::git::others::{self, Part};
use super::git::shared;
use super::names;

/// The rule of hooks, whose samples are free.
const HOOKS: &str = "git-hooks";

/// What a path is to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A rule protects it, whatever it contains.
    Fixed(&'static str),
    /// A directory below which a rule protects everything. As a directory it is free.
    Container(&'static str),
    /// Its contents decide.
    Contents(Contents),
}

/// The table with the effects of one share.
#[derive(Debug)]
pub(super) struct Roles {
    effects: HashMap<&'static str, Effect>,
    /// The rules of whole names.
    names: HashMap<&'static [u8], Vec<&'static str>>,
    /// The rules of the ends of names.
    ends: Vec<(&'static [u8], &'static str)>,
    /// The rules of several names in a row.
    rows: Vec<(Vec<&'static [u8]>, &'static str)>,
    /// The rules of directories in a git directory.
    in_git: Vec<(&'static [u8], &'static str)>,
    /// The repository whose directory the tree is.
    pub(super) repository: Option<Repository>,
}

impl Roles {
    /// The roles, or the first id that is not in the table.
    pub(super) fn new(settings: &Protection) -> Result<Self, String> {
        let mut roles = Self {
            effects: TABLE.iter().map(|row| (row.id, row.default)).collect(),
            names: HashMap::new(),
            ends: Vec::new(),
            rows: Vec::new(),
            in_git: Vec::new(),
            repository: None,
        };
        for (id, effect) in &settings.rules {
            match roles.effects.get_mut(id.as_str()) {
                Some(default) => *default = *effect,
                None => return Err(id.clone()),
            }
        }
        for row in TABLE {
            match row.protects {
                Protects::Names(all) => {
                    for name in all {
                        roles.add(name, row.id);
                    }
                }
                Protects::InGitDirectory(all) => roles
                    .in_git
                    .extend(all.iter().map(|name| (name.as_bytes(), row.id))),
                Protects::GitContents => {}
            }
        }
        Ok(roles)
    }

    fn add(&mut self, pattern: &'static str, id: &'static str) {
        if let Some(end) = pattern.strip_prefix('*') {
            self.ends.push((end.as_bytes(), id));
        } else if pattern.contains('/') {
            let row = pattern.split('/').map(str::as_bytes).collect();
            self.rows.push((row, id));
        } else {
            self.names.entry(pattern.as_bytes()).or_default().push(id);
        }
    }

    /// The effect of a rule; one that is not in the table can't be turned off.
    pub(super) fn effect(&self, rule: &str) -> Effect {
        self.effects.get(rule).copied().unwrap_or(Effect::Deny)
    }

    /// The finding that decides; nothing if none does.
    pub(super) fn strongest(&self, findings: Vec<Finding>) -> Option<(Effect, Finding)> {
        let mut asked = None;
        for finding in findings {
            match self.effect(finding.rule) {
                Effect::Deny => return Some((Effect::Deny, finding)),
                Effect::Ask => asked = asked.or(Some((Effect::Ask, finding))),
                Effect::Allow => {}
            }
        }
        asked
    }

    /// What a path is in a tree.
    pub(super) fn of(&self, path: &[u8], look: &dyn Look) -> io::Result<Option<Role>> {
        let folded: Vec<Vec<u8>> = names::split(path).into_iter().map(names::fold).collect();
        let mut roles = Vec::new();
        self.by_name(&folded, &mut roles);
        self.by_git_directory(path, &folded, look, &mut roles)?;
        if self.effect(shared::RULE) != Effect::Allow && shared::is_hook(path, &folded, look)? {
            roles.push(Role::Fixed(shared::RULE));
        }
        if let Some(repository) = &self.repository {
            let part = others::part(path, &folded, repository);
            roles.extend(part.map(|part| match part {
                Part::Whole => Role::Fixed(others::RULE),
                Part::Around => Role::Container(others::RULE),
            }));
        }
        let effect = |role: &Role| match role {
            Role::Fixed(rule) | Role::Container(rule) => self.effect(rule),
            Role::Contents(_) => Effect::Deny,
        };
        for wanted in [Effect::Deny, Effect::Ask] {
            if let Some(role) = roles.iter().find(|role| effect(role) == wanted) {
                return Ok(Some(*role));
            }
        }
        Ok(layout::contents(path, &folded, look)?.map(Role::Contents))
    }

    fn by_name(&self, folded: &[Vec<u8>], roles: &mut Vec<Role>) {
        for (at, name) in folded.iter().enumerate() {
            let whole = self.names.get(name.as_slice()).into_iter().flatten();
            let ends = self
                .ends
                .iter()
                .filter(|(end, _)| name.ends_with(end))
                .map(|(_, id)| id);
            let rows = self
                .rows
                .iter()
                .filter(|(row, _)| {
                    let here = folded.get(at..at + row.len());
                    here.is_some_and(|here| {
                        here.iter().zip(row).all(|(name, wanted)| name == wanted)
                    })
                })
                .map(|(_, id)| id);
            roles.extend(whole.chain(ends).chain(rows).map(|id| Role::Fixed(id)));
        }
    }

    fn by_git_directory(
        &self,
        path: &[u8],
        folded: &[Vec<u8>],
        look: &dyn Look,
        roles: &mut Vec<Role>,
    ) -> io::Result<()> {
        let mut directory = Vec::new();
        for (at, (name, real)) in folded.iter().zip(names::split(path)).enumerate() {
            for (wanted, id) in &self.in_git {
                if wanted != name || !layout::is_git_directory(&directory, look)? {
                    continue;
                }
                match &folded[at + 1..] {
                    [] => roles.push(Role::Container(id)),
                    // Git never runs a sample.
                    [sample] if *id == HOOKS && sample.ends_with(b".sample") => {}
                    _ => roles.push(Role::Fixed(id)),
                }
            }
            if name == b".git" && layout::is_inside(&directory, look)? {
                roles.push(Role::Fixed("git-directory"));
            }
            directory = names::join(&directory, real);
        }
        Ok(())
    }

    /// Whether a name may have a meaning for a rule at its place.
    pub(super) fn is_plain(&self, name: &[u8]) -> bool {
        let folded = names::fold(name);
        layout::is_plain(&folded)
            && !self
                .rows
                .iter()
                .any(|(row, _)| row.iter().any(|part| *part == folded))
    }
}
