//! Reviewing a copied workspace: its changes, and taking them over, back, or away.
//!
//! Both trees are compared with what the copy began with. What is taken over becomes what the copy begins with, so it is
//! no change any more; what was taken in part leaves the rest as a change. The guest's contents are fetched once and kept
//! by their hash: what a person has seen is what is applied.

mod back;
mod compare;
mod judge;
mod reports;
mod shown;
mod taken;

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, PoisonError};

use snowglobe_init::wire::tree::{PlacedResult, unescape};
use tokio::sync::MutexGuard;

use self::back::taken_back;
use self::compare::{Compared, hunks, known, readable};
use self::reports::reported;
pub(super) use self::shown::Shown;
use self::shown::{Seen, is_as_shown};
use self::taken::{begin_with, judged_again};
use super::guest_tree::Reached;
use super::sync::step;
use super::{Branch, Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::copy::Known;
use crate::disk::Store;
use crate::progress::Progress;
use crate::review::apply::Applies;
use crate::review::entry::Entry;
use crate::review::git_diff::shown;
use crate::review::journal::ApplyError;
use crate::review::plan::{Outcome, operations, plan};
use crate::review::report::{BranchReport, ChangeReport, Changes, Done, Selection, Step};
use crate::review::root::Root;
use crate::review::select::select;
use crate::timeline::{Event, Paths, WorkspaceChange};
use crate::workspace::SharedDir;

/// The hashes of the guest's files, by path, time of the last change of status and size.
pub(super) type Fetched = HashMap<(Vec<u8>, i64, u64), String>;

/// What is said of a path whose content is not the one that was shown.
const SINCE_SHOWN: &str =
    "the sandbox has changed it since `diff` showed it: look at it again, and apply it then";

/// What is said of a path where the host has the change already.
const ALREADY: &str = "there already";

/// Held while changes are compared, applied or brought in.
pub(super) struct Alone<'a> {
    _alone: MutexGuard<'a, ()>,
    /// No sweep takes a content that was fetched and that nothing names yet.
    _making: File,
}

