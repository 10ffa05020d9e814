//! Starting VMs: which engine this host can run, and the runner's process.
//!
//! Deliberately absent: any knowledge of images, snapshots or the guest.

pub mod artefacts;
mod capabilities;
mod choose;
mod error;
pub mod host;
pub mod initramfs;
mod krun;
mod qemu;
mod vm;

pub use capabilities::Capabilities;
pub use choose::{capabilities, choose};
pub use error::{VmEnd, VmmError};
pub use vm::Vm;
