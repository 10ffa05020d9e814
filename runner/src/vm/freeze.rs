//! Freezing a disk, and merging its layers.

use std::io;
use std::path::Path;
use std::time::Instant;

use snowglobe_runner::Answer;

use super::{Freeze, Vm};
use crate::engine::Frozen;
use crate::removal::{self, Removal};
use crate::talk::{reply, warn};

impl Vm {
    /// Whether the guest may write to the disk.
    fn require_writable(&self, disk: usize) -> Result<(), String> {
        match self.tops.get(disk) {
            Some(Some(_)) => Ok(()),
            _ => Err("the VM has no such writable disk".into()),
        }
    }

    /// Begins to freeze a disk; the request gets its answer when the engine has done so.
    pub(super) fn begin_freeze(
        &mut self,
        id: u64,
        disk: usize,
        layer: &Path,
    ) -> Result<(), String> {
        self.require_writable(disk)?;
        if self.freeze.is_some() || self.merge.is_some() {
            return Err("its layers are already being changed".into());
        }
        if self.stall.is_stalled() {
            return Err("the VM is stalled: the host can't take what it writes".into());
        }
        if !layer.is_absolute() {
            return Err(format!("{} is not an absolute path", layer.display()));
        }
        match layer.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", layer.display())),
            Ok(_) => return Err(format!("{} exists already", layer.display())),
        }
        self.engine.freeze_disk(disk, layer)?;
        self.freeze = Some(Freeze {
            id,
            disk,
            layer: layer.to_owned(),
            until: self
                .engine
                .freeze_limit()
                .map(|limit| Instant::now() + limit),
        });
        Ok(())
    }

    /// Begins to merge layers of a disk; the request gets its answer when the engine has done so.
    pub(super) fn begin_merge(&mut self, id: u64, disk: usize, onto: &Path) -> Result<(), String> {
        self.require_writable(disk)?;
        if self.freeze.is_some() || self.merge.is_some() {
            return Err("its layers are already being changed".into());
        }
        self.engine.merge_disk(disk, onto)?;
        self.merge = Some(id);
        Ok(())
    }

    /// Answers the request to merge layers.
    pub(super) fn merged(&mut self, result: Result<(), String>) {
        if let Some(id) = self.merge.take() {
            let result = result.map(|()| Answer::Done);
            reply(
                id,
                result.map_err(|why| format!("merge the disk's layers: {why}")),
            );
        }
    }

    /// Answers the command to freeze.
    pub(super) fn frozen(&mut self, result: Result<Frozen, String>, removal: &mut Removal) {
        let Some(Freeze {
            id, disk, layer, ..
        }) = self.freeze.take()
        else {
            return;
        };
        let top = self.tops.get_mut(disk).and_then(Option::as_mut);
        let frozen = match (result, top) {
            (Err(why), _) => return abandon(id, &layer, &why),
            (Ok(Frozen::Below), Some(top)) => {
                removal.replace(top, &layer);
                std::mem::replace(top, layer)
            }
            (Ok(Frozen::Copy), _) => layer,
            (Ok(Frozen::Below), None) => return,
        };
        // On a thread of its own: this can take long, and the parent's requests must not wait.
        std::thread::spawn(move || {
            let flushed = flush(&frozen).map_err(|error| {
                format!(
                    "put the frozen layer {} on the host's disk: {error}",
                    frozen.display()
                )
            });
            reply(id, flushed.map(|()| Answer::Frozen { layer: frozen }));
        });
    }
}

/// Answers a command to freeze that failed, and removes its layer.
pub(super) fn abandon(id: u64, layer: &Path, why: &str) {
    if let Err(error) = removal::remove(layer) {
        warn(format_args!(
            "failed to remove {}: {error}",
            layer.display()
        ));
    }
    reply(
        id,
        Err(format!("freeze the disk with {}: {why}", layer.display())),
    );
}

/// Writes a file and its directory entry through to the host's disk.
pub(super) fn flush(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    path.parent()
        .map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}
