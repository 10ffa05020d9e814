//! Which sandbox a call acts on.
//!
//! One client, one sandbox: over stdio the server's only one. Over HTTP every session has its own, made at its first
//! call and gone with the session; a client without sessions names one by an unguessable handle, and a call that
//! names none gets a new one and is told its handle.
//!
//! A place, which a handle stands for, is in one of two states: it has a sandbox, or it had one that was stopped for
//! nobody used it. Sandboxes are bounded, and so are the places without one, which are kept for long: the next call
//! makes a new sandbox there, and is told what is gone, since a sandbox that was stopped is never replaced unseen.
//!
//! Snapshots belong to their place, too: no client sees those of another, and they go when the place is given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::disk::{Store, StoreError};
use crate::mcp::call::Refusal;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxError};
use crate::text;
use crate::workspace::Workspace;

/// The name of the argument that carries a handle.
pub(crate) const HANDLE: &str = "sandbox";

/// For how long a session or a handle is kept at least that nobody uses.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// How many places without a sandbox are kept.
const MOST_EMPTY: usize = 1024;

/// How many sandboxes there may be, and for how long without a call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many at once.
    pub sandboxes: usize,
    /// How long one without calls and running jobs is kept.
    pub idle: Duration,
}

impl Limits {
    /// For how long a session or a handle is kept that nobody uses.
    pub(crate) fn kept(&self) -> Duration {
        self.idle.max(KEPT)
    }
}

/// What was lost at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// The system.
    System,
    /// Snapshots, too.
    All,
}

struct Place {
    sandbox: Option<Arc<Sandbox>>,
    /// What its sandboxes keep, one after the other.
    store: Store,
    /// What no call was told of yet.
    lost: Option<Lost>,
    uses: usize,
    since: Instant,
    /// Whether its guest is being asked whether somebody is at work in it.
    asked: bool,
}

impl Place {
    fn is_idle(&self, since: Instant) -> bool {
        self.uses == 0 && self.since == since
    }
}

/// The sandboxes of every client of one server.
pub(crate) struct Pool {
    config: Config,
    limits: Limits,
    table: Mutex<HashMap<String, Place>>,
}

