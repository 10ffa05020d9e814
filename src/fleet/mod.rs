//! All sandboxes of one process, by handle: bounded, leased to callers, stopped while no caller uses them.
//!
//! A handle names a slot. A slot has a sandbox, or it had one that was stopped because no call used it. The number of
//! sandboxes is bounded, and so is the number of empty slots, which are kept for a long time: the next call makes a new
//! sandbox there, and its result says what is gone. So a stopped sandbox is never replaced silently.
//!
//! Snapshots belong to a slot, too: no client sees those of another slot, and they are removed with their slot.
//!
//! To make a sandbox is disk work. A call first reserves the place in the table, then works on a blocking thread without
//! the table's lock, and then publishes the sandbox. Other calls for the same slot wait for it.
//! Deliberately absent: any knowledge of MCP.

mod error;
mod lease;
mod policy;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub(crate) use error::FleetError;
pub(crate) use lease::Lease;
use lease::{Reservation, Slots};
pub(crate) use table::Lost;
use table::{Content, Found, Idle, Refused, Slot, Table};

use crate::blocking::blocking;
use crate::config::Config;
use crate::disk::Store;
use crate::network::live::Counts;
use crate::sandbox::{Sandbox, SandboxError};

/// How long a session or handle without calls is kept at least.
const MIN_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How many slots without a sandbox are kept.
const MAX_EMPTY_SLOTS: usize = 1024;

/// How many sandboxes run at once, and how long one without a call does.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many at once.
    pub sandboxes: usize,
    /// How long one without calls and running jobs is kept.
    pub idle: Duration,
}

impl Limits {
    /// How long a session or handle without calls is kept.
    pub(crate) fn kept(&self) -> Duration {
        self.idle.max(MIN_KEPT)
    }
}

/// All sandboxes of one process.
pub(crate) struct Fleet {
    config: Arc<Config>,
    limits: Limits,
    slots: Arc<Slots>,
    /// What sandboxes that were stopped did on the network.
    ended: std::sync::Mutex<Counts>,
}

