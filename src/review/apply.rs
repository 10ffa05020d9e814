//! Changes of the host's directory as one step: all of it, or nothing.
//!
//! ```text
//! <applies>/<number>/journal.json   what is there before and after, and how far the step is
//!                   /contents/      the old and the new contents
//! ```
//!
//! Everything is prepared before anything is given up: the journal and all contents are on the disk. Then removals,
//! directories and files follow ([`make`]); new files are staged beside their places under names that the journal knows. A
//! step that was interrupted is taken back by [`Applies::recover`], which every later step does first ([`take_back`]). What
//! the host's other programs changed meanwhile is never lost: a path is changed only while it has the state that the journal
//! expects, which is checked after it has lost its name.
//!
//! A step that is done stays, so that it can be undone; at most [`KEPT`] of them, and [`MOST`] bytes.
//!
//! [`make`]: super::make
//! [`take_back`]: super::take_back

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directories::with_directories;
use super::entry::same;
use super::journal::{ApplyError, Journal, Operation, Progress, Step, VERSION, journal_error};
use super::make::{make, prepare};
use super::root::{Root, temporary};
use super::take_back::{Strangers, take_back};
use crate::copy::Contents;
use crate::{files, presence, private};

/// How many steps can be undone.
pub const KEPT: usize = 20;

/// How many bytes the contents of the steps that can be undone may have; the newest step stays in any case.
const MOST: u64 = 4 << 30;

/// The place of the steps of one directory of the host.
#[derive(Debug)]
pub struct Applies {
    dir: PathBuf,
    _alone: File,
}

/// A step that is about to be undone.
#[derive(Debug)]
pub struct Undoing {
    step: Step,
    back: Vec<Operation>,
    /// The paths that are left, since they have changed.
    changed: BTreeSet<String>,
}

impl Undoing {
    /// The operations after which each path has its old state, as they were made; with whether that changes anything.
    pub fn operations(&self) -> impl Iterator<Item = (&Operation, bool)> {
        let undone: BTreeSet<_> = self.back.iter().map(|one| &one.path).collect();
        let all = self.step.journal.operations.iter();
        all.filter(|one| !self.changed.contains(&one.path))
            .map(move |one| (one, undone.contains(&one.path)))
    }

    /// The paths that are left, since they have changed.
    pub fn changed(&self) -> impl Iterator<Item = &String> {
        self.changed.iter()
    }

    /// The contents of both sides.
    pub fn contents(&self) -> Contents {
        self.step.contents()
    }
}

impl Applies {
    /// Opens the place; made if it is not there. No other process uses it meanwhile. Blocks.
    pub fn open(dir: &Path) -> Result<Self, ApplyError> {
        let lock = dir.join("lock");
        private::dir(dir).map_err(journal_error("make the directory", dir))?;
        let alone = files::lock(&lock).map_err(journal_error("lock", &lock))?;
        Ok(Self {
            dir: dir.to_owned(),
            _alone: alone,
        })
    }

    /// The steps by number. What has no journal never began, and is removed.
    fn steps(&self) -> Result<Vec<Step>, ApplyError> {
        let mut steps = Vec::new();
        for dir in presence::entries(&self.dir).map_err(journal_error("list", &self.dir))? {
            let name = dir.file_name().and_then(|name| name.to_str());
            let Some(number) = name.and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = dir.join("journal.json");
            let Some(text) = presence::read(&path).map_err(journal_error("read", &path))? else {
                fs::remove_dir_all(&dir).ok();
                continue;
            };
            let journal: Journal = serde_json::from_slice(&text)
                .map_err(|error| journal_error("understand", &path)(error.into()))?;
            if journal.version != VERSION {
                let source = io::Error::other("it is of another release");
                return Err(journal_error("understand", &path)(source));
            }
            steps.push(Step {
                number,
                dir,
                journal,
            });
        }
        steps.sort_by_key(|step| step.number);
        Ok(steps)
    }

    /// Takes back steps that were interrupted. What a path had that is left alone stays among the step's contents. Blocks.
    pub fn recover(&self, root: &Root<'_>) -> Result<Strangers, ApplyError> {
        let mut strangers = Vec::new();
        for step in self.steps()? {
            if step.journal.progress == Progress::Begun {
                strangers.extend(forget(step, root)?);
            }
        }
        Ok(strangers)
    }

