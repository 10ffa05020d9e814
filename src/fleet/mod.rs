//! All sandboxes of one process, by handle: bounded, leased to callers, stopped while no caller uses them.
//!
//! A handle names a slot. A slot has a sandbox, or it had one that was stopped because no call used it. The number of
//! sandboxes is bounded, and so is the number of empty slots, which are kept for a long time: the next call makes a new
//! sandbox there, and its result says what is gone. So a stopped sandbox is never replaced silently.
//!
//! Snapshots belong to a slot, too: no client sees those of another slot, and they are removed with their slot.
//! Deliberately absent: any knowledge of MCP.

mod error;
mod policy;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub(crate) use error::FleetError;

use crate::config::Config;
use crate::disk::{Store, StoreError};
use crate::progress::Progress;
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

/// What a slot lost with a stopped sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The system.
    System,
    /// The system and all snapshots.
    All,
}

struct Slot {
    sandbox: Option<Arc<Sandbox>>,
    /// The snapshots of all sandboxes that this slot has had.
    store: Store,
    /// A loss that no result has reported yet.
    lost: Option<Lost>,
    /// How many calls use the sandbox now.
    uses: usize,
    /// When the last use ended, or the sandbox was stopped.
    since: Instant,
    /// Whether the guest is being asked for running jobs, before the sandbox is stopped.
    checking: bool,
}

impl Slot {
    fn state(&self) -> policy::SlotState {
        policy::SlotState {
            has_sandbox: self.sandbox.is_some(),
            uses: self.uses,
            since: self.since,
            checking: self.checking,
        }
    }
}

/// All sandboxes of one process.
pub(crate) struct Fleet {
    config: Config,
    limits: Limits,
    table: Mutex<HashMap<String, Slot>>,
}

impl Fleet {
    /// An empty fleet, which stops idle sandboxes until `closing` fires.
    pub(crate) fn new(config: Config, limits: Limits, closing: CancellationToken) -> Arc<Self> {
        Store::sweep_sessions(&config.host.dirs.data);
        let fleet = Arc::new(Self {
            config,
            limits,
            table: Mutex::default(),
        });
        let swept = fleet.clone();
        tokio::spawn(async move {
            let every =
                (limits.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30));
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {
                        swept.stop_idle();
                        swept.remove_expired();
                    }
                    () = closing.cancelled() => break,
                }
            }
        });
        fleet
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of every sandbox.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The number of sandboxes.
    pub(crate) fn count(&self) -> usize {
        sandboxes(&self.table())
    }

    /// A new sandbox with its snapshots in `store`, if the limit allows one more.
    fn create(
        &self,
        table: &HashMap<String, Slot>,
        store: impl FnOnce() -> Result<Store, StoreError>,
    ) -> Result<(Arc<Sandbox>, Store), FleetError> {
        if sandboxes(table) >= self.limits.sandboxes {
            return Err(FleetError::Full {
                limit: self.limits.sandboxes,
                idle: self.limits.idle,
            });
        }
        let store = store().map_err(SandboxError::from)?;
        let sandbox = Sandbox::of_session(&self.config, store.clone())?;
        Ok((sandbox, store))
    }

    /// A sandbox in a new slot; `lost`: what the client lost with an earlier slot.
    pub(crate) fn lease_new(self: &Arc<Self>, lost: Option<Lost>) -> Result<Lease, FleetError> {
        let mut table = self.table();
        let config = &self.config;
        let new = || {
            Store::of_session(
                &config.host.dirs.data,
                &config.sandbox.name,
                config.sandbox.snapshot.as_ref(),
            )
        };
        let (sandbox, store) = self.create(&table, new)?;
        let handle = format!("sb-{:032x}", rand::random::<u128>());
        let slot = Slot {
            sandbox: Some(sandbox.clone()),
            store,
            lost,
            uses: 1,
            since: Instant::now(),
            checking: false,
        };
        table.insert(handle.clone(), slot);
        Ok(Lease {
            sandbox,
            handle,
            fleet: Some(self.clone()),
            handle_known: false,
            session: false,
        })
    }

    /// The sandbox of a handle, if it has one now. This neither starts nor keeps a sandbox.
    pub(crate) fn peek(&self, handle: &str) -> Option<Arc<Sandbox>> {
        self.table().get(handle)?.sandbox.clone()
    }

    /// The sandbox of a handle, a new one if it was stopped. None if no slot has this handle.
    pub(crate) fn lease(self: &Arc<Self>, handle: &str) -> Option<Result<Lease, FleetError>> {
        let mut table = self.table();
        let slot = table.get(handle)?;
        let made = match &slot.sandbox {
            Some(sandbox) => Ok(sandbox.clone()),
            None => {
                let store = slot.store.clone();
                self.create(&table, || Ok(store))
                    .map(|(sandbox, _)| sandbox)
            }
        };
        let sandbox = match made {
            Ok(sandbox) => sandbox,
            Err(error) => return Some(Err(error)),
        };
        let slot = table.get_mut(handle)?;
        slot.sandbox = Some(sandbox.clone());
        slot.uses += 1;
        Some(Ok(Lease {
            sandbox,
            handle: handle.to_owned(),
            fleet: Some(self.clone()),
            handle_known: true,
            session: false,
        }))
    }

    /// The error for a handle that no slot has.
    pub(crate) fn unknown(&self, handle: &str) -> FleetError {
        FleetError::Unknown {
            handle: handle.to_owned(),
            kept: self.limits.kept(),
        }
    }

    /// Removes a slot and stops its sandbox.
    pub(crate) fn close(&self, handle: &str) {
        let slot = self.table().remove(handle);
        if let Some(sandbox) = slot.and_then(|slot| slot.sandbox) {
            stop(sandbox);
        }
    }

    /// Stops idle sandboxes, each in a task of its own: a guest that does not answer delays no other.
    fn stop_idle(self: &Arc<Self>) {
        let now = Instant::now();
        for (handle, slot) in &mut *self.table() {
            let idle = policy::is_idle(slot.state(), now, self.limits.idle);
            if let Some(sandbox) = slot.sandbox.clone().filter(|_| idle) {
                slot.checking = true;
                let (fleet, handle, since) = (self.clone(), handle.clone(), slot.since);
                tokio::spawn(async move { fleet.stop_if_idle(&handle, since, sandbox).await });
            }
        }
    }

    /// Stops a sandbox without running jobs. A guest that does not answer counts as idle; one that is paused because the
    /// host's disk is full does not, since it will go on.
    async fn stop_if_idle(&self, handle: &str, since: Instant, sandbox: Arc<Sandbox>) {
        let busy = match sandbox.jobs(&Progress::none()).await {
            Ok(jobs) => jobs.iter().any(|job| job.outcome.is_none()),
            Err(error) => matches!(error, SandboxError::Stalled(_)),
        };
        let had_system = sandbox.processes().is_some();
        let mut table = self.table();
        let Some(slot) = table.get_mut(handle) else {
            return;
        };
        slot.checking = false;
        if busy || slot.uses > 0 || slot.since != since {
            return;
        }
        slot.sandbox = None;
        slot.lost = slot.lost.or(had_system.then_some(Lost::System));
        slot.since = Instant::now();
        tracing::info!("stopping a sandbox without calls");
        stop(sandbox);
    }

    /// Removes slots without a sandbox that are expired or too many, the oldest first.
    fn remove_expired(&self) {
        // Dropped after the lock: dropping a slot's store removes its snapshots from the disk.
        let mut expired = Vec::new();
        let mut table = self.table();
        let states = table
            .iter()
            .map(|(handle, slot)| (handle.as_str(), slot.state()));
        let now = Instant::now();
        for handle in policy::expired(states, now, self.limits.kept(), MAX_EMPTY_SLOTS) {
            expired.extend(table.remove(&handle));
        }
        drop(table);
    }

    /// Stops all of them.
    pub(crate) async fn stop(&self) {
        let all: Vec<Slot> = self.table().drain().map(|(_, slot)| slot).collect();
        let sandboxes = all.into_iter().filter_map(|slot| slot.sandbox);
        let stopping = sandboxes.map(|sandbox| async move { sandbox.stop().await });
        futures_util::future::join_all(stopping).await;
    }
}

