//! What the rules of the workspace say of changes.

use std::io::{self, Read};

use snowglobe_init::wire::tree::unescape;
use snowglobe_runner::protection::{Protection, TABLE};
use snowglobe_runner::rules::Outside;
use snowglobe_runner::rules::planned::{self, Becomes, Planned as Judged};

use super::super::SandboxError;
use crate::copy::Contents;
use crate::review::changes::Change;
use crate::review::entry::Entry;
use crate::review::flag::Flag;
use crate::workspace::SharedDir;

/// What the rules of the workspace say of changes.
pub(super) fn findings(
    changes: &[&Change],
    root: &SharedDir,
    protection: &Protection,
    contents: &Contents,
) -> Result<Vec<Option<Flag>>, SandboxError> {
    let mut all = Vec::new();
    for change in changes {
        if let Some(from) = &change.from {
            all.push(Judged {
                path: from.clone(),
                becomes: Becomes::Absent,
            });
        }
        all.push(Judged {
            path: change.path.clone(),
            becomes: becomes(change.new.as_ref(), contents),
        });
    }
    let outside = Outside::of_directory(root.path(), &[]);
    let mut found = planned::judge(root.dir(), &outside, protection, &all)?.into_iter();
    let flag = |finding: snowglobe_runner::rules::Finding| {
        let why = TABLE
            .iter()
            .find(|row| row.id == finding.rule)
            .map_or("", |row| row.why);
        Flag {
            word: finding.rule.to_owned(),
            why: match why {
                "" => finding.what,
                why => why.to_owned(),
            },
        }
    };
    let mut flags = Vec::new();
    for change in changes {
        let of_old = change.from.as_ref().and_then(|_| found.next()).flatten();
        flags.push(found.next().flatten().or(of_old).map(flag));
    }
    Ok(flags)
}

pub(super) fn becomes(new: Option<&Entry>, contents: &Contents) -> Becomes {
    match new {
        None => Becomes::Absent,
        Some(Entry::Directory { .. }) => Becomes::Directory,
        Some(Entry::Link { target }) => Becomes::Link(unescape(target)),
        Some(Entry::File { hash, .. }) => {
            let (contents, hash) = (contents.clone(), hash.clone());
            Becomes::File(Box::new(move |most| {
                let mut bytes = Vec::new();
                let file = contents.open(&hash).map_err(io::Error::other)?;
                file.take(most as u64).read_to_end(&mut bytes)?;
                Ok(bytes)
            }))
        }
    }
}

pub(super) fn judge(
    changes: &mut [Change],
    root: &SharedDir,
    protection: &Protection,
    contents: &Contents,
) -> Result<(), SandboxError> {
    let all: Vec<&Change> = changes.iter().collect();
    let found = findings(&all, root, protection, contents)?;
    for (change, flag) in changes.iter_mut().zip(found) {
        change.flags.extend(flag);
    }
    Ok(())
}