    /// Makes the changes: all of them, or none. `from` has the new contents. Blocks.
    pub fn apply(
        &self,
        root: &Root<'_>,
        operations: Vec<Operation>,
        from: &Contents,
    ) -> Result<(), ApplyError> {
        self.recover(root)?;
        if operations.is_empty() {
            return Ok(());
        }
        self.carry_out(root, operations, from, None)?;
        self.forget_old(MOST)
    }

    /// Prepares undoing the newest step that is done and was not undone; nothing is changed yet. Where a path has changed
    /// since, that is an error, or with `skip` the path is left. Blocks.
    pub fn undoing(&self, root: &Root<'_>, skip: bool) -> Result<Undoing, ApplyError> {
        self.recover(root)?;
        let step =
            self.steps()?.into_iter().rev().find(|step| {
                step.journal.progress == Progress::Done && step.journal.undoes.is_none()
            });
        let step = step.ok_or(ApplyError::Nothing)?;
        let contents = step.contents();
        let (mut back, mut changed) = (Vec::new(), BTreeSet::new());
        for operation in &step.journal.operations {
            let now = root.look(&operation.bytes(), &contents);
            let now = now.map_err(operation.failed())?;
            match same(now.as_ref(), operation.new.as_ref()) {
                true => back.push(Operation {
                    path: operation.path.clone(),
                    old: now,
                    new: operation.old.clone(),
                }),
                false if same(now.as_ref(), operation.old.as_ref()) => {}
                false if skip => drop(changed.insert(operation.path.clone())),
                false => return Err(ApplyError::Since(operation.path.clone())),
            }
        }
        let back = with_directories(root, back, &contents)?;
        Ok(Undoing {
            step,
            back,
            changed,
        })
    }

    /// Undoes a step: all that was prepared, or nothing. Blocks.
    pub fn undo(&self, root: &Root<'_>, undoing: Undoing) -> Result<(), ApplyError> {
        let Undoing { mut step, back, .. } = undoing;
        let contents = step.contents();
        self.carry_out(root, back, &contents, Some(step.number))?;
        step.journal.progress = Progress::Undone;
        step.write()
    }

    fn carry_out(
        &self,
        root: &Root<'_>,
        operations: Vec<Operation>,
        from: &Contents,
        undoes: Option<u64>,
    ) -> Result<(), ApplyError> {
        let number = self.steps()?.last().map_or(1, |step| step.number + 1);
        let dir = self.dir.join(number.to_string());
        let within = dir.join("contents");
        let made = private::new_dir(&dir).and_then(|()| private::new_dir(&within));
        made.map_err(journal_error("make the directory", &dir))?;
        let mut step = Step {
            number,
            dir,
            journal: Journal {
                version: VERSION,
                progress: Progress::Begun,
                undoes,
                temporary: operations.iter().map(|_| temporary()).collect(),
                operations,
            },
        };
        let prepared = prepare(&step, root, from).and_then(|found| {
            step.contents().sync()?;
            // From here on recovering knows what to take back.
            step.write().map(|()| found)
        });
        let found = match prepared {
            Ok(found) => found,
            Err(error) => {
                fs::remove_dir_all(&step.dir).ok();
                return Err(error);
            }
        };
        if let Err(error) = make(&step, root, &found) {
            forget(step, root)?;
            return Err(error);
        }
        step.journal.progress = match undoes {
            Some(_) => Progress::Undone,
            None => Progress::Done,
        };
        step.write()
    }

    /// Removes the oldest steps, which can't be undone any more: those beyond [`KEPT`] steps or so many bytes.
    fn forget_old(&self, most: u64) -> Result<(), ApplyError> {
        let mut bytes: u64 = 0;
        for (newer, step) in self.steps()?.iter().rev().enumerate() {
            bytes = bytes.saturating_add(step.bytes());
            if newer >= KEPT || (newer > 0 && bytes > most) {
                fs::remove_dir_all(&step.dir).map_err(journal_error("remove", &step.dir))?;
            }
        }
        Ok(())
    }
}

/// Takes a step back and forgets it, unless a path was left alone: then its old content may be nowhere else.
fn forget(mut step: Step, root: &Root<'_>) -> Result<Strangers, ApplyError> {
    let strangers = take_back(&step, root)?;
    if strangers.is_empty() {
        fs::remove_dir_all(&step.dir).map_err(journal_error("remove", &step.dir))?;
        return Ok(strangers);
    }
    step.journal.progress = Progress::Undone;
    step.write()?;
    let dir = step.dir.display();
    tracing::warn!(%dir, "the old contents of files that were left alone are kept here");
    Ok(strangers)
}

#[cfg(test)]
mod tests;
