//! The disks of sandboxes: layers, snapshots, and what living VMs use of them.
//!
//! ```text
//! <data>/sandboxes/<name>/lock                 held while any of this is changed
//!                        /directories         which directories the sandbox belongs to
//!                        /layers/<id>.qcow2    disk layers: frozen ones, and the one each VM writes
//!                        /snapshots/<name>.json  a snapshot: its layers, oldest first
//!                        /run/<vm>/lock        held as long as that VM's owner lives
//!                        /run/<vm>/layers.json the layers of that VM
//!                        /run/<vm>/base.json   the image's disk below them, where no lease of the image store keeps it
//! ```
//!
//! Invariants: one rename makes a snapshot's record visible, one unlink removes it; a layer is never written again
//! once a record names it. A chain is at most `depth::MOST` layers long: the newest layers of a longer one are merged into
//! another file, by the engine before a save and by `merge` before a boot, while the old layers stay for whatever needs
//! them. A layer that neither a record nor a living VM names is garbage and is swept. If one of
//! these cannot be read, nothing is swept at all.

mod chain;
mod copies;
mod depth;
mod error;
mod header;
mod merge;
mod overlay;
mod owner;
mod record;
mod remove;
mod session;
mod snapshots;
mod store;
mod sweep;
#[cfg(test)]
mod tests;

pub use chain::{Merge, NewDisk};
pub use copies::{CopyPlace, base_disk, base_list};
pub use error::StoreError;
pub(crate) use owner::Owners;
pub use record::{Base, CopiedWorkspace, Record};
pub(crate) use remove::{StoreFacts, stores};
pub use snapshots::{SaveLimits, SavePlan};
pub(crate) use snapshots::{all_records, pinned_disks};
pub use store::{Store, VmDir};
