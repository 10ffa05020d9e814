//! What the contents of one of git's files would make git do.

use std::io;

use crate::git_config as config;

use super::super::change::{Finding, Kind, Look};
use super::super::names;
use super::layout::Contents;
use super::settings::{self, Weight};
use super::{links, worktrees};

/// One thing that a file makes git do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Weighed {
    /// What the rule found.
    pub(in super::super) finding: Finding,
    /// What it is in full; nothing, if it is never the same as another.
    same: Option<Vec<u8>>,
}

impl Weighed {
    fn is_same(&self, other: &Self) -> bool {
        self.finding.rule == other.finding.rule && self.same.is_some() && self.same == other.same
    }
}

/// The rule of a file as a whole.
pub(in super::super) const fn rule(contents: Contents) -> &'static str {
    match contents {
        Contents::Config => "git-settings",
        Contents::GitFile | Contents::Common => "git-directory",
        Contents::Todo | Contents::Strategy => "git-rebase",
    }
}

/// What the file at `path` makes git do. A file that can be changed by another name or lies elsewhere is a finding, too.
pub(in super::super) fn weigh(
    contents: Contents,
    path: &[u8],
    look: &dyn Look,
) -> io::Result<Vec<Weighed>> {
    let whole = |detail: &str, same: Option<Vec<u8>>| Weighed {
        finding: Finding::new(rule(contents), path, detail),
        same,
    };
    match look.kind(path)? {
        None | Some(Kind::Directory) => return Ok(Vec::new()),
        Some(Kind::File) => {}
        Some(_) => return Ok(vec![whole("it is no regular file", None)]),
    }
    let mut all = Vec::new();
    if look.links(path)? > 1 {
        all.push(whole("the file has a second name", Some(b"links".to_vec())));
    }
    let largest = match contents {
        Contents::Config => config::LARGEST,
        _ => links::LARGEST,
    };
    let Some(text) = look.read(path, largest + 1)? else {
        return Ok(all);
    };
    if text.len() > largest {
        all.push(whole("the file is too large to check", None));
        return Ok(all);
    }
    let fault = match contents {
        Contents::Config => {
            all.extend(weigh_settings(path, &text, look)?);
            None
        }
        Contents::GitFile => links::git_file_fault(path, &text, look)?,
        Contents::Common => links::common_fault(path, &text, look)?,
        Contents::Strategy => text.contains(&b'/').then_some("it names a program"),
        Contents::Todo => {
            let commands = links::todo_commands(&text);
            all.extend(
                commands
                    .iter()
                    .map(|command| whole(command, Some(command.as_bytes().to_vec()))),
            );
            None
        }
    };
    all.extend(fault.map(|fault| whole(fault, Some(text))));
    Ok(all)
}

fn weigh_settings(path: &[u8], text: &[u8], look: &dyn Look) -> io::Result<Vec<Weighed>> {
    let settings = match config::parse(text) {
        Ok(settings) => settings,
        Err(unsure) => {
            return Ok(vec![Weighed {
                finding: Finding::new("git-settings", path, &unsure.to_string()),
                same: None,
            }]);
        }
    };
    let mut all = Vec::new();
    for setting in settings {
        let Some((rule, weight)) = settings::rule(&setting) else {
            continue;
        };
        let value = setting.value.as_deref().unwrap_or_default();
        let counts = match weight {
            Weight::Counts => true,
            Weight::CountsAtPlace => !worktrees::is_allowed(names::parent(path).0, value, look)?,
        };
        if counts {
            let key = setting.key();
            let detail = format!("{key} = {}", String::from_utf8_lossy(value));
            let place: &[u8] = match weight {
                Weight::Counts => b"",
                Weight::CountsAtPlace => path,
            };
            let same = [
                setting.section.as_bytes(),
                &setting.subsection,
                setting.name.as_bytes(),
                value,
                place,
            ];
            all.push(Weighed {
                finding: Finding::new(rule, path, &detail),
                same: Some(same.join(&0)),
            });
        }
    }
    Ok(all)
}

/// What is in `after` and not in `before`.
pub(in super::super) fn added(mut before: Vec<Weighed>, after: Vec<Weighed>) -> Vec<Finding> {
    let mut added = Vec::new();
    for one in after {
        match before.iter().position(|other| other.is_same(&one)) {
            Some(at) => drop(before.swap_remove(at)),
            None => added.push(one.finding),
        }
    }
    added
}
