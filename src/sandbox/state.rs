//! The states of a sandbox's VM.
//!
//! A lock guards the state for as long as a change takes, a boot included. Whether a machine runs can be known without
//! that lock, since each change is published ([`Published`]).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::disk::{Base, VmDir};
use crate::image::DiskLease;
use crate::machine::Machine;
use crate::names::SnapshotName;

/// A booted VM with what its disk is made of.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) machine: Machine,
    pub(super) vm_dir: VmDir,
    pub(super) base: Base,
    pub(super) layers: Mutex<Vec<String>>,
    /// Set when another VM replaces this one: what its commands are told.
    pub(super) replaced: OnceLock<&'static str>,
    /// Whether a call has reported that this VM ended.
    pub(super) told: AtomicBool,
    // Keeps the image's disk from being removed.
    pub(super) _image: DiskLease,
}

/// The sandbox's VM.
#[derive(Debug)]
pub(super) enum State {
    /// None; the next call that needs a guest boots one.
    Off,
    /// One that was booted. It may have ended since ([`Live::runs`]).
    Running(Arc<Live>),
    /// None, for good.
    Stopped,
}

impl Live {
    /// Whether the VM has not ended.
    pub(super) fn runs(&self) -> bool {
        self.machine.vm.end().is_none()
    }

    /// The disk's layers, oldest first.
    pub(super) fn layers(&self) -> Vec<String> {
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_layers(&self, layers: Vec<String>) {
        *self.layers.lock().unwrap_or_else(PoisonError::into_inner) = layers;
    }
}

/// The machine that runs, for readers that must not wait for a boot.
#[derive(Debug)]
pub(super) struct Published(watch::Sender<Weak<Live>>);

impl Published {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Weak::new()))
    }

    /// Publishes a state; called at every change.
    pub(super) fn set(&self, state: &State) {
        self.0.send_replace(match state {
            State::Running(live) => Arc::downgrade(live),
            State::Off | State::Stopped => Weak::new(),
        });
    }

    /// The machine, if one runs.
    pub(super) fn running(&self) -> Option<Arc<Live>> {
        let live = self.0.borrow().upgrade()?;
        live.runs().then_some(live)
    }
}

/// Where a new VM's disk starts.
#[derive(Debug)]
pub(super) enum StartPoint {
    /// The clean image.
    Clean,
    /// The snapshot that the configuration names.
    Configured(SnapshotName),
    /// A snapshot of the sandbox's own.
    Snapshot(SnapshotName),
}