impl Pool {
    /// An empty one, which looks after idle sandboxes until `closing` fires.
    pub(crate) fn new(config: Config, limits: Limits, closing: CancellationToken) -> Arc<Self> {
        Store::sweep_sessions(&config.host.dirs.data);
        let pool = Arc::new(Self {
            config,
            limits,
            table: Mutex::default(),
        });
        let of_task = pool.clone();
        tokio::spawn(async move {
            let every =
                (limits.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30));
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {
                        of_task.stop_idle();
                        of_task.forget();
                    }
                    () = closing.cancelled() => break,
                }
            }
        });
        pool
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sandboxes there are.
    pub(crate) fn count(&self) -> usize {
        sandboxes(&self.table())
    }

    /// A new sandbox that keeps things in `store`, if there is room for one beside those of `table`.
    fn make(
        &self,
        table: &HashMap<String, Place>,
        store: impl FnOnce() -> Result<Store, StoreError>,
    ) -> Result<(Arc<Sandbox>, Store), Refusal> {
        if sandboxes(table) >= self.limits.sandboxes {
            return Err(Refusal::new(format!(
                "failed to make a sandbox: this server runs {} at most, and all are in use; use one of yours \
                 (argument `{HANDLE}`), end a session, or wait: one without calls is stopped after {}",
                self.limits.sandboxes,
                text::duration(self.limits.idle)
            )));
        }
        let store = store().map_err(SandboxError::from)?;
        let sandbox = Sandbox::of_session(&self.config, store.clone())?;
        Ok((sandbox, store))
    }

    /// A sandbox at a new place; `lost`: what is gone with an earlier one.
    fn open(self: &Arc<Self>, lost: Option<Lost>) -> Result<Lease, Refusal> {
        let mut table = self.table();
        let config = &self.config;
        let new = || {
            Store::of_session(
                &config.host.dirs.data,
                &config.sandbox.name,
                config.sandbox.snapshot.as_ref(),
            )
        };
        let (sandbox, store) = self.make(&table, new)?;
        let handle = format!("sb-{:032x}", rand::random::<u128>());
        let place = Place {
            sandbox: Some(sandbox.clone()),
            store,
            lost,
            uses: 1,
            since: Instant::now(),
            asked: false,
        };
        table.insert(handle.clone(), place);
        Ok(Lease {
            sandbox,
            handle,
            pool: Some(self.clone()),
            told: false,
            session: false,
        })
    }

    /// The sandbox of that handle; looking at it neither keeps nor makes one.
    fn seen(&self, handle: &str) -> Option<Arc<Sandbox>> {
        self.table().get(handle)?.sandbox.clone()
    }

    /// The sandbox of that handle, a new one where it was stopped; none where the handle stands for no place.
    fn find(self: &Arc<Self>, handle: &str) -> Option<Result<Lease, Refusal>> {
        let mut table = self.table();
        let place = table.get(handle)?;
        let made = match &place.sandbox {
            Some(sandbox) => Ok(sandbox.clone()),
            None => {
                let store = place.store.clone();
                self.make(&table, || Ok(store)).map(|(sandbox, _)| sandbox)
            }
        };
        let sandbox = match made {
            Ok(sandbox) => sandbox,
            Err(refusal) => return Some(Err(refusal)),
        };
        let place = table.get_mut(handle)?;
        place.sandbox = Some(sandbox.clone());
        place.uses += 1;
        Some(Ok(Lease {
            sandbox,
            handle: handle.to_owned(),
            pool: Some(self.clone()),
            told: true,
            session: false,
        }))
    }

    fn unknown(&self, handle: &str) -> Refusal {
        Refusal::new(format!(
            "failed to find the sandbox {handle:?}: there is none of that name; one that nobody uses is forgotten \
             after {} h. Leave `{HANDLE}` out to get a new one",
            self.limits.kept().as_secs() / 3600
        ))
    }

    /// What a call is told that finds a new system where another one was.
    fn loss(&self, lost: Lost) -> String {
        let system = match &self.config.sandbox.snapshot {
            Some(name) => format!("the snapshot `{name}`"),
            None => format!("the image `{}`", self.config.sandbox.image),
        };
        let gone = match self.config.sandbox.workspace {
            Workspace::Mount(_) => "outside /workspace",
            Workspace::None => "in it, /workspace included",
        };
        let snapshots = match lost {
            Lost::System => "saved snapshots are as before",
            Lost::All => "so are saved snapshots",
        };
        format!(
            "the sandbox was stopped after {} without a call or a running job, and this is a new one: its system is \
             as {system} has it; what was installed or changed {gone}, and jobs with their output, are gone; {snapshots}",
            text::duration(self.limits.idle)
        )
    }

    fn close(&self, handle: &str) {
        let place = self.table().remove(handle);
        if let Some(sandbox) = place.and_then(|place| place.sandbox) {
            stop(sandbox);
        }
    }

    /// Looks after each idle sandbox on its own: one whose guest does not answer holds up no other.
    fn stop_idle(self: &Arc<Self>) {
        for (handle, place) in &mut *self.table() {
            let idle = place.uses == 0 && !place.asked && place.since.elapsed() >= self.limits.idle;
            if let Some(sandbox) = place.sandbox.clone().filter(|_| idle) {
                place.asked = true;
                let (pool, handle, since) = (self.clone(), handle.clone(), place.since);
                tokio::spawn(async move { pool.stop_if_idle(&handle, since, sandbox).await });
            }
        }
    }

    /// Stops a sandbox in which nobody is at work. A guest that does not answer is at work for nobody; one that stands
    /// still for want of room will go on.
    async fn stop_if_idle(&self, handle: &str, since: Instant, sandbox: Arc<Sandbox>) {
        let busy = match sandbox.jobs(&Progress::none()).await {
            Ok(jobs) => jobs.iter().any(|job| job.outcome.is_none()),
            Err(error) => matches!(error, SandboxError::Stalled(_)),
        };
        let had_system = sandbox.processes().is_some();
        let mut table = self.table();
        let Some(place) = table.get_mut(handle) else {
            return;
        };
        place.asked = false;
        if busy || !place.is_idle(since) {
            return;
        }
        place.sandbox = None;
        place.lost = place.lost.or(had_system.then_some(Lost::System));
        place.since = Instant::now();
        tracing::info!("stopping a sandbox without calls");
        stop(sandbox);
    }

    /// Gives up places without a sandbox: those that nobody asked for in a long time, and those that are too many.
    fn forget(&self) {
        // Their snapshots are removed after the table is free again.
        let mut forgotten = Vec::new();
        let mut table = self.table();
        let mut empty: Vec<(Instant, String)> = table
            .iter()
            .filter(|(_, place)| place.sandbox.is_none() && place.uses == 0)
            .map(|(handle, place)| (place.since, handle.clone()))
            .collect();
        empty.sort();
        let surplus = empty.len().saturating_sub(MOST_EMPTY);
        for (at, (since, handle)) in empty.into_iter().enumerate() {
            if at < surplus || since.elapsed() >= self.limits.kept() {
                forgotten.extend(table.remove(&handle));
            }
        }
        drop(table);
    }

    /// Stops all of them.
    pub(crate) async fn stop(&self) {
        let all: Vec<Place> = self.table().drain().map(|(_, place)| place).collect();
        let sandboxes = all.into_iter().filter_map(|place| place.sandbox);
        let stopping = sandboxes.map(|sandbox| async move { sandbox.stop().await });
        futures_util::future::join_all(stopping).await;
    }
}

