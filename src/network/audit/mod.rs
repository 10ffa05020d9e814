//! The audit log: what the guest asked of the network, and what came of it, as JSON lines.
//!
//! The newest lines are in `network.jsonl`; at 8 MiB it becomes `network.1.jsonl`, and of the older files three are
//! kept. Lines are only appended, so a reader can [follow](Follow) them while they are written. A thread of its own
//! writes them; lines that it can't keep up with are counted, and the count is a line, too.
//!
//! Equal lines within a minute become one with a count, so a guest can't push out what it did before by doing it again.

mod files;
mod fold;
mod follow;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use files::Files;
use fold::Fold;

pub use files::{KEPT, MOST};
pub use follow::Follow;
pub use record::{Decision, Event, Record};

/// How many lines may wait to be written.
const WAITING: usize = 1024;

/// The log, to which lines are added. The last lines are written when it is dropped.
#[derive(Debug)]
pub struct Audit {
    lines: Option<SyncSender<Record>>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Audit {
    /// Opens the log in a directory, which exists. Fails if the newest file can't be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let files = Files::open(directory, MOST)?;
        let (lines, received) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let write = move || write(files, &received, &counted);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(write)?;
        Ok(Self {
            lines: Some(lines),
            lost,
            thread: Some(thread),
        })
    }

    /// Adds a line, without waiting.
    pub fn add(&self, record: Record) {
        let lines = self.lines.as_ref();
        if lines.is_none_or(|lines| lines.try_send(record).is_err()) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        // The thread ends once it has written what waits.
        drop(self.lines.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Writes lines until no more can come.
fn write(mut files: Files, received: &Receiver<Record>, lost: &AtomicU64) {
    let mut fold = Fold::default();
    let mut complained = false;
    loop {
        let next = match fold.due() {
            Some(due) => received.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let ended = matches!(next, Err(RecvTimeoutError::Disconnected));
        let now = Instant::now();
        let mut lines: Vec<Record> = next
            .ok()
            .into_iter()
            .filter_map(|record| fold.take(record, now))
            .collect();
        lines.extend(fold.take_due(now, ended));
        lines.extend(
            Some(lost.swap(0, Relaxed))
                .filter(|lost| *lost > 0)
                .map(Record::lost),
        );
        if let Err(error) = lines.iter().try_for_each(|record| files.write(record))
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(%error, "the audit log of the network can't be written");
        }
        if ended {
            return;
        }
    }
}
