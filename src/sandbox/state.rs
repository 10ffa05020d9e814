//! The states of a sandbox's VM, and the events that change them.
//!
//! A lock guards the state for as long as a change takes, a boot included. Whether a machine runs can be known without
//! that lock: the only way to change the state also publishes it ([`Published::change`]).

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::disk::{Base, CopiedWorkspace, VmDir, base_disk};
use crate::image::DiskLease;
use crate::machine::Machine;
use crate::names::SnapshotName;

/// A booted VM with what its disk is made of.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) machine: Machine,
    pub(super) vm_dir: VmDir,
    pub(super) base: Base,
    /// The layers of the root disk.
    pub(super) layers: Layers,
    /// The disk of the workspace, if that is a copy.
    pub(super) workspace: Option<LiveCopy>,
    /// Set when another VM replaces this one: what its commands are told.
    pub(super) replaced: OnceLock<&'static str>,
    /// Whether a call has reported that this VM ended.
    pub(super) told: AtomicBool,
    // Keeps the image's disk from being removed.
    pub(super) _image: DiskLease,
}

/// The layers of a machine's disk, oldest first.
#[derive(Debug)]
pub(super) struct Layers(Mutex<Vec<String>>);

impl Layers {
    pub(super) fn new(layers: Vec<String>) -> Self {
        Self(Mutex::new(layers))
    }

    pub(super) fn get(&self) -> Vec<String> {
        let layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        layers.clone()
    }

    pub(super) fn set(&self, layers: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = layers;
    }
}

/// The disk of a workspace that is a copy.
#[derive(Debug)]
pub(super) struct LiveCopy {
    /// The directory of the base below the layers.
    pub(super) base: PathBuf,
    pub(super) layers: Layers,
    trees: Mutex<Trees>,
}

/// The names of trees of a copied workspace.
#[derive(Debug)]
struct Trees {
    /// What the copy began with.
    began: String,
    /// What it is being given.
    placing: Option<String>,
}

impl LiveCopy {
    pub(super) fn new(disk: CopiedWorkspace) -> Self {
        Self {
            base: disk.base,
            layers: Layers::new(disk.layers),
            trees: Mutex::new(Trees {
                began: disk.tree,
                placing: disk.placing,
            }),
        }
    }

    /// The disk as it is stored.
    pub(super) fn disk(&self) -> CopiedWorkspace {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        CopiedWorkspace {
            base: self.base.clone(),
            layers: self.layers.get(),
            tree: trees.began.clone(),
            placing: trees.placing.clone(),
        }
    }

    /// It began with this tree, and is given no other one any more.
    pub(super) fn set_tree(&self, began: String) {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        *trees = Trees {
            began,
            placing: None,
        };
    }

    /// Whether it is being given another tree.
    pub(super) fn is_placing(&self) -> bool {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.placing.is_some()
    }

    /// It is being given this tree.
    pub(super) fn set_placing(&self, tree: String) {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.placing = Some(tree);
    }
}

/// One of a machine's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskOf {
    /// The root.
    Root,
    /// The workspace, where that is a copy.
    Workspace,
}

impl DiskOf {
    /// Its index among the machine's disks.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Root => 0,
            Self::Workspace => 1,
        }
    }
}

/// The sandbox's VM.
#[derive(Debug)]
pub(super) enum State<M = Live> {
    /// None; the next call that needs a guest boots one.
    Off,
    /// One that was booted. It may have ended since ([`Live::runs`]).
    Running(Arc<M>),
    /// None, for good.
    Stopped,
}

/// What happens to the VM.
#[derive(Debug)]
pub(super) enum Event<M = Live> {
    /// A new machine is up. It takes the place of the old one, if there is one.
    Booted(Arc<M>),
    /// A new machine did not come up.
    Failed,
    /// The machine was found to have ended by itself.
    Ended,
    /// The sandbox is stopped.
    Stop,
}

/// The sandbox is stopped, so nothing else can happen to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IsStopped;

impl<M> State<M> {
    /// The state after an event. Pure.
    fn after(&self, event: Event<M>) -> Result<Self, IsStopped> {
        match (self, event) {
            (_, Event::Stop) => Ok(Self::Stopped),
            (Self::Stopped, _) => Err(IsStopped),
            (Self::Off | Self::Running(_), Event::Booted(new)) => Ok(Self::Running(new)),
            (Self::Running(old), Event::Failed) => Ok(Self::Running(old.clone())),
            (Self::Off, Event::Failed) => Ok(Self::Off),
            (Self::Off | Self::Running(_), Event::Ended) => Ok(Self::Off),
        }
    }
}

