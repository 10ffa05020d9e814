//! Changes of a copied workspace that were not applied, where they could be lost: when the sandbox ends, and when a
//! snapshot takes the place of the copy.
//!
//! When a copy that stays is left, the number of its changes is noted down beside it, so that removing its data can say
//! what is lost without a machine. Before a snapshot takes the copy's place, the copy becomes an automatic snapshot.

use std::sync::Arc;
use std::time::Duration;

use super::guest_tree::Reached;
use super::state::Live;
use super::{Sandbox, SandboxError, Snapshot};
use crate::disk::{CopiedWorkspace, Record, Store};
use crate::names::SnapshotName;
use crate::progress::Progress;

/// How long a machine may take to say how many changes it has. Without an answer there may be some.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same where the whole sandbox is being stopped.
const AT_THE_END: Duration = Duration::from_secs(5);

/// How the names of automatic snapshots begin.
const AUTOMATIC: &str = "before-restore-";

/// How many automatic snapshots stay.
const KEPT: usize = 10;

/// An automatic snapshot that is due.
pub(super) struct Keep {
    name: SnapshotName,
    /// The snapshot that takes the place of the copy.
    instead: Record,
}

impl Sandbox {
    /// How many changes of the copy were not applied, as its machine says now. None: no machine with a copy runs, or it
    /// does not say soon.
    pub async fn unapplied(&self) -> Option<u64> {
        let live = self.published.running()?;
        self.unapplied_in(&live, PATIENCE).await
    }

    async fn unapplied_in(&self, live: &Live, patience: Duration) -> Option<u64> {
        live.workspace.as_ref()?;
        let count = async {
            let _alone = self.alone().await.ok()?;
            let guest = live.machine.guest().await.ok()?;
            let at = Reached { live, guest };
            match self.count_changes(&at, &Progress::none()).await {
                Ok(count) => u64::try_from(count).ok(),
                Err(error) => {
                    tracing::debug!("failed to {}", crate::describe(&error));
                    None
                }
            }
        };
        tokio::time::timeout(patience, count).await.ok()?
    }

    /// Notes down how many changes the copy is left with, before its machine goes.
    pub(super) async fn note_unapplied(&self, live: &Live) {
        let Some(place) = self.copy.clone().filter(|place| place.stays()) else {
            return;
        };
        if let Some(count) = self.unapplied_in(live, AT_THE_END).await
            && let Err(error) = self
                .on_disk(move |_| place.note_unapplied(Some(count)))
                .await
        {
            tracing::warn!("failed to {}", crate::describe(&error));
        }
    }

    /// The automatic snapshot that is due before the snapshot of this record takes the place of the copy; none if nothing of
    /// the copy would be lost.
    pub(super) async fn due_keep(&self, record: &Record) -> Result<Option<Keep>, SandboxError> {
        let Some(place) = self.copy.clone().filter(|_| record.workspace.is_some()) else {
            return Ok(None);
        };
        let is_clean = match self.published.running() {
            Some(live) => self.unapplied_in(&live, PATIENCE).await == Some(0),
            None => {
                self.on_disk(move |store| {
                    Ok(place.read(store)?.is_none() || place.unapplied()? == Some(0))
                })
                .await?
            }
        };
        if is_clean {
            return Ok(None);
        }
        Ok(Some(Keep {
            name: self.free_name().await?,
            instead: record.clone(),
        }))
    }

    /// Makes sure that the workspace of the configured snapshot replaces nothing that would be lost; gives that workspace, or
    /// none if the copy that is there goes on. The snapshot counts when the sandbox starts, not after a machine that ended.
    pub(super) async fn configured_workspace(
        &self,
        record: &Record,
    ) -> Result<Option<CopiedWorkspace>, SandboxError> {
        let Some(place) = self.copy.clone() else {
            return Ok(record.workspace.clone());
        };
        let is_there = self.on_disk(move |store| Ok(place.read(store)?.is_some()));
        let goes_on = self.view.has_booted() || self.store.name().is_session();
        if goes_on && is_there.await? {
            return Ok(None);
        }
        if let Some(keep) = self.due_keep(record).await? {
            self.save_left(&keep).await?;
        }
        Ok(record.workspace.clone())
    }