fn sandboxes(table: &HashMap<String, Place>) -> usize {
    table
        .values()
        .filter(|place| place.sandbox.is_some())
        .count()
}

fn stop(sandbox: Arc<Sandbox>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { sandbox.stop().await });
    }
}

/// A sandbox in use by a call.
pub(crate) struct Lease {
    pub(crate) sandbox: Arc<Sandbox>,
    handle: String,
    pool: Option<Arc<Pool>>,
    told: bool,
    session: bool,
}

impl Lease {
    /// The handle that addresses must name: the client has no session that stands for it.
    pub(crate) fn address(&self) -> Option<&str> {
        (!self.session && self.pool.is_some()).then_some(self.handle.as_str())
    }

    /// What was lost before this call, which the client is told once: now.
    pub(crate) fn loss(&self) -> Option<String> {
        let pool = self.pool.as_ref()?;
        let lost = pool.table().get_mut(&self.handle)?.lost.take();
        lost.map(|lost| pool.loss(lost))
    }

    /// The handle that the client does not know yet.
    pub(crate) fn news(&self) -> Option<&str> {
        (!self.told).then_some(self.handle.as_str())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && let Some(place) = pool.table().get_mut(&self.handle)
        {
            place.uses = place.uses.saturating_sub(1);
            place.since = Instant::now();
        }
    }
}

/// Where a server's calls find their sandbox.
pub(crate) enum Desk {
    /// The only one.
    One(Arc<Sandbox>),
    /// One of many; the session's own once it has one.
    Many {
        pool: Arc<Pool>,
        own: Mutex<Option<String>>,
    },
}

impl Desk {
    /// Of a client that comes over HTTP.
    pub(crate) fn many(pool: Arc<Pool>) -> Self {
        Self::Many {
            pool,
            own: Mutex::default(),
        }
    }

    /// Whether calls may name a sandbox.
    pub(crate) fn has_many(&self) -> bool {
        matches!(self, Self::Many { .. })
    }

    /// The configuration that every sandbox is made with.
    pub(crate) fn config(&self) -> &Config {
        match self {
            Self::One(sandbox) => sandbox.config(),
            Self::Many { pool, .. } => &pool.config,
        }
    }

    /// The sandbox of that handle, or the client's own, if there is one: none is made, and none is kept by it.
    pub(crate) fn seen(&self, named: Option<&str>) -> Option<Arc<Sandbox>> {
        match (self, named) {
            (Self::One(sandbox), _) => Some(sandbox.clone()),
            (Self::Many { pool, .. }, Some(handle)) => pool.seen(handle),
            (Self::Many { pool, own }, None) => {
                let own = own.lock().unwrap_or_else(PoisonError::into_inner);
                pool.seen(own.as_deref()?)
            }
        }
    }

    /// The sandbox of a call that names one, or none. `session`: whether the client has a session.
    pub(crate) fn lease(&self, named: Option<&str>, session: bool) -> Result<Lease, Refusal> {
        let (pool, own) = match self {
            Self::One(sandbox) => {
                return Ok(Lease {
                    sandbox: sandbox.clone(),
                    handle: String::new(),
                    pool: None,
                    told: true,
                    session: true,
                });
            }
            Self::Many { pool, own } => (pool, own),
        };
        if let Some(handle) = named {
            let found = pool.find(handle);
            return found.unwrap_or_else(|| Err(pool.unknown(handle)));
        }
        if !session {
            return pool.open(None);
        }
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lease = match own.as_deref().map(|handle| pool.find(handle)) {
            Some(Some(found)) => found?,
            // Its place was given up meanwhile.
            Some(None) => pool.open(Some(Lost::All))?,
            None => pool.open(None)?,
        };
        lease.told = true;
        lease.session = true;
        *own = Some(lease.handle.clone());
        Ok(lease)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Self::Many { pool, own } = self
            && let Some(handle) = own.get_mut().unwrap_or_else(PoisonError::into_inner)
        {
            pool.close(handle);
        }
    }
}
