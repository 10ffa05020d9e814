//! The chain of layers under a new VM: checked, extended by a layer of its own, and noted down before it is used.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use snowglobe_runner::DiskFormat;

use super::depth;
use super::error::{StoreError, io_error};
use super::header::{Below, check};
use super::overlay::make_overlay;
use super::store::{Store, VmDir, taken};
use crate::files;
use crate::text::size;

/// The disk of a new VM: a chain of layers over a disk's file.
#[derive(Debug, Clone)]
pub struct NewDisk {
    /// The layers, oldest first; the last one is the VM's own.
    pub layers: Vec<String>,
    /// The file of the VM's own layer.
    pub file: PathBuf,
    /// The files below it.
    pub backing: Vec<PathBuf>,
}

/// A merge of the newest layers of a chain.
#[derive(Debug, Clone)]
pub struct Merge {
    /// The layers below, which stay as they are; oldest first.
    pub kept: Vec<String>,
    /// The file that is below the merged layers.
    pub onto: PathBuf,
    /// The number of layers that it takes.
    count: usize,
    /// What it writes at most, in bytes.
    bytes: u64,
    /// Whether the chain is too long to be used without it.
    pub needed: bool,
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "merging {} disk layers of earlier saves ({})",
            self.count,
            size(self.bytes)
        )
    }
}

impl Merge {
    /// What it writes at most, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The space that stays free for others, in bytes.
const RESERVE: u64 = 256 << 20;

impl Store {
    /// Makes the disk of a new VM on top of these layers of `disk`, which are frozen. If they are too many, the newest are
    /// merged first, and `say` is told. `others` are layers of the VM's other disks, which it keeps. Blocks.
    pub fn new_disk(
        &self,
        vm_dir: &VmDir,
        others: &[String],
        disk: &Path,
        layers: Vec<String>,
        say: &dyn Fn(String),
    ) -> Result<NewDisk, StoreError> {
        // From here on no sweep takes them.
        vm_dir.set_layers(&[others, &layers].concat())?;
        let size = self.check_layers(disk, &layers)?;
        let before = layers.len();
        let mut layers = self.shorten(vm_dir, others, disk, layers, size, say)?;
        let merged = layers.len() < before;
        let (under, format) = self.top(disk, &layers);
        layers.push(self.new_layer());
        vm_dir.set_layers(&[others, &layers].concat())?;
        let made = self.with_files(disk, layers);
        make_overlay(&under, format, size, &made.file)?;
        if merged {
            self.sweep();
        }
        Ok(made)
    }

    /// Uses a disk again whose newest layer belonged to a VM that has ended. If its layers are too many, it gets another
    /// layer over merged ones, as in [`Self::new_disk`]. Blocks.
    pub fn same_disk(
        &self,
        vm_dir: &VmDir,
        others: &[String],
        disk: &Path,
        layers: Vec<String>,
        say: &dyn Fn(String),
    ) -> Result<NewDisk, StoreError> {
        if layers.is_empty() || self.merge_due(disk, &layers)?.is_some() {
            return self.new_disk(vm_dir, others, disk, layers, say);
        }
        vm_dir.set_layers(&[others, &layers].concat())?;
        self.check_layers(disk, &layers)?;
        Ok(self.with_files(disk, layers))
    }

    /// The files of these layers, of which there is at least one.
    fn with_files(&self, disk: &Path, layers: Vec<String>) -> NewDisk {
        let mut files: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();
        let file = files.pop().unwrap_or_default();
        files.push(disk.to_owned());
        NewDisk {
            layers,
            file,
            backing: files,
        }
    }

    /// The newest of these layers, or the disk below them, and its format.
    fn top(&self, disk: &Path, layers: &[String]) -> (PathBuf, DiskFormat) {
        match layers.last() {
            Some(layer) => (self.layer(layer), DiskFormat::Qcow2),
            None => (disk.to_owned(), DiskFormat::Raw),
        }
    }

    /// The merge that is due before a machine has these layers, its own included; `None` if they are few enough, or there
    /// is no room for a merge that can wait. Blocks.
    pub fn merge_due(&self, disk: &Path, layers: &[String]) -> Result<Option<Merge>, StoreError> {
        let sizes: Vec<u64> = layers
            .iter()
            .map(|layer| taken(&self.layer(layer)))
            .collect();
        let Some(from) = depth::merge_from(&sizes) else {
            return Ok(None);
        };
        let kept = layers[..from].to_vec();
        let merge = Merge {
            onto: self.top(disk, &kept).0,
            kept,
            count: layers.len() - from,
            bytes: sizes[from..].iter().sum(),
            needed: layers.len() > depth::TOO_MANY,
        };
        let doing = "merge the layers of many snapshots".to_owned();
        match self.require_room(doing, merge.bytes) {
            Ok(()) => Ok(Some(merge)),
            Err(error) if merge.needed => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the disk's chain of layers stays long");
                Ok(None)
            }
        }
    }

    /// Fails if the host's disk has no room for that many more bytes.
    pub(super) fn require_room(&self, doing: String, needs: u64) -> Result<(), StoreError> {
        let free = files::free_bytes(&self.dir).map_err(io_error("look for room in", &self.dir))?;
        if needs.saturating_add(RESERVE) <= free {
            return Ok(());
        }
        Err(StoreError::NoRoom {
            doing,
            needs,
            free,
            dir: self.dir.clone(),
        })
    }

    /// Merges the newest of too many layers into a new one, beside them. Snapshots of just these layers then have the new
    /// chain; other snapshots keep the old layers.
    fn shorten(
        &self,
        vm_dir: &VmDir,
        others: &[String],
        disk: &Path,
        layers: Vec<String>,
        size: u64,
        say: &dyn Fn(String),
    ) -> Result<Vec<String>, StoreError> {
        let new = self.new_layer();
        let with_own = [layers.as_slice(), std::slice::from_ref(&new)].concat();
        let Some(mut merge) = self.merge_due(disk, &with_own)? else {
            return Ok(layers);
        };
        merge.count -= 1;
        say(merge.to_string());
        vm_dir.set_layers(&[others, &with_own].concat())?;
        let files: Vec<_> = layers[merge.kept.len()..]
            .iter()
            .map(|layer| self.layer(layer))
            .collect();
        let into = self.layer(&new);
        let (under, format) = self.top(disk, &merge.kept);
        let mut merged = merge.kept;
        merged.push(new);
        let made = make_overlay(&under, format, size, &into)
            .and_then(|()| super::merge::merge(&files, size, &into))
            .and_then(|()| self.check_layers(disk, &merged))
            .and_then(|_| self.put_in_place(&layers, &merged));
        match made {
            Ok(()) => Ok(merged),
            Err(error) => {
                fs::remove_file(&into).ok();
                if merge.needed {
                    return Err(error);
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the disk's chain of layers stays long"
                );
                Ok(layers)
            }
        }
    }

    /// Checks that each layer names the one before it as its backing file, and the first `disk`; gives the size of that
    /// disk, in bytes. Blocks.
    pub fn check_layers(&self, disk: &Path, layers: &[String]) -> Result<u64, StoreError> {
        let size = fs::metadata(disk).map_err(io_error("read the size of the disk", disk))?;
        let size = size.len();
        let (mut below, mut format) = (disk.to_owned(), DiskFormat::Raw);
        for layer in layers {
            let path = self.layer(layer);
            let expected = Below {
                path: &below,
                format,
                size,
            };
            check(&path, expected).map_err(|problem| StoreError::Layer {
                path: path.clone(),
                problem,
            })?;
            (below, format) = (path, DiskFormat::Qcow2);
        }
        Ok(size)
    }
}
