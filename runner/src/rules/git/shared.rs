//! The hooks that `core.hooksPath` names: files of the project that git runs.

use std::io;

use crate::git_config as config;

use super::super::change::{Kind, Look};
use super::super::names;
use super::{layout, links};

/// The rule of these hooks.
pub(in super::super) const RULE: &str = "git-shared-hooks";

/// The deepest directory whose repository is looked at.
const DEEPEST: usize = 64;

/// Whether a repository around `path` has its hooks there.
///
/// Each change to a file would have to read the settings of all repositories around it. Only names that speak of hooks are
/// worth that: `.husky`, `.githooks`. The hooks of a repository outside of the tree are known without reading.
pub(in super::super) fn is_hook(
    path: &[u8],
    folded: &[Vec<u8>],
    look: &dyn Look,
) -> io::Result<bool> {
    let folded_path = names::fold_path(path);
    let is_in = |hooks: &[u8]| names::below(&folded_path, hooks).is_some();
    let mut outside = look.outside().hooks().iter();
    // If a whole tree has the hooks of a repository outside, only names that speak of hooks count, as above.
    if outside.any(|hooks| !hooks.is_empty() && is_in(&names::fold_path(hooks))) {
        return Ok(true);
    }
    if !folded.iter().any(|name| layout::may_be_hooks(name)) {
        return Ok(false);
    }
    Ok(around(path, look)?.iter().any(|hooks| is_in(hooks)))
}

/// Whether a repository around `path` has its hooks at it or further down.
pub(in super::super) fn leads_below(path: &[u8], look: &dyn Look) -> io::Result<bool> {
    let hooks = around(path, look)?;
    let path = names::fold_path(path);
    Ok(hooks
        .iter()
        .any(|hooks| names::below(hooks, &path).is_some()))
}

/// The folded paths of the hooks of all repositories around a path.
fn around(path: &[u8], look: &dyn Look) -> io::Result<Vec<Vec<u8>>> {
    let outside = look.outside().hooks().iter();
    let mut all: Vec<_> = outside.map(|hooks| names::fold_path(hooks)).collect();
    let mut directory = Vec::new();
    for name in names::split(path).into_iter().take(DEEPEST) {
        let hooks = hooks_path(&directory, look)?
            .and_then(|value| links::by_names(&directory, &value, look));
        all.extend(hooks.map(|hooks| names::fold_path(&hooks)));
        directory = names::join(&directory, name);
    }
    Ok(all)
}

/// The value of `core.hooksPath` in the repository of a working directory.
fn hooks_path(directory: &[u8], look: &dyn Look) -> io::Result<Option<Vec<u8>>> {
    let git = names::join(directory, b".git");
    let git = match look.kind(&git)? {
        Some(Kind::Directory) => git,
        Some(Kind::File) => {
            let text = look.read(&git, links::LARGEST)?.unwrap_or_default();
            match links::git_file(directory, &text, look)? {
                Some(git) => git,
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let mut files = vec![
        names::join(&git, b"config"),
        names::join(&git, b"config.worktree"),
    ];
    if look.kind(&names::join(&git, b"commondir"))?.is_some() {
        let common = names::parent(names::parent(&git).0).0;
        files.insert(0, names::join(common, b"config"));
    }
    let mut found = None;
    for file in files {
        let Some(text) = look.read(&file, config::LARGEST + 1)? else {
            continue;
        };
        let settings = config::parse(&text).map_err(io::Error::other)?;
        let mut paths = settings
            .into_iter()
            .filter(|it| it.section == "core" && it.name == "hookspath")
            .filter_map(|it| it.value);
        found = paths.next_back().or(found);
    }
    Ok(found)
}
