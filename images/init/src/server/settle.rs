//! Putting what was written to a workspace's own disk there soon: the disk survives the machine, and the machine may be
//! killed at any moment.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

/// Writes the caches of one file system, one after the other.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// A directory of the file system; absent: nothing is to be written.
    path: Option<PathBuf>,
    writing: Mutex<()>,
    /// Whether a writer waits for its turn: it will write what is there then.
    due: AtomicBool,
}

impl Settling {
    pub(super) fn of(path: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            path,
            ..Self::default()
        })
    }

    /// Begins to write; does not wait for it.
    pub(super) fn begin(self: &Arc<Self>) {
        if self.path.is_none() || self.due.swap(true, Ordering::SeqCst) {
            return;
        }
        let settling = self.clone();
        tokio::task::spawn_blocking(move || settling.write());
    }

    /// Writes what is there now. Blocks.
    pub(super) fn write(&self) {
        let Some(path) = &self.path else {
            return;
        };
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.due.store(false, Ordering::SeqCst);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = rustix::fs::open(path, flags, Mode::empty()).and_then(rustix::fs::syncfs);
        if let Err(error) = synced {
            tracing::warn!(%error, "what was written to the workspace is not on its disk yet");
        }
    }
}
