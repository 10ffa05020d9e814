//! Snapshots of a sandbox: saving, restoring, listing, deleting.

use std::sync::Arc;

use snowglobe_init::wire::Request;
use snowglobe_runner::{Action, Answer, DiskFormat};

use super::state::{Live, StartPoint, State};
use super::{Sandbox, SandboxError};
use crate::disk::{Base, Below, Record, StoreError, check_header};
use crate::names::SnapshotName;
use crate::progress::Progress;

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
    /// Freezes the disk as it stands and goes on above it.
    pub async fn snapshot_save(
        self: &Arc<Self>,
        name: &SnapshotName,
        progress: &Progress,
    ) -> Result<Snapshot, SandboxError> {
        self.store.check_free(name)?;
        let (_, guest) = self.ready(progress).await?;
        let state = self.lock().await?;
        let State::Running(live) = &*state else {
            return Err(SandboxError::Stopped);
        };
        if let Some(newest) = live.layers().last() {
            let limit = self.config.sandbox.snapshot_bytes;
            self.store.check_size(name, newest, limit)?;
        }
        progress.say("pausing what runs");
        let freezing = async {
            self.answer(live, guest.ask(&Request::Freeze)).await?;
            let switched = self.freeze_disk(live).await;
            // Thawed whatever came of it; a guest that can't be reached thaws by itself.
            if let Err(error) = guest.ask(&Request::Thaw).await {
                tracing::warn!(%error, "the guest did not confirm that it goes on");
            }
            switched
        };
        let frozen = self.unless_stopped(freezing).await?;
        // The VM wrote it: what is wrong with it is better known before something is to stand on it.
        self.check_layers(&live.base, &frozen)?;
        let saved = self.store.save(name, live.base.clone(), frozen)?;
        self.view.changed();
        Ok(saved.into())
    }

    /// Checks that each layer stands on the one before it, and the first on the image's disk; gives that one's size.
    pub(super) fn check_layers(&self, base: &Base, layers: &[String]) -> Result<u64, SandboxError> {
        let disk = std::fs::metadata(&base.disk).map_err(|source| SandboxError::File {
            operation: "read the size of the image's disk",
            path: base.disk.clone(),
            source,
        })?;
        let size = disk.len();
        let (mut below, mut format) = (base.disk.clone(), DiskFormat::Raw);
        for layer in layers {
            let path = self.store.layer(layer);
            let stands_on = Below {
                path: &below,
                format,
                size,
            };
            check_header(&path, stands_on).map_err(|problem| StoreError::Layer {
                path: path.clone(),
                problem,
            })?;
            (below, format) = (path, DiskFormat::Qcow2);
        }
        Ok(size)
    }

    /// Freezes the running VM's disk; gives the layers that are frozen now.
    async fn freeze_disk(&self, live: &Live) -> Result<Vec<String>, SandboxError> {
        let before = live.layers();
        let new = self.store.new_layer();
        let mut all = before.clone();
        all.push(new.clone());
        // Both are held against sweeping until the snapshot's record holds one of them.
        live.vm_dir.set_layers(&all)?;
        let layer = self.store.layer(&new);
        let freeze = Action::FreezeDisk {
            layer: layer.clone(),
        };
        let (frozen, now) = match live.machine.vm.command(freeze).await? {
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

    /// Goes back to a snapshot. The new VM is up before the old one goes; if it does not come up, nothing changed.
    pub async fn snapshot_restore(
        self: &Arc<Self>,
        name: &SnapshotName,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        self.store.get(name)?;
        self.replace(
            StartPoint::Snapshot(name.clone()),
            "restored to a snapshot",
            progress,
        )
        .await
    }

    /// Deletes a snapshot.
    pub async fn snapshot_delete(&self, name: &SnapshotName) -> Result<Snapshot, SandboxError> {
        let deleted = self.store.delete(name)?;
        self.view.changed();
        Ok(deleted.into())
    }

    /// Every snapshot, by name.
    pub async fn snapshot_list(&self) -> Result<Vec<Snapshot>, SandboxError> {
        Ok(self.store.list()?.into_iter().map(Into::into).collect())
    }

    /// Goes back to the clean image.
    pub async fn reboot(self: &Arc<Self>, progress: &Progress) -> Result<(), SandboxError> {
        self.replace(StartPoint::Clean, "rebooted", progress).await
    }
}
