//! Snapshots of a sandbox: saving, restoring, listing, deleting.

use std::sync::Arc;

use snowglobe_init::wire::Request;
use snowglobe_runner::{Action, Answer};

use super::state::{DiskOf, Layers, Live, StartPoint, State};
use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::disk::{CopiedWorkspace, Merge, Record, SaveLimits, Store, StoreError, base_disk};
use crate::machine::MachineError;
use crate::names::SnapshotName;
use crate::progress::Progress;
use crate::text::size;
use crate::timeline::{Event, SnapshotChange};

/// A save that takes this much, in bytes, says so before it begins.
const MUCH: u64 = 1 << 30;

/// One saved snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// What it takes on the host's disk beyond the snapshots it builds on, in bytes.
    pub bytes: u64,
    /// When it was saved.
    pub created: jiff::Timestamp,
}

impl From<Record> for Snapshot {
    fn from(record: Record) -> Self {
        Self {
            name: record.name,
            bytes: record.bytes,
            created: record.created,
        }
    }
}

impl Sandbox {
    /// Does work on the sandbox's store, which may wait for the disk or for another process's lock.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let store = self.store.clone();
        Ok(blocking(move || work(&store)).await?)
    }

    /// Freezes the disk as it is; the machine goes on with a new layer on top of it. An existing snapshot of that name is
    /// replaced, once the new one is saved, only if it `replaces`.
    pub async fn snapshot_save(
        self: &Arc<Self>,
        name: &SnapshotName,
        replaces: bool,
        progress: &Progress,
    ) -> Result<Snapshot, SandboxError> {
        if !replaces {
            let new = name.clone();
            self.on_disk(move |store| store.check_free(&new)).await?;
        }
        let (_, guest) = self.ready(progress).await?;
        let state = self.lock().await?;
        let State::Running(live) = &*state else {
            return Err(SandboxError::Stopped);
        };
        self.unless_stopped(Box::pin(self.prepare_save(name, live, replaces, progress)))
            .await?;
        progress.say("pausing what runs");
        let freezing = async {
            self.answer(live, guest.ask(&Request::Freeze)).await?;
            let frozen = Box::pin(self.freeze_disks(live)).await;
            // Thaw in any case; a guest that can't be reached thaws by itself.
            if let Err(error) = guest.ask(&Request::Thaw).await {
                tracing::warn!(%error, "the guest did not confirm that it goes on");
            }
            frozen
        };
        let frozen = self.unless_stopped(freezing).await?;
        self.save_frozen(name, live, frozen, replaces).await
    }

    /// Saves frozen disks of a machine, the root's layers and the workspace's disk, as a snapshot.
    pub(super) async fn save_frozen(
        &self,
        name: &SnapshotName,
        live: &Live,
        (root, workspace): (Vec<String>, Option<CopiedWorkspace>),
        replaces: bool,
    ) -> Result<Snapshot, SandboxError> {
        let (name, base) = (name.clone(), live.base.clone());
        let save = move |store: &Store| {
            // The guest may have damaged the layers: that must be known before a machine starts from them.
            store.check_layers(&base.disk, &root)?;
            if let Some(copied) = &workspace {
                store.check_layers(&base_disk(&copied.base), &copied.layers)?;
            }
            store.save(&name, base, root, workspace, replaces)
        };
        let saved = self.on_disk(save).await?;
        Ok(self.saved(saved))
    }

    /// A snapshot was saved.
    pub(super) fn saved(&self, record: Record) -> Snapshot {
        self.view.changed();
        self.note_snapshot(&record.name, SnapshotChange::Saved);
        record.into()
    }

    /// Finds out what a save takes, says so if it is much, and merges layers if there are many.
    pub(super) async fn prepare_save(
        &self,
        name: &SnapshotName,
        live: &Live,
        replaces: bool,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let limits = SaveLimits {
            bytes: self.config.sandbox.snapshot_bytes,
            replaces,
            copies: live.machine.copies_disk(),
        };
        for disk in [DiskOf::Root, DiskOf::Workspace] {
            let Some(layers) = live.layers(disk).map(Layers::get) else {
                continue;
            };
            let (new, below) = (name.clone(), live.below(disk));
            let plan = self.on_disk(move |store| store.plan_save(&new, &below, &layers, limits));
            let plan = plan.await?;
            if plan.bytes >= MUCH {
                progress.say(format!(
                    "the snapshot `{name}` takes {} of the host's disk, where {} are free",
                    size(plan.bytes),
                    size(plan.free)
                ));
            }
            if let Some(merge) = plan.merge {
                self.merge(live, disk, merge, progress).await?;
            }
        }
        Ok(())
    }

    /// Merges the newest layers of a disk.
    async fn merge(
        &self,
        live: &Live,
        disk: DiskOf,
        merge: Merge,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let Some(layers) = live.layers(disk) else {
            return Ok(());
        };
        progress.say(merge.to_string());
        let merging = Action::MergeDisk {
            disk: disk.index(),
            onto: merge.onto.clone(),
        };
        match live.machine.vm.request(merging).await {
            Ok(_) => {}
            Err(error) if merge.needed => return Err(MachineError::from(error).into()),
            Err(error) => {
                tracing::warn!(%error, "the disk's chain of layers stays long");
                return Ok(());
            }
        }
        let mut merged = merge.kept;
        merged.extend(layers.get().pop());
        layers.set(merged.clone());
        if disk == DiskOf::Workspace {
            self.note_copy(live, None).await?;
        }
        // Until this is written, the list also holds the layers that were merged.
        self.keep_layers(live, disk, merged).await
    }

    /// Notes down which layers the machine needs: these of a disk, and those of its other disk.
    async fn keep_layers(
        &self,
        live: &Live,
        disk: DiskOf,
        layers: Vec<String>,
    ) -> Result<(), SandboxError> {
        let needed = [live.other_layers(disk), layers].concat();
        let vm_dir = live.vm_dir.clone();
        self.on_disk(move |_| vm_dir.set_layers(&needed)).await
    }

    /// Freezes the running VM's disks; gives the layers of the root that are frozen now, and the workspace's disk.
    async fn freeze_disks(
        &self,
        live: &Live,
    ) -> Result<(Vec<String>, Option<CopiedWorkspace>), SandboxError> {
        let frozen = self.freeze_disk(live, DiskOf::Root).await?;
        let workspace = self.freeze_copy(live).await?;
        Ok((frozen, workspace))
    }

    /// Freezes one of the running VM's disks; gives the layers that are frozen now.
    pub(super) async fn freeze_disk(
        &self,
        live: &Live,
        disk: DiskOf,
    ) -> Result<Vec<String>, SandboxError> {
        let Some(layers) = live.layers(disk) else {
            return Ok(Vec::new());
        };
        let before = layers.get();
        let new = self.store.new_layer();
        let mut all = before.clone();
        all.push(new.clone());
        // The VM's list keeps both from being swept until the snapshot's record names one of them.
        self.keep_layers(live, disk, all.clone()).await?;
        if disk == DiskOf::Workspace {
            self.note_copy(live, Some(new.clone())).await?;
        }
        let layer = self.store.layer(&new);
        let freeze = Action::FreezeDisk {
            disk: disk.index(),
            layer: layer.clone(),
        };
        let (frozen, now) = match live.machine.vm.request(freeze).await? {
            Answer::Frozen { layer: frozen } if frozen == layer => {
                let mut copied = before.clone();
                copied.pop();
                copied.push(new);
                (copied, before)
            }
            _ => (before, all),
        };
        layers.set(now);
        if disk == DiskOf::Workspace {
            self.note_copy(live, None).await?;
        }
        Ok(frozen)
    }

    /// Goes back to a snapshot. The new VM is up before the old one goes; if it does not come up, nothing has changed. A copy
    /// of the workspace with changes that were not applied becomes an automatic snapshot first.
    pub async fn snapshot_restore(
        self: &Arc<Self>,
        name: &SnapshotName,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let wanted = name.clone();
        let record = self.on_disk(move |store| store.get(&wanted)).await?;
        let keep = self.due_keep(&record).await?;
        self.replace(
            StartPoint::Snapshot(name.clone()),
            keep.as_ref(),
            "restored to a snapshot",
            progress,
        )
        .await?;
        self.note_snapshot(name, SnapshotChange::Restored);
        if keep.is_some() {
            self.drop_old_kept(name).await;
        }
        Ok(())
    }

    fn note_snapshot(&self, name: &SnapshotName, change: SnapshotChange) {
        let name = name.to_string();
        self.timeline.add(Event::Snapshot { name, change });
    }

    /// Deletes a snapshot.
    pub async fn snapshot_delete(&self, name: &SnapshotName) -> Result<Snapshot, SandboxError> {
        let name = name.clone();
        let deleted = self.on_disk(move |store| store.delete(&name)).await?;
        self.view.changed();
        self.note_snapshot(&deleted.name, SnapshotChange::Deleted);
        Ok(deleted.into())
    }

    /// Every snapshot, by name.
    pub async fn snapshot_list(&self) -> Result<Vec<Snapshot>, SandboxError> {
        let all = self.on_disk(Store::list).await?;
        Ok(all.into_iter().map(Into::into).collect())
    }

    /// Goes back to the clean image.
    pub async fn reboot(self: &Arc<Self>, progress: &Progress) -> Result<(), SandboxError> {
        self.replace(StartPoint::Clean, None, "rebooted", progress)
            .await
    }
}
