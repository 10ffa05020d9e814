//! The order of a child that is this program again. It is the child's standard input, since every user of the host can
//! read a command line.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The order as a file in memory: the child reads it whenever it likes, and no process has to write meanwhile.
pub(super) fn to_input(order: &impl Serialize) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("order", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&mut file, order)?;
    file.rewind()?;
    Ok(file.into())
}

/// In the child: its order.
pub(crate) fn read<T: DeserializeOwned>() -> serde_json::Result<T> {
    serde_json::from_reader(io::stdin().lock())
}
