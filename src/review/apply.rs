//! Changes of the host's directory as one step: all of it, or nothing.
//!
//! ```text
//! <applies>/<number>/journal.json   what is there before and after, and how far the step is
//!                   /contents/      the old and the new contents
//! ```
//!
//! Everything is prepared before anything is given up: the journal and all contents are on the disk, and new files are
//! staged beside their places under names that the journal knows. Then removals, directories and renames follow. A step
//! that was interrupted is taken back by [`Applies::recover`], which every later step does first. What the host's other programs
//! changed meanwhile is never touched: a path is changed only while it has the state that the journal expects.
//!
//! A step that is done stays, so that it can be undone; at most [`KEPT`] of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snowglobe_init::wire::tree::{escape, unescape};

use super::entry::{Entry, same};
use super::root::{Root, above, temporary};
use crate::copy::{Contents, CopyError, HostStamp};
use crate::{files, presence, private};

/// How many steps can be undone.
pub const KEPT: usize = 20;

/// The version of the journals written here.
const VERSION: u32 = 1;

/// Why changes could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host changed a file while the changes were being applied. Nothing was changed.
    #[error(
        "apply the changes: {0} was changed on the host meanwhile, so nothing was; look at the changes again"
    )]
    Meanwhile(String),
    /// A change could not be made; what was done before it was taken back.
    #[error("apply the changes: change {path}; nothing was changed")]
    Change {
        /// The path.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to undo.
    #[error("undo: nothing was applied, or all of it was undone")]
    Nothing,
    /// A path changed since.
    #[error(
        "undo: {0} was changed on the host since, so nothing was undone; with --skip-conflicts the rest is"
    )]
    Since(String),
    /// A content can't be kept.
    #[error(transparent)]
    Content(#[from] CopyError),
    /// The journal.
    #[error("{operation} {path}")]
    Journal {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn journal_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ApplyError {
    let path = path.to_owned();
    move |source| ApplyError::Journal {
        operation,
        path,
        source,
    }
}

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The path, escaped.
    pub path: String,
    /// What is there now; `None`: nothing.
    pub old: Option<Entry>,
    /// What is there afterwards; `None`: nothing.
    pub new: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Progress {
    /// It may have begun.
    Begun,
    /// It is done, and can be undone.
    Done,
    /// It was undone.
    Undone,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    version: u32,
    progress: Progress,
    /// The number of the step that this one undoes.
    undoes: Option<u64>,
    operations: Vec<Operation>,
    /// The temporary name of each operation's new file.
    temporary: Vec<String>,
}

/// The place of the steps of one directory of the host.
#[derive(Debug)]
pub struct Applies {
    dir: PathBuf,
    _alone: File,
}

/// One step.
struct Step {
    number: u64,
    dir: PathBuf,
    journal: Journal,
}

impl Step {
    fn contents(&self) -> Contents {
        Contents::at(self.dir.join("contents"))
    }

    fn write(&self) -> Result<(), ApplyError> {
        let path = self.dir.join("journal.json");
        let text = serde_json::to_vec(&self.journal).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(journal_error("write", &path))
    }
}

/// What recovering found: paths that have neither their old nor their new state, and were left alone.
pub type Strangers = Vec<String>;

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
        self.forget_old()
    }

    /// Undoes the newest step that is done and was not undone; gives its operations, as they were made. Where a path has
    /// changed since, nothing is undone, or with `skip` the rest; those paths are given, too. Blocks.
    pub fn undo(
        &self,
        root: &Root<'_>,
        skip: bool,
    ) -> Result<(Vec<Operation>, Vec<String>, Contents), ApplyError> {
        self.recover(root)?;
        let step =
            self.steps()?.into_iter().rev().find(|step| {
                step.journal.progress == Progress::Done && step.journal.undoes.is_none()
            });
        let mut step = step.ok_or(ApplyError::Nothing)?;
        let contents = step.contents();
        let (mut back, mut changed) = (Vec::new(), Vec::new());
        for operation in &step.journal.operations {
            let now = look(root, operation, &contents)?;
            match same(now.as_ref(), operation.new.as_ref()) {
                true => back.push(Operation {
                    path: operation.path.clone(),
                    old: now,
                    new: operation.old.clone(),
                }),
                false if same(now.as_ref(), operation.old.as_ref()) => {}
                false if skip => changed.push(operation.path.clone()),
                false => return Err(ApplyError::Since(operation.path.clone())),
            }
        }
        let back = with_directories(root, back, &contents)?;
        let undone: BTreeSet<_> = back.iter().map(|one| one.path.clone()).collect();
        self.carry_out(root, back, &contents, Some(step.number))?;
        step.journal.progress = Progress::Undone;
        step.write()?;
        let operations = step.journal.operations.into_iter();
        let operations = operations.filter(|one| undone.contains(&one.path));
        Ok((operations.collect(), changed, contents))
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
        let prepared = prepare(&step, root, from).and_then(|stamps| {
            step.contents().sync()?;
            // From here on recovering knows what to take back.
            step.write().map(|()| stamps)
        });
        let stamps = match prepared {
            Ok(stamps) => stamps,
            Err(error) => {
                fs::remove_dir_all(&step.dir).ok();
                return Err(error);
            }
        };
        if let Err(error) = change(&step, root, &stamps) {
            forget(step, root)?;
            return Err(error);
        }
        step.journal.progress = match undoes {
            Some(_) => Progress::Undone,
            None => Progress::Done,
        };
        step.write()
    }

    /// Removes the oldest steps, which can't be undone any more.
    fn forget_old(&self) -> Result<(), ApplyError> {
        let steps = self.steps()?;
        let old = steps.len().saturating_sub(KEPT);
        for step in &steps[..old] {
            fs::remove_dir_all(&step.dir).map_err(journal_error("remove", &step.dir))?;
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

fn failed(path: &str) -> impl FnOnce(io::Error) -> ApplyError {
    let path = path.to_owned();
    move |source| ApplyError::Change { path, source }
}

fn look(
    root: &Root<'_>,
    operation: &Operation,
    contents: &Contents,
) -> Result<Option<Entry>, ApplyError> {
    let found = root.look(&unescape(&operation.path), contents);
    let found = found.map_err(failed(&operation.path))?;
    Ok(found.map(|(entry, _)| entry))
}

/// Checks that each path is as expected, and keeps the contents of both sides; gives the states that the paths have.
fn prepare(
    step: &Step,
    root: &Root<'_>,
    from: &Contents,
) -> Result<Vec<Option<HostStamp>>, ApplyError> {
    let contents = step.contents();
    let mut stamps = Vec::new();
    for operation in &step.journal.operations {
        let found = root.look(&unescape(&operation.path), &contents);
        let found = found.map_err(failed(&operation.path))?;
        let now = found.as_ref().map(|(entry, _)| entry);
        if !same(now, operation.old.as_ref()) {
            return Err(ApplyError::Meanwhile(operation.path.clone()));
        }
        if let Some(Entry::File { hash, size, .. }) = &operation.new {
            contents.add(&mut from.open(hash)?, *size)?;
        }
        stamps.push(found.map(|(_, stamp)| stamp));
    }
    Ok(stamps)
}

/// Makes the changes of a step: removals, directories, then files.
fn change(step: &Step, root: &Root<'_>, stamps: &[Option<HostStamp>]) -> Result<(), ApplyError> {
    let contents = step.contents();
    let operations = || {
        let named = step.journal.operations.iter().zip(&step.journal.temporary);
        named.zip(stamps).map(|((operation, temporary), stamp)| {
            (unescape(&operation.path), operation, temporary, *stamp)
        })
    };
    let is_directory = |entry: &Option<Entry>| matches!(entry, Some(Entry::Directory { .. }));
    let expected = |path: &[u8], operation: &Operation, stamp: Option<HostStamp>| match root
        .stamp(path)
        .map_err(failed(&operation.path))?
        == stamp
    {
        true => Ok(()),
        false => Err(ApplyError::Meanwhile(operation.path.clone())),
    };
    // A directory that becomes a file, and a file that becomes a directory, go first; so do all that go.
    let goes = |operation: &Operation| {
        operation.new.is_none() || is_directory(&operation.old) != is_directory(&operation.new)
    };
    let mut gone: Vec<_> = operations()
        .filter(|(_, operation, ..)| operation.old.is_some() && goes(operation))
        .collect();
    gone.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, operation, _, stamp) in &gone {
        let directory = is_directory(&operation.old);
        if !directory {
            expected(path, operation, *stamp)?;
        }
        match root.remove(path, directory) {
            // Files in it that nothing removes are the host's.
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty && operation.new.is_none() => {}
            removed => removed.map_err(failed(&operation.path))?,
        }
    }
    let mut made: Vec<_> = operations()
        .filter(|(_, operation, ..)| is_directory(&operation.new) && !is_directory(&operation.old))
        .collect();
    made.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, operation, ..) in &made {
        let Some(Entry::Directory { mode }) = &operation.new else {
            continue;
        };
        root.make_directory(path, *mode)
            .map_err(failed(&operation.path))?;
    }
    let written = || {
        operations().filter(|(_, operation, ..)| {
            matches!(operation.new, Some(Entry::File { .. } | Entry::Link { .. }))
        })
    };
    for (path, operation, temporary, _) in written() {
        let Some(entry) = &operation.new else {
            continue;
        };
        root.stage(&path, entry, temporary, &contents)
            .map_err(failed(&operation.path))?;
    }
    for (path, operation, temporary, stamp) in written() {
        let stamp = stamp.filter(|_| !goes(operation));
        expected(&path, operation, stamp)?;
        match root.swap(&path, temporary, stamp.is_some()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(ApplyError::Meanwhile(operation.path.clone()));
            }
            swapped => swapped.map_err(failed(&operation.path))?,
        }
    }
    for (path, operation, ..) in operations() {
        root.sync(&path).map_err(failed(&operation.path))?;
    }
    Ok(())
}