fn sandboxes(table: &HashMap<String, Slot>) -> usize {
    table.values().filter(|slot| slot.sandbox.is_some()).count()
}

fn stop(sandbox: Arc<Sandbox>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { sandbox.stop().await });
    }
}

/// A sandbox that a call uses. While it exists, the sandbox does not count as idle.
pub(crate) struct Lease {
    pub(crate) sandbox: Arc<Sandbox>,
    handle: String,
    fleet: Option<Arc<Fleet>>,
    /// Whether the client knows the handle, or does not need it.
    handle_known: bool,
    /// Whether the client's session stands for the sandbox.
    session: bool,
}

impl Lease {
    /// A lease of a server's only sandbox.
    pub(crate) fn only(sandbox: Arc<Sandbox>) -> Self {
        Self {
            sandbox,
            handle: String::new(),
            fleet: None,
            handle_known: true,
            session: true,
        }
    }

    /// The same lease, for a client whose session stands for the sandbox.
    pub(crate) fn for_session(mut self) -> Self {
        self.handle_known = true;
        self.session = true;
        self
    }

    pub(crate) fn handle(&self) -> &str {
        &self.handle
    }

    /// The handle that resource addresses must name, for a client without a session.
    pub(crate) fn handle_for_addresses(&self) -> Option<&str> {
        (!self.session && self.fleet.is_some()).then_some(self.handle.as_str())
    }

    /// What was lost before this call, and after which idle time; only the first caller gets it.
    pub(crate) fn take_loss(&self) -> Option<(Lost, Duration)> {
        let fleet = self.fleet.as_ref()?;
        let lost = fleet.table().get_mut(&self.handle)?.lost.take()?;
        Some((lost, fleet.limits.idle))
    }

    /// The handle, if the client does not know it yet.
    pub(crate) fn new_handle(&self) -> Option<&str> {
        (!self.handle_known).then_some(self.handle.as_str())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(fleet) = &self.fleet
            && let Some(slot) = fleet.table().get_mut(&self.handle)
        {
            slot.uses = slot.uses.saturating_sub(1);
            slot.since = Instant::now();
        }
    }
}