    async fn free_name(&self) -> Result<SnapshotName, SandboxError> {
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let taken = self.snapshot_list().await?;
        let names = (1_u32..).map(|number| match number {
            1 => format!("{AUTOMATIC}{now}"),
            number => format!("{AUTOMATIC}{now}-{number}"),
        });
        let free = |name: &String| taken.iter().all(|one| one.name.as_str() != name);
        let name = names.into_iter().find(free).unwrap_or_default();
        Ok(name.parse()?)
    }

    /// Checks that there is room for an automatic snapshot of a machine.
    pub(super) async fn prepare_kept(
        &self,
        keep: &Keep,
        live: &Live,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        self.prepare_save(&keep.name, live, false, progress).await
    }

    /// Saves the frozen disks of a machine as an automatic snapshot.
    pub(super) async fn save_kept(
        &self,
        keep: &Keep,
        live: &Live,
        frozen: (Vec<String>, Option<CopiedWorkspace>),
    ) -> Result<(), SandboxError> {
        let saved = self.save_frozen(&keep.name, live, frozen, false).await?;
        self.view.tell(kept_note(&saved.name));
        Ok(())
    }

    /// Saves the copy that no machine uses as an automatic snapshot, with the system of the snapshot that takes its place.
    pub(super) async fn save_left(&self, keep: &Keep) -> Result<(), SandboxError> {
        let Some(place) = self.copy.clone() else {
            return Ok(());
        };
        let (name, record) = (keep.name.clone(), keep.instead.clone());
        let save = move |store: &Store| match place.read(store)? {
            Some(copied) => store
                .save(&name, record.base, record.layers, Some(copied), false)
                .map(Some),
            None => Ok(None),
        };
        if let Some(saved) = self.on_disk(save).await? {
            let saved = self.saved(saved);
            self.view.tell(kept_note(&saved.name));
        }
        Ok(())
    }

    /// Deletes the oldest automatic snapshots, but not the one that was just restored. Best effort: on failure they stay.
    pub(super) async fn drop_old_kept(self: &Arc<Self>, restored: &SnapshotName) {
        let Ok(all) = self.snapshot_list().await else {
            return;
        };
        let mut automatic: Vec<_> = all.into_iter().filter(is_automatic).collect();
        automatic.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created));
        for old in automatic.into_iter().skip(KEPT) {
            if old.name == *restored {
                continue;
            }
            if let Err(error) = self.snapshot_delete(&old.name).await {
                tracing::warn!("failed to {}", crate::describe(&error));
            }
        }
    }
}

/// Whether a snapshot was made by [`Sandbox::due_keep`], by its name.
fn is_automatic(snapshot: &Snapshot) -> bool {
    let rest = snapshot.name.as_str().strip_prefix(AUTOMATIC);
    rest.is_some_and(|rest| {
        rest.len() >= 15
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-')
    })
}

/// What is said where a copy became an automatic snapshot.
fn kept_note(name: &SnapshotName) -> String {
    format!(
        "the copy of the workspace had changes that were not applied; they are in the snapshot `{name}`, which \
         `snowglobe snapshot restore {name}` brings back"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_snapshots_that_were_named_here_are_automatic() {
        let automatic = |name: &str| {
            is_automatic(&Snapshot {
                name: name.parse().unwrap(),
                bytes: 0,
                created: jiff::Timestamp::UNIX_EPOCH,
            })
        };
        for name in ["20261128-090721", "20261128-090721-2"] {
            assert!(automatic(&format!("{AUTOMATIC}{name}")), "{name}");
        }
        for name in ["before-restore-", "before-restore-mine-of-today-x", "good"] {
            assert!(!automatic(name), "{name}");
        }
    }
}
