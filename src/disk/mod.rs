//! The disks of sandboxes: layers, snapshots, and what living VMs use of them.
//!
//! ```text
//! <data>/sandboxes/<name>/lock                 held while any of this is changed
//!                        /layers/<id>.qcow2    disk layers: frozen ones, and the one each VM writes
//!                        /snapshots/<name>.json  a snapshot: its layers, oldest first
//!                        /run/<vm>/lock        held as long as that VM's owner lives
//!                        /run/<vm>/layers.json the layers of that VM
//! ```
//!
//! Invariants: one rename makes a snapshot's record visible, one unlink removes it; a layer is never written again
//! once a record names it; a layer that neither a record nor a living VM names is garbage and is swept. If one of
//! these cannot be read, nothing is swept at all.

mod chain;
mod error;
mod header;
mod overlay;
mod record;
mod session;
mod snapshots;
mod store;
mod sweep;
#[cfg(test)]
mod tests;

pub use chain::NewDisk;
pub use error::StoreError;
pub use record::{Base, Record};
pub(crate) use snapshots::all_records;
pub use store::{Store, VmDir};
