//! What an engine can do, as facts that a reader can weigh.

use std::fmt;

/// What an engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A snapshot switches to a new disk layer while the VM runs; otherwise it copies what the VM has written.
    pub live_layers: bool,
    /// How long the guest may see the old file after the host has replaced one in the workspace, in seconds.
    pub stale_files_s: u32,
    /// A server that root runs can let the guest read other users' files in the workspace.
    pub others_files: bool,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshots = match self.live_layers {
            true => "a snapshot is taken while the VM runs",
            false => "a snapshot copies what the VM has written",
        };
        write!(
            f,
            "{snapshots}; a file replaced on the host is seen within {} s",
            self.stale_files_s
        )?;
        match self.others_files {
            true => Ok(()),
            false => {
                f.write_str("; other users' files in the workspace are closed to root's server")
            }
        }
    }
}
