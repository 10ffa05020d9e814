//! Snapshots of a sandbox: saving, restoring, listing, deleting.

use std::sync::Arc;

use snowglobe_init::wire::Request;
use snowglobe_runner::{Action, Answer};

use super::state::{Live, StartPoint, State};
use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::disk::{Record, SaveLimits, Store, StoreError};
use crate::machine::MachineError;
use crate::names::SnapshotName;
use crate::progress::Progress;
use crate::text::size;

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
        let limits = SaveLimits {
            bytes: self.config.sandbox.snapshot_bytes,
            replaces,
            copies: live.machine.copies_disk(),
        };
        self.unless_stopped(self.prepare_save(name, live, limits, progress))
            .await?;
        progress.say("pausing what runs");
        let freezing = async {
            self.answer(live, guest.ask(&Request::Freeze)).await?;
            let switched = self.freeze_disk(live).await;
            // Thaw in any case; a guest that can't be reached thaws by itself.
            if let Err(error) = guest.ask(&Request::Thaw).await {
                tracing::warn!(%error, "the guest did not confirm that it goes on");
            }
            switched
        };
        let frozen = self.unless_stopped(freezing).await?;
        let (name, base) = (name.clone(), live.base.clone());
        let save = move |store: &Store| {
            // The guest may have damaged the layer: that must be known before a machine starts from it.
            store.check_layers(&base, &frozen)?;
            store.save(&name, base, frozen, replaces)
        };
        let saved = self.on_disk(save).await?;
        self.view.changed();
        Ok(saved.into())
    }

    /// Finds out what a save takes, says so if it is much, and merges layers if there are many.
    async fn prepare_save(
        &self,
        name: &SnapshotName,
        live: &Live,
        limits: SaveLimits,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let (new, base, layers) = (name.clone(), live.base.clone(), live.layers());
        let plan = self.on_disk(move |store| store.plan_save(&new, &base, &layers, limits));
        let plan = plan.await?;
        if plan.bytes >= MUCH {
            progress.say(format!(
                "the snapshot `{name}` takes {} of the host's disk, where {} are free",
                size(plan.bytes),
                size(plan.free)
            ));
        }
        let Some(merge) = plan.merge else {
            return Ok(());
        };
        progress.say(merge.to_string());
        let onto = merge.onto.clone();
        match live
            .machine
            .vm
            .request(Action::MergeDisk { disk: 0, onto })
            .await
        {
            Ok(_) => {}
            Err(error) if merge.needed => return Err(MachineError::from(error).into()),
            Err(error) => {
                tracing::warn!(%error, "the disk's chain of layers stays long");
                return Ok(());
            }
        }
        let mut layers = merge.kept;
        layers.extend(live.layers().pop());
        live.set_layers(layers.clone());
        // Until this is written, the list also holds the layers that were merged.
        let vm_dir = live.vm_dir.clone();
        self.on_disk(move |_| vm_dir.set_layers(&layers)).await
    }

    /// Freezes the running VM's disk; gives the layers that are frozen now.
    async fn freeze_disk(&self, live: &Live) -> Result<Vec<String>, SandboxError> {
        let before = live.layers();
        let new = self.store.new_layer();
        let mut all = before.clone();
        all.push(new.clone());
        // The VM's list keeps both from being swept until the snapshot's record names one of them.
        let (vm_dir, needed) = (live.vm_dir.clone(), all.clone());
        self.on_disk(move |_| vm_dir.set_layers(&needed)).await?;
        let layer = self.store.layer(&new);
        let freeze = Action::FreezeDisk {
            disk: 0,
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
        live.set_layers(now);
        Ok(frozen)
    }

    /// Goes back to a snapshot. The new VM is up before the old one goes; if it does not come up, nothing has changed.
    pub async fn snapshot_restore(
        self: &Arc<Self>,
        name: &SnapshotName,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let wanted = name.clone();
        self.on_disk(move |store| store.get(&wanted)).await?;
        self.replace(
            StartPoint::Snapshot(name.clone()),
            "restored to a snapshot",
            progress,
        )
        .await
    }

    /// Deletes a snapshot.
    pub async fn snapshot_delete(&self, name: &SnapshotName) -> Result<Snapshot, SandboxError> {
        let name = name.clone();
        let deleted = self.on_disk(move |store| store.delete(&name)).await?;
        self.view.changed();
        Ok(deleted.into())
    }

    /// Every snapshot, by name.
    pub async fn snapshot_list(&self) -> Result<Vec<Snapshot>, SandboxError> {
        let all = self.on_disk(Store::list).await?;
        Ok(all.into_iter().map(Into::into).collect())
    }

    /// Goes back to the clean image.
    pub async fn reboot(self: &Arc<Self>, progress: &Progress) -> Result<(), SandboxError> {
        self.replace(StartPoint::Clean, "rebooted", progress).await
    }
}
