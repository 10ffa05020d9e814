//! What can be known of a sandbox without booting it: its console, which fences are missing, whether anything changed.

use std::io::{Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Sandbox, SandboxError};

/// How much of the console's end is shown, in bytes.
const CONSOLE: u64 = 256 << 10;

/// What a sandbox keeps for those who look on.
#[derive(Debug, Default)]
pub(super) struct View {
    changes: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    log: Option<PathBuf>,
    trouble: Option<String>,
    lacks: Vec<String>,
}

impl View {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots, jobs or the machine are others than before.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A boot begins that writes its console there.
    pub(super) fn booting(&self, log: PathBuf) {
        self.seen().log = Some(log);
    }

    /// How a boot went.
    pub(super) fn booted<T>(&self, booted: Result<T, SandboxError>) -> Result<T, SandboxError> {
        self.changed();
        self.seen().trouble = booted
            .as_ref()
            .err()
            .map(|error| format!("failed to {}", crate::describe(error)));
        booted
    }

    /// Which fences do not hold around the machine.
    pub(super) fn fenced(&self, lacks: &[String]) {
        self.seen().lacks = lacks.to_vec();
    }

    /// What ended the machine.
    pub(super) fn died(&self, how: &str) {
        self.changed();
        self.seen().trouble = Some(format!("the VM ended: {how}"));
    }
}

/// What there is of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// What the machine that runs (or boots) printed, the newest 256 KiB of it; empty where none does.
    pub text: String,
    /// Why the last boot failed or the last machine ended, if one did and none has booted since.
    pub trouble: Option<String>,
}

impl Sandbox {
    /// A number that is another one whenever snapshots, jobs or the machine may have changed.
    pub fn changes(&self) -> u64 {
        self.view.changes.load(Ordering::Relaxed)
    }

    /// Which fences do not hold around the machine that booted last, and why.
    pub fn lacks(&self) -> Vec<String> {
        self.view.seen().lacks.clone()
    }

    /// The console, while the machine boots, too.
    pub fn console(&self) -> Console {
        let seen = self.view.seen();
        let text = seen.log.as_deref().and_then(end_of).unwrap_or_default();
        Console {
            text,
            trouble: seen.trouble.clone(),
        }
    }

    /// Something that is another when the console has more to show.
    pub fn console_stamp(&self) -> (u64, bool) {
        let seen = self.view.seen();
        let length = seen.log.as_deref().and_then(|log| log.metadata().ok());
        (length.map_or(0, |meta| meta.len()), seen.trouble.is_some())
    }
}

fn end_of(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(CONSOLE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
