//! The chain of layers under a new VM: checked, extended by a layer of its own, and noted down before it is used.

use std::path::PathBuf;

use snowglobe_runner::DiskFormat;

use super::error::{StoreError, io_error};
use super::header::{Below, check};
use super::overlay::make_overlay;
use super::record::Base;
use super::store::{Store, VmDir};

/// The disk of a new VM.
#[derive(Debug)]
pub struct NewDisk {
    /// The VM's directory, whose lock keeps the layers.
    pub vm_dir: VmDir,
    /// The layers, oldest first; the last one is the VM's own.
    pub layers: Vec<String>,
    /// The file of the VM's own layer.
    pub file: PathBuf,
    /// The files below it.
    pub backing: Vec<PathBuf>,
}

impl Store {
    /// Makes the disk of a new VM on top of these layers. Blocks.
    pub fn new_disk(&self, base: &Base, mut layers: Vec<String>) -> Result<NewDisk, StoreError> {
        let vm_dir = self.new_vm()?;
        let (under, format) = match layers.last() {
            Some(layer) => (self.layer(layer), DiskFormat::Qcow2),
            None => (base.disk.clone(), DiskFormat::Raw),
        };
        let mut backing: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();
        backing.push(base.disk.clone());
        let size = self.check_layers(base, &layers)?;
        let layer = self.new_layer();
        layers.push(layer.clone());
        let file = self.layer(&layer);
        let made = vm_dir
            .set_layers(&layers)
            .and_then(|()| make_overlay(&under, format, size, &file));
        if let Err(error) = made {
            vm_dir.give_up();
            return Err(error);
        }
        Ok(NewDisk {
            vm_dir,
            layers,
            file,
            backing,
        })
    }

    /// Checks that each layer names the one before it as its backing file, and the first the image's disk; gives the
    /// size of that disk, in bytes. Blocks.
    pub fn check_layers(&self, base: &Base, layers: &[String]) -> Result<u64, StoreError> {
        let disk = std::fs::metadata(&base.disk);
        let disk = disk.map_err(io_error("read the size of the image's disk", &base.disk))?;
        let size = disk.len();
        let (mut below, mut format) = (base.disk.clone(), DiskFormat::Raw);
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
