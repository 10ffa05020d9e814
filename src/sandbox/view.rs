//! What can be known of a sandbox without booting it: its console, which fences are missing, whether anything changed.

use std::fs;
use std::io::{self, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::{files, private};

/// How much of the console's end is shown, in bytes.
const CONSOLE: u64 = 256 << 10;

/// What a sandbox publishes about itself.
#[derive(Debug, Default)]
pub(super) struct View {
    changes: AtomicU64,
    facts: Mutex<Facts>,
    console: OnceLock<PathBuf>,
}

#[derive(Debug, Default)]
struct Facts {
    log: Option<PathBuf>,
    trouble: Option<String>,
    lacks: Vec<String>,
    notes: Vec<String>,
    history: History,
}

/// The machines that a sandbox has had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// How many.
    pub generation: u64,
    /// The newest one's engine, such as `qemu (tcg)`.
    pub engine: Option<String>,
    /// When the newest one had booted.
    pub since: Option<jiff::Timestamp>,
    /// Why the one before it ended, or the newest one itself: `rebooted`, or how it died.
    pub last_end: Option<String>,
}

impl View {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots, jobs or the machine have changed.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A boot begins, whose console is written to `log`.
    pub(super) fn booting(&self, log: PathBuf) {
        if let Some(kept) = self.console.get()
            && let Err(error) = keep(&log, kept)
        {
            tracing::warn!(%error, file = %kept.display(), "the machine's console will not be kept");
        }
        self.facts().log = Some(log);
    }

    /// A boot succeeded or failed.
    pub(super) fn booted<T>(&self, booted: Result<T, SandboxError>) -> Result<T, SandboxError> {
        self.changed();
        self.facts().trouble = booted
            .as_ref()
            .err()
            .map(|error| format!("failed to {}", crate::describe(error)));
        booted
    }

    /// A machine runs on this engine, without these fences.
    pub(super) fn runs(&self, engine: String, lacks: &[String]) {
        let mut facts = self.facts();
        facts.lacks = lacks.to_vec();
        facts.history.generation += 1;
        facts.history.engine = Some(engine);
        facts.history.since = Some(jiff::Timestamp::now());
    }

    /// Whether a machine has been up.
    pub(super) fn has_booted(&self) -> bool {
        self.facts().history.generation > 0
    }

    /// Keeps a note for the caller who boots or changes the machine.
    pub(super) fn tell(&self, note: String) {
        tracing::info!("{note}");
        self.facts().notes.push(note);
    }

    /// Another machine took the place of the one that ran.
    pub(super) fn replaced(&self, what: &str) {
        self.facts().history.last_end = Some(what.to_owned());
    }

    /// The console's log, and the last trouble.
    fn console(&self) -> (Option<PathBuf>, Option<String>) {
        let facts = self.facts();
        (facts.log.clone(), facts.trouble.clone())
    }

    /// The machine ended.
    pub(super) fn died(&self, how: &str) {
        self.changed();
        let mut facts = self.facts();
        facts.trouble = Some(format!("the VM ended: {how}"));
        facts.history.last_end = Some(format!("ended: {how}"));
    }
}

/// Gives the console's file a second name, which stays when the machine's directory goes.
fn keep(log: &Path, kept: &Path) -> io::Result<()> {
    if let Some(dir) = kept.parent() {
        private::dir(dir)?;
    }
    drop(private::file().append(true).create(true).open(log)?);
    let new = kept.with_extension("console.new");
    files::remove_file(&new)?;
    fs::hard_link(log, &new)?;
    fs::rename(&new, kept)?;
    // If both were names of one file, the renaming has left both.
    files::remove_file(&new)
}

/// A machine's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// The newest 256 KiB that the machine printed; empty if none runs or boots.
    pub text: String,
    /// Why the last boot failed or the last machine ended, unless another has booted since.
    pub trouble: Option<String>,
}

/// What a client or a person is told where these fences around the VM do not hold. Pure.
pub fn weaker_fences(lacks: &[String]) -> String {
    format!(
        "this host shuts the VM off less than it could: it runs without {}; `snowglobe doctor` says what helps, and \
         isolation = \"require\" refuses to run so",
        lacks.join("; without ")
    )
}

impl Sandbox {
    /// Keeps the newest machine's console at this path, also after the machine's end.
    pub(crate) fn keep_console(&self, path: PathBuf) {
        // It is set once.
        self.view.console.set(path).ok();
    }

    /// A stamp that changes when snapshots, jobs or the machine may have changed.
    pub fn changes(&self) -> u64 {
        self.view.changes.load(Ordering::Relaxed)
    }

    /// The fences that are missing around the newest machine, and why.
    pub fn lacks(&self) -> Vec<String> {
        self.view.facts().lacks.clone()
    }

    /// What the newest boot or restore has to say, once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.view.facts().notes)
    }

    /// The machines that it has had.
    pub fn history(&self) -> History {
        self.view.facts().history.clone()
    }

    /// Whether a machine runs now; this never waits for a boot.
    pub fn is_running(&self) -> bool {
        self.published.running().is_some()
    }

    /// Whether the machine is being changed now: booted, replaced or stopped.
    pub fn is_changing(&self) -> bool {
        self.state.try_lock().is_err()
    }

    /// The console, also while the machine boots.
    pub async fn console(&self) -> Console {
        let (log, trouble) = self.view.console();
        let text = blocking(move || log.as_deref().and_then(end_of)).await;
        Console {
            text: text.unwrap_or_default(),
            trouble,
        }
    }

    /// The file of the newest machine's console.
    pub fn console_log(&self) -> Option<PathBuf> {
        self.view.facts().log.clone()
    }

    /// A stamp that changes when the console does.
    pub async fn console_stamp(&self) -> (u64, bool) {
        let (log, trouble) = self.view.console();
        let length = blocking(move || Some(log?.metadata().ok()?.len())).await;
        (length.unwrap_or_default(), trouble.is_some())
    }
}

fn end_of(log: &Path) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(CONSOLE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
