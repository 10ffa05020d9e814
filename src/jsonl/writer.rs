//! The thread that writes the lines of a process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::Serialize;

use super::Place;
use super::files::{Files, MOST};

/// How many lines may wait to be written.
const WAITING: usize = 1024;

/// What becomes of records before they are written: by default, each is written as it is.
pub trait Gather<T>: Send + 'static {
    /// Takes a record, and gives it back if it is to be written as it is.
    fn take(&mut self, record: T, _now: Instant) -> Option<T> {
        Some(record)
    }

    /// When records that were taken are to be written next.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// The records that are to be written now, or all that were taken.
    fn take_due(&mut self, _now: Instant, _all: bool) -> Vec<T> {
        Vec::new()
    }

    /// The record that says that so many are lost.
    fn lost(&self, count: u64) -> T;
}

/// A log, to which records are added. The last ones are written when it is dropped.
#[derive(Debug)]
pub struct Writer<T> {
    pub(super) records: Option<SyncSender<T>>,
    pub(super) lost: Arc<AtomicU64>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl<T: Serialize + Send + 'static> Writer<T> {
    /// Opens a log, whose directory exists. Fails if the newest file can't be opened.
    pub fn open(place: Place, gather: impl Gather<T>) -> io::Result<Self> {
        let files = Files::open(place, MOST)?;
        let (records, received) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let write = move || write(files, gather, &received, &counted);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(write)?;
        Ok(Self {
            records: Some(records),
            lost,
            thread: Some(thread),
        })
    }
}

impl<T> Writer<T> {
    /// Adds a record, without waiting.
    pub fn add(&self, record: T) {
        let records = self.records.as_ref();
        if records.is_none_or(|records| records.try_send(record).is_err()) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // The thread ends once it has written what waits.
        drop(self.records.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Writes records until no more can come.
pub(super) fn write<T: Serialize>(
    mut files: Files,
    mut gather: impl Gather<T>,
    received: &Receiver<T>,
    lost: &AtomicU64,
) {
    let mut complained = false;
    loop {
        let next = match gather.due() {
            Some(due) => received.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let ended = matches!(next, Err(RecvTimeoutError::Disconnected));
        let now = Instant::now();
        let mut lines: Vec<T> = next
            .ok()
            .into_iter()
            .filter_map(|record| gather.take(record, now))
            .collect();
        lines.extend(gather.take_due(now, ended));
        let lost = Some(lost.swap(0, Relaxed)).filter(|lost| *lost > 0);
        lines.extend(lost.map(|lost| gather.lost(lost)));
        if let Err(error) = lines.iter().try_for_each(|record| files.write(record))
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(%error, "a log of the sandbox can't be written");
        }
        if ended {
            return;
        }
    }
}