/// Whether an error says that another program has put something else at a path or above it.
fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    // The last one is what a link above gives.
    matches!(
        error.kind(),
        Kind::NotFound
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::AlreadyExists
            | Kind::DirectoryNotEmpty
    ) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Gives each path its old state again, unless it has a state that the step did not make.
fn take_back(step: &Step, root: &Root<'_>) -> Result<Strangers, ApplyError> {
    let contents = step.contents();
    let mut strangers = Vec::new();
    let steps: Vec<_> = step
        .journal
        .operations
        .iter()
        .zip(&step.journal.temporary)
        .collect();
    for (operation, temporary) in &steps {
        let path = unescape(&operation.path);
        // What else stands in the way is found below.
        root.unstage(&path, temporary).ok();
    }
    // What was made goes, the deepest first; then what was there comes back, the highest first.
    let mut made = steps.clone();
    made.sort_by_key(|(operation, _)| std::cmp::Reverse(unescape(&operation.path)));
    let mut back = Vec::new();
    for (operation, temporary) in made {
        let path = unescape(&operation.path);
        let Ok(now) = look(root, operation, &contents) else {
            strangers.push(operation.path.clone());
            continue;
        };
        if same(now.as_ref(), operation.old.as_ref()) {
            continue;
        }
        let directory = |entry: Option<&Entry>| matches!(entry, Some(Entry::Directory { .. }));
        match &now {
            Some(entry) if !same(Some(entry), operation.new.as_ref()) => {
                strangers.push(operation.path.clone());
                continue;
            }
            // A file that takes its old place again replaces the new one.
            Some(_)
                if operation.old.is_none()
                    || directory(now.as_ref())
                    || directory(operation.old.as_ref()) =>
            {
                let removed = root.remove(&path, directory(now.as_ref()));
                match removed {
                    // Another program has put a file there.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                        strangers.push(operation.path.clone());
                        continue;
                    }
                    removed => removed.map_err(failed(&operation.path))?,
                }
            }
            _ => {}
        }
        if operation.old.is_some() {
            back.push((path, operation, temporary));
        }
    }
    back.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, operation, temporary) in back {
        let Some(old) = &operation.old else { continue };
        let restored = match old {
            Entry::Directory { mode } => root.make_directory(&path, *mode),
            entry => root
                .stage(&path, entry, temporary, &contents)
                .and_then(|()| root.swap(&path, temporary, true)),
        };
        match restored.and_then(|()| root.sync(&path)) {
            Ok(()) => {}
            // Something of the host's stands in the way.
            Err(error) if is_in_the_way(&error) => strangers.push(operation.path.clone()),
            Err(error) => return Err(failed(&operation.path)(error)),
        }
    }
    Ok(strangers)
}

/// Operations that make the missing directories of these operations.
pub fn with_directories(
    root: &Root<'_>,
    operations: Vec<Operation>,
    contents: &Contents,
) -> Result<Vec<Operation>, ApplyError> {
    let planned: BTreeSet<Vec<u8>> = operations.iter().map(|one| unescape(&one.path)).collect();
    let mut missing = BTreeSet::new();
    for operation in operations.iter().filter(|one| one.new.is_some()) {
        let path = unescape(&operation.path);
        for dir in above(&path) {
            if !planned.contains(dir) && !missing.contains(dir) {
                let found = root.look(dir, contents).map_err(failed(&operation.path))?;
                if found.is_none() {
                    missing.insert(dir.to_vec());
                }
            }
        }
    }
    let made = missing.into_iter().map(|path| Operation {
        path: escape(&path),
        old: None,
        new: Some(Entry::Directory { mode: 0o755 }),
    });
    Ok(made.chain(operations).collect())
}

#[cfg(test)]
mod tests;