impl Live {
    /// Whether the VM has not ended.
    pub(super) fn runs(&self) -> bool {
        self.machine.vm.end().is_none()
    }

    /// The layers of a disk; none if the machine does not have it.
    pub(super) fn layers(&self, disk: DiskOf) -> Option<&Layers> {
        match disk {
            DiskOf::Root => Some(&self.layers),
            DiskOf::Workspace => Some(&self.workspace.as_ref()?.layers),
        }
    }

    /// The file below a disk's layers.
    pub(super) fn below(&self, disk: DiskOf) -> PathBuf {
        match (disk, &self.workspace) {
            (DiskOf::Workspace, Some(workspace)) => base_disk(&workspace.base),
            _ => self.base.disk.clone(),
        }
    }

    /// The layers of its other disks.
    pub(super) fn other_layers(&self, than: DiskOf) -> Vec<String> {
        let other = match than {
            DiskOf::Root => DiskOf::Workspace,
            DiskOf::Workspace => DiskOf::Root,
        };
        self.layers(other).map(Layers::get).unwrap_or_default()
    }
}

/// The machine of the state, for readers that must not wait for a boot.
#[derive(Debug)]
pub(super) struct Published<M = Live>(watch::Sender<Weak<M>>);

impl<M> Published<M> {
    /// What is published of a sandbox that is off.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Weak::new()))
    }

    /// Changes the state by an event, and publishes it. Gives the machine that is no longer the sandbox's.
    pub(super) fn change(
        &self,
        state: &mut State<M>,
        event: Event<M>,
    ) -> Result<Option<Arc<M>>, IsStopped> {
        let new = state.after(event)?;
        self.0.send_replace(match &new {
            State::Running(machine) => Arc::downgrade(machine),
            State::Off | State::Stopped => Weak::new(),
        });
        let old = std::mem::replace(state, new);
        Ok(match (old, &*state) {
            (State::Running(old), State::Running(new)) if Arc::ptr_eq(&old, new) => None,
            (State::Running(old), _) => Some(old),
            (State::Off | State::Stopped, _) => None,
        })
    }

    /// The machine of the state.
    fn machine(&self) -> Option<Arc<M>> {
        self.0.borrow().upgrade()
    }
}

impl Published {
    /// The machine, if one runs.
    pub(super) fn running(&self) -> Option<Arc<Live>> {
        self.machine().filter(|live| live.runs())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the sandbox's tasks do to its state.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Step {
        /// A boot, a restore or a reboot, and whether the new machine comes up.
        Boot(bool),
        Die,
        Stop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(Step::Boot),
            2 => Just(Step::Die),
            1 => Just(Step::Stop),
        ]
    }

    proptest! {
        #[test]
        fn one_machine_at_most_is_owned_and_published_and_none_after_the_end(
            steps in prop::collection::vec(step(), 0..24)
        ) {
            let (mut state, published) = (State::Off, Published::new());
            let mut made: Vec<Weak<usize>> = Vec::new();
            let (mut owned, mut stopped) = (None, false);
            for (number, step) in steps.into_iter().enumerate() {
                let event = match step {
                    Step::Boot(true) => {
                        let machine = Arc::new(number);
                        made.push(Arc::downgrade(&machine));
                        Event::Booted(machine)
                    }
                    Step::Boot(false) => Event::Failed,
                    Step::Die => Event::Ended,
                    Step::Stop => Event::Stop,
                };
                let old = published.change(&mut state, event);
                let expected = match (stopped, step) {
                    (true, Step::Stop) => Ok(None),
                    (true, _) => Err(IsStopped),
                    // The old machine goes on.
                    (false, Step::Boot(false)) => Ok(None),
                    (false, Step::Boot(true)) => Ok(owned.replace(number)),
                    (false, Step::Die | Step::Stop) => Ok(owned.take()),
                };
                prop_assert_eq!(old.map(|old| old.map(|old| *old)), expected);
                stopped |= step == Step::Stop;
                let now = match &state {
                    State::Running(machine) => Some(**machine),
                    State::Off | State::Stopped => None,
                };
                prop_assert_eq!(now, owned);
                prop_assert_eq!(published.machine().map(|machine| *machine), owned);
                prop_assert_eq!(matches!(state, State::Stopped), stopped);
                let alive = made.iter().filter(|machine| machine.strong_count() > 0).count();
                prop_assert_eq!(alive, usize::from(owned.is_some()));
            }
        }
    }
}