impl Sandbox {
    /// Waits until no other call reviews the copy.
    pub(super) async fn alone(&self) -> Result<Alone<'_>, SandboxError> {
        Ok(Alone {
            _alone: self.reviewing.lock().await,
            _making: self.on_disk(Store::making).await?,
        })
    }

    /// The changes of the copy that were not applied, and its commits.
    pub async fn review(self: &Arc<Self>, progress: &Progress) -> Result<Changes, SandboxError> {
        let _alone = self.alone().await?;
        let (live, guest) = self.ready(progress).await?;
        let at = Reached { live: &live, guest };
        let compared = self.compared(&at, None, progress).await?;
        let newer_on_host = self.count_newer(&compared.began).await?;
        let (root, contents) = (self.host_root()?, self.review_contents().await?);
        let report = move || reported(&compared, &root, &contents);
        let (reports, mut notes) = blocking(report).await?;
        self.note_changes(&reports);
        let branches = match self.fetch_commits(progress).await {
            Ok(branches) => branches,
            Err(error) => {
                notes.push(format!("failed to {}", crate::describe(&error)));
                Vec::new()
            }
        };
        let branch = |branch: Branch| BranchReport {
            reference: branch.reference,
            commit: branch.commit,
        };
        Ok(Changes {
            changes: reports,
            newer_on_host,
            branches: branches.into_iter().map(branch).collect(),
            notes,
        })
    }

    /// The diff of the changes at or below these paths; of all without any.
    pub async fn diff(
        self: &Arc<Self>,
        paths: Vec<String>,
        progress: &Progress,
    ) -> Result<Vec<u8>, SandboxError> {
        let _alone = self.alone().await?;
        let (live, guest) = self.ready(progress).await?;
        let compared = self
            .compared(&Reached { live: &live, guest }, None, progress)
            .await?;
        let contents = self.review_contents().await?;
        let showing = move || -> Result<_, SandboxError> {
            let selection = Selection {
                paths,
                flagged: true,
                ..Selection::default()
            };
            let selected = select(&compared.changes, &selection, |_| usize::MAX)?;
            let (mut text, mut seen) = (Vec::new(), Seen::new());
            for index in selected.into_keys() {
                let change = &compared.changes[index];
                seen.insert(change.path.clone(), change.new.clone());
                text.extend(shown(change, &mut |hash, size| readable(&contents, hash, size))?.text);
            }
            Ok((text, seen))
        };
        let (text, seen) = blocking(showing).await?;
        self.shown.note(seen);
        Ok(text)
    }

    /// Applies changes to the host's directory: all that are selected, or nothing.
    pub async fn apply(
        self: &Arc<Self>,
        selection: Selection,
        progress: &Progress,
    ) -> Result<Done, SandboxError> {
        let _alone = self.alone().await?;
        let (live, guest) = self.ready(progress).await?;
        let mut compared = self
            .compared(&Reached { live: &live, guest }, Some(&selection), progress)
            .await?;
        let (root, contents) = (self.host_root()?, self.review_contents().await?);
        let (store, protection) = (self.store.clone(), self.protected.now());
        progress.say("applying");
        let shown = self.shown.now();
        let applying = move || -> Result<(Done, Compared, bool), SandboxError> {
            let mut selected = select(&compared.changes, &selection, |change| {
                hunks(change, &contents)
            })?;
            let mut since = Vec::new();
            selected.retain(|index, _| {
                let change = &compared.changes[*index];
                let is_same = is_as_shown(&shown, change, &compared.guest);
                if !is_same {
                    since.push(step(&change.path, SINCE_SHOWN));
                }
                is_same
            });
            let (selected, mut left) = judged_again(
                &compared,
                selected,
                &selection,
                &root,
                &protection,
                &contents,
            )?;
            left.extend(since);
            let host = Root::new(root.dir());
            let taken: Vec<_> = selected
                .iter()
                .map(|(index, hunks)| (&compared.changes[*index], hunks.as_ref()))
                .collect();
            let plans = plan(&taken, &compared.gone, &host, &contents)?;
            let mut done = Done {
                left,
                ..Done::default()
            };
            for planned in &plans {
                match &planned.outcome {
                    Outcome::Conflict(why) => done.conflicts.push(step(&planned.path, why)),
                    Outcome::Already => done.done.push(step(&planned.path, ALREADY)),
                    Outcome::Do(_, what) => done.done.push(step(&planned.path, what)),
                }
            }
            if !done.conflicts.is_empty() && !selection.skip_conflicts {
                done.done.clear();
                return Ok((done, compared, false));
            }
            let operations = operations(&plans, &compared.gone, &host, &contents)?;
            let applies = Applies::open(&store.applies()?)?;
            if !operations.is_empty() {
                applies.apply(&host, operations, &contents)?;
            }
            for planned in plans {
                if !matches!(planned.outcome, Outcome::Conflict(_)) {
                    begin_with(&mut compared, &planned);
                }
            }
            Ok((done, compared, true))
        };
        let (done, compared, changed) = blocking(applying).await?;
        if changed {
            self.set_began(&live, compared.began).await?;
        }
        self.note_review(WorkspaceChange::Applied, &done);
        Ok(done)
    }

    /// Undoes what was applied last, on the host. In the sandbox nothing changes, so it is a change again.
    pub async fn undo_apply(
        self: &Arc<Self>,
        skip_conflicts: bool,
        progress: &Progress,
    ) -> Result<Done, SandboxError> {
        let _alone = self.alone().await?;
        let (live, _) = self.ready(progress).await?;
        let mut began = self.began(&live).await?;
        let (root, contents) = (self.host_root()?, self.review_contents().await?);
        let (store, noted) = (self.store.clone(), began.clone());
        let host = root.clone();
        let preparing = move || -> Result<_, SandboxError> {
            let applies = Applies::open(&store.applies()?)?;
            let undoing = applies.undoing(&Root::new(host.dir()), skip_conflicts)?;
            let (mut done, kept) = (Done::default(), undoing.contents());
            for (operation, changes) in undoing.operations() {
                let path = operation.bytes();
                let what = match operation.old {
                    Some(_) => "restored",
                    None => "removed",
                };
                if changes {
                    done.done.push(step(&path, what));
                }
                if let Some(Entry::File { hash, size, .. }) = &operation.old {
                    contents.add(&mut kept.open(hash)?, *size)?;
                }
                began.set(&path, operation.old.clone().map(|old| known(old, 0)));
            }
            let since = |path: &String| step(&unescape(path), "the host changed it since");
            done.conflicts.extend(undoing.changed().map(since));
            Ok((done, began, applies, undoing))
        };
        let (done, began, applies, undoing) = blocking(preparing).await?;
        // Noted first. If the process ends before the host's files are restored, both sides have what was applied, and that
        // is no change. In the other order the restored files would seem newer than the guest's, and `sync` would
        // overwrite what the guest has.
        self.set_began(&live, began).await?;
        let undo = move || -> Result<_, SandboxError> {
            Ok(applies.undo(&Root::new(root.dir()), undoing))
        };
        let undone = blocking(undo).await?;
        if matches!(
            undone,
            Err(ApplyError::Meanwhile(_) | ApplyError::Change { .. })
        ) {
            // The host's files are as they were.
            self.set_began(&live, noted).await?;
        }
        undone?;
        self.note_review(WorkspaceChange::Undone, &done);
        Ok(done)
    }

    /// Takes changes back in the sandbox: its files are again what the copy began with.
    pub async fn discard(
        self: &Arc<Self>,
        selection: Selection,
        progress: &Progress,
    ) -> Result<Done, SandboxError> {
        let _alone = self.alone().await?;
        let (live, guest) = self.ready(progress).await?;
        let at = Reached { live: &live, guest };
        let compared = self.compared(&at, None, progress).await?;
        let contents = self.review_contents().await?;
        let selecting = move || -> Result<_, SandboxError> {
            // Nothing that is discarded reaches the host, so flags don't count.
            let selection = Selection {
                flagged: true,
                ..selection
            };
            let selected = select(&compared.changes, &selection, |change| {
                hunks(change, &contents)
            })?;
            let back = taken_back(&compared, &selected, &contents)?;
            Ok((compared, back))
        };
        let (mut compared, back) = blocking(selecting).await?;
        let (changes, known): (Vec<_>, Vec<_>) = back
            .into_iter()
            .map(|back| {
                (
                    (back.placed, back.file),
                    (back.path, back.whole, back.if_empty),
                )
            })
            .unzip();
        let results = self.place(&at, changes).await?;
        let mut done = Done::default();
        for ((path, whole, if_empty), result) in known.into_iter().zip(results) {
            match result {
                PlacedResult::Failed(_) | PlacedResult::Done(_) if if_empty => {}
                PlacedResult::Failed(why) => done.left.push(step(&path, &why)),
                PlacedResult::Done(ctime) => {
                    done.done.push(step(&path, "taken back"));
                    if whole {
                        let known = compared.began.get(&path);
                        let known = known.map(|known| Known {
                            guest_ctime_ns: ctime,
                            ..known
                        });
                        compared.began.set(&path, known);
                    }
                }
            }
        }
        self.set_began(&live, compared.began).await?;
        self.note_review(WorkspaceChange::Discarded, &done);
        Ok(done)
    }

    /// Adds to the timeline what the copy's changes are, unless it says so already.
    fn note_changes(&self, changes: &[ChangeReport]) {
        let steps: Vec<Step> = changes
            .iter()
            .map(|change| Step {
                path: change.path.clone(),
                what: change.kind.clone(),
            })
            .collect();
        let paths = Paths::of(&steps);
        let noted = &mut *self
            .noted_changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *noted != paths {
            *noted = paths.clone();
            self.timeline.add(Event::Changed { paths, more: 0 });
        }
    }

    /// Adds to the timeline what was done with changes.
    pub(super) fn note_review(&self, change: WorkspaceChange, done: &Done) {
        self.shown.forget(&done.done);
        let changed = done.done.iter().filter(|step| step.what != ALREADY);
        let changed: Vec<Step> = changed.cloned().collect();
        self.timeline.add(Event::Workspace {
            change,
            paths: Paths::of(&changed),
            conflicts: done.conflicts.len(),
        });
    }

    /// How many changes of the copy were not applied.
    pub(super) async fn count_changes(
        &self,
        at: &Reached<'_>,
        progress: &Progress,
    ) -> Result<usize, SandboxError> {
        Ok(self.compared(at, None, progress).await?.changes.len())
    }

    /// Takes back what an interrupted process has left in the host's directory. Blocks.
    pub(super) fn recover_applies(store: &Store, root: &SharedDir) -> Result<(), SandboxError> {
        let strangers = Applies::open(&store.applies()?)?.recover(&Root::new(root.dir()))?;
        for path in strangers {
            tracing::warn!(
                path,
                "left as it is after an interrupted apply: another program has changed it"
            );
        }
        Ok(())
    }
}
