//! What is counted: connections, bytes, refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use snowglobe_init::streams::{Reason, Refusal};

/// The counts of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open.
    pub open: u64,
    /// Connections that were made.
    pub made: u64,
    /// Names and connections that were refused, or ended by a rule.
    pub refused: u64,
    /// Bytes from the guest.
    pub up: u64,
    /// Bytes to the guest.
    pub down: u64,
}

/// The counts as they grow.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) open: AtomicU64,
    pub(super) made: AtomicU64,
    pub(super) refused: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    /// The most bytes, both ways together.
    most: Option<u64>,
}

impl Totals {
    pub(super) fn new(most: Option<u64>) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    pub(super) fn get(&self) -> Counts {
        Counts {
            open: self.open.load(Relaxed),
            made: self.made.load(Relaxed),
            refused: self.refused.load(Relaxed),
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
        }
    }

    /// Refuses if the sandbox may move no more bytes.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let used = self
            .up
            .load(Relaxed)
            .saturating_add(self.down.load(Relaxed));
        match self.most {
            Some(most) if used > most => {
                let text =
                    format!("the sandbox has used the {most} bytes that it may send and receive");
                Err(Refusal::new(Reason::Denied, text))
            }
            _ => Ok(()),
        }
    }
}

/// The bytes of one connection, which is open until this is dropped.
#[derive(Debug)]
pub struct Connection {
    totals: Arc<Totals>,
    up: AtomicU64,
    down: AtomicU64,
}

impl Connection {
    pub(super) fn new(totals: Arc<Totals>) -> Self {
        totals.open.fetch_add(1, Relaxed);
        totals.made.fetch_add(1, Relaxed);
        Self {
            totals,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    /// Counts bytes from the guest. Fails if they are too many.
    pub fn up(&self, bytes: usize) -> Result<(), Refusal> {
        self.up.fetch_add(bytes as u64, Relaxed);
        self.totals.up.fetch_add(bytes as u64, Relaxed);
        self.totals.check()
    }

    /// Counts bytes to the guest. Fails if they are too many.
    pub fn down(&self, bytes: usize) -> Result<(), Refusal> {
        self.down.fetch_add(bytes as u64, Relaxed);
        self.totals.down.fetch_add(bytes as u64, Relaxed);
        self.totals.check()
    }

    /// The bytes from the guest and to it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.up.load(Relaxed), self.down.load(Relaxed))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.totals.open.fetch_sub(1, Relaxed);
    }
}