impl Fleet {
    /// An empty fleet, which stops idle sandboxes until `closing` fires.
    pub(crate) async fn new(
        config: Config,
        limits: Limits,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let data = config.host.dirs.data.clone();
        blocking(move || Store::sweep_sessions(&data)).await;
        let fleet = Arc::new(Self {
            config: Arc::new(config),
            limits,
            slots: Slots::new(limits.sandboxes, limits.idle),
            ended: std::sync::Mutex::default(),
        });
        let swept = fleet.clone();
        tokio::spawn(async move {
            let every =
                (limits.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30));
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {
                        swept.stop_idle();
                        swept.remove_expired().await;
                    }
                    () = closing.cancelled() => break,
                }
            }
        });
        fleet
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Sandbox>, Store>> {
        self.slots.table()
    }

    /// The configuration of every sandbox.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The number of sandboxes, with those that are being made.
    pub(crate) fn count(&self) -> usize {
        self.table().count()
    }

    /// What all sandboxes so far did on the network.
    pub(crate) fn network_counts(&self) -> Counts {
        // In this order no sandbox that is being stopped is left out.
        let running = self.table().all();
        let mut counts = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for sandbox in running {
            counts += sandbox.network().counts();
        }
        counts
    }

    /// Stops a sandbox, and keeps its counts.
    async fn end(&self, sandbox: &Sandbox) {
        sandbox.stop().await;
        let counts = Counts {
            open: 0,
            ..sandbox.network().counts()
        };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended += counts;
    }

    /// A sandbox in a new slot; `lost`: what the client lost with an earlier slot.
    pub(crate) async fn lease_new(&self, lost: Option<Lost>) -> Result<Lease, FleetError> {
        let handle = format!("sb-{:032x}", rand::random::<u128>());
        let reserved = self
            .table()
            .reserve_new(handle.clone(), lost, Instant::now());
        let done = reserved.map_err(|refused| self.error(refused, &handle))?;
        let place = Reservation::new(self.slots.clone(), handle, done);
        self.make(place, None, false).await
    }

    /// The sandbox of a handle, a new one if it was stopped.
    pub(crate) async fn lease(&self, handle: &str) -> Result<Lease, FleetError> {
        loop {
            let found = self.table().find(handle);
            match found.map_err(|refused| self.error(refused, handle))? {
                Found::Ready(sandbox) => {
                    return Ok(Lease::of(
                        self.slots.clone(),
                        sandbox,
                        handle.to_owned(),
                        true,
                    ));
                }
                Found::Making(done) => done.cancelled().await,
                Found::Reserved(store, done) => {
                    let place = Reservation::new(self.slots.clone(), handle.to_owned(), done);
                    return self.make(place, store, true).await;
                }
            }
        }
    }

    /// Makes the sandbox of a reserved place; in a new slot, which has no `store`, that as well. If the caller gives up, the
    /// place stays reserved until the disk work is done and undone.
    async fn make(
        &self,
        place: Reservation,
        store: Option<Store>,
        known: bool,
    ) -> Result<Lease, FleetError> {
        let config = self.config.clone();
        let made = blocking(move || {
            let made = make(&config, store);
            // The order counts: where nobody takes the result, the sandbox is removed before its place is given back.
            (made, place)
        });
        let (made, place) = made.await;
        let (sandbox, store) = made?;
        place.publish(sandbox, store, known)
    }

    fn error(&self, refused: Refused, handle: &str) -> FleetError {
        match refused {
            Refused::Full => FleetError::Full {
                limit: self.limits.sandboxes,
                idle: self.limits.idle,
            },
            Refused::Unknown => FleetError::Unknown {
                handle: handle.to_owned(),
                kept: self.limits.kept(),
            },
            Refused::Closed => SandboxError::Stopped.into(),
        }
    }

    /// The sandbox of a handle, if it has one now. This neither starts nor keeps a sandbox.
    pub(crate) fn peek(&self, handle: &str) -> Option<Arc<Sandbox>> {
        self.table().peek(handle)
    }

    /// Removes a slot and stops its sandbox.
    pub(crate) fn close(self: &Arc<Self>, handle: &str) {
        let slot = self.table().close(handle);
        if let (Some(slot), Ok(runtime)) = (slot, tokio::runtime::Handle::try_current()) {
            let fleet = self.clone();
            runtime.spawn(async move { fleet.stop_slot(slot).await });
        }
    }

    /// Stops idle sandboxes, each in a task of its own: a guest that does not answer delays no other.
    fn stop_idle(self: &Arc<Self>) {
        let idle = self.table().check_idle(Instant::now(), self.limits.idle);
        for idle in idle {
            let fleet = self.clone();
            tokio::spawn(async move { fleet.stop_if_idle(idle).await });
        }
    }

    /// Stops a sandbox that is not busy, unless a call came meanwhile.
    async fn stop_if_idle(&self, idle: Idle<Arc<Sandbox>>) {
        let has_jobs = idle.sandbox.is_busy().await;
        let lost = idle.sandbox.processes().map(|_| Lost::System);
        let stopped = self.table().checked(&idle, has_jobs, lost, Instant::now());
        if let Some(sandbox) = stopped {
            tracing::info!("stopping a sandbox without calls");
            self.end(&sandbox).await;
        }
    }

    /// Removes slots without a sandbox that are expired or too many, the oldest first.
    async fn remove_expired(&self) {
        let (now, kept) = (Instant::now(), self.limits.kept());
        let expired = self.table().expire(now, kept, MAX_EMPTY_SLOTS);
        if !expired.is_empty() {
            // Dropping a slot's store removes its snapshots.
            blocking(move || drop(expired)).await;
        }
    }

    /// Stops all of them, for good; also waits for those that are being made.
    pub(crate) async fn stop(&self) {
        let all = self.table().close_all();
        let stopping = all.into_iter().map(|slot| self.stop_slot(slot));
        futures_util::future::join_all(stopping).await;
    }

    /// Stops what a removed slot has, and removes its snapshots.
    async fn stop_slot(&self, slot: Slot<Arc<Sandbox>, Store>) {
        match slot.content {
            Content::Ready(sandbox) => self.end(&sandbox).await,
            // The call that makes the sandbox finds the slot gone, and removes the sandbox again.
            Content::Making(done) => done.cancelled().await,
            Content::Empty => {}
        }
        let store = slot.store;
        blocking(move || drop(store)).await;
    }
}

/// The disk work for a new sandbox. Blocks.
fn make(config: &Config, store: Option<Store>) -> Result<(Arc<Sandbox>, Store), FleetError> {
    let (host, spec) = (&config.host, &config.sandbox);
    let store = match store {
        Some(store) => store,
        None => Store::of_session(&host.dirs.data, &spec.name, spec.snapshot.as_ref())
            .map_err(SandboxError::from)?,
    };
    Ok((Sandbox::of_session(config, store.clone())?, store))
}
