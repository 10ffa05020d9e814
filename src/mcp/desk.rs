//! Which sandbox a call acts on.
//!
//! One client, one sandbox: over stdio the server's only one. Over HTTP every session has its own, made at its first
//! call and stopped with the session; a client without sessions names one by an unguessable handle, and a call that
//! names none gets a new one and is told its handle. Their number is bounded; who is idle is stopped. A sandbox
//! that was stopped is never replaced unseen: the next call is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::call::Refusal;
use super::text;
use crate::config::Config;
use crate::progress::Progress;
use crate::sandbox::Sandbox;

/// The name of the argument that carries a handle.
pub(super) const HANDLE: &str = "sandbox";

/// How many sandboxes there may be, and for how long without a call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many at once.
    pub sandboxes: usize,
    /// How long one without calls and running jobs is kept.
    pub idle: Duration,
}

struct Entry {
    sandbox: Arc<Sandbox>,
    uses: usize,
    since: Instant,
}

/// The sandboxes of every client of one server.
pub(super) struct Pool {
    config: Config,
    limits: Limits,
    table: Mutex<HashMap<String, Entry>>,
}

impl Pool {
    /// An empty one, which looks after idle sandboxes until `closing` fires.
    pub(super) fn new(config: Config, limits: Limits, closing: CancellationToken) -> Arc<Self> {
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
                    () = tokio::time::sleep(every) => of_task.stop_idle().await,
                    () = closing.cancelled() => break,
                }
            }
        });
        pool
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.table().len()
    }

    fn open(self: &Arc<Self>) -> Result<Lease, Refusal> {
        let mut table = self.table();
        if table.len() >= self.limits.sandboxes {
            return Err(Refusal::new(format!(
                "failed to make a sandbox: this server runs {} at most, and all are in use; use one of yours \
                 (argument `{HANDLE}`), end a session, or wait: one without calls is stopped after {}",
                self.limits.sandboxes,
                text::duration(self.limits.idle)
            )));
        }
        let sandbox = Sandbox::new(self.config.clone())?;
        let handle = format!("sb-{:032x}", rand::random::<u128>());
        let entry = Entry {
            sandbox: sandbox.clone(),
            uses: 1,
            since: Instant::now(),
        };
        table.insert(handle.clone(), entry);
        Ok(Lease {
            sandbox,
            handle,
            pool: Some(self.clone()),
            told: false,
            session: false,
        })
    }

    /// The sandbox of that handle; looking at it does not keep it.
    fn seen(&self, handle: &str) -> Option<Arc<Sandbox>> {
        let table = self.table();
        table.get(handle).map(|entry| entry.sandbox.clone())
    }

    fn find(self: &Arc<Self>, handle: &str) -> Result<Lease, Refusal> {
        let mut table = self.table();
        let Some(entry) = table.get_mut(handle) else {
            return Err(Refusal::new(format!(
                "failed to find the sandbox {handle:?}: there is none of that name; it may have been stopped (one \
                 without calls is, after {}). Leave `{HANDLE}` out to get a new one: /workspace is as it was, \
                 everything else is as the image has it",
                text::duration(self.limits.idle)
            )));
        };
        entry.uses += 1;
        Ok(Lease {
            sandbox: entry.sandbox.clone(),
            handle: handle.to_owned(),
            pool: Some(self.clone()),
            told: true,
            session: false,
        })
    }

    fn close(&self, handle: &str) {
        if let Some(entry) = self.table().remove(handle)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { entry.sandbox.stop().await });
        }
    }

    async fn stop_idle(&self) {
        let idle = |entry: &Entry| entry.uses == 0 && entry.since.elapsed() >= self.limits.idle;
        let candidates: Vec<(String, Arc<Sandbox>)> = self
            .table()
            .iter()
            .filter(|(_, entry)| idle(entry))
            .map(|(handle, entry)| (handle.clone(), entry.sandbox.clone()))
            .collect();
        for (handle, sandbox) in candidates {
            // Somebody's server or build is at work in it.
            let jobs = sandbox.jobs(&Progress::none()).await.unwrap_or_default();
            if jobs.iter().any(|job| job.outcome.is_none()) {
                continue;
            }
            let still = self.table().get(&handle).is_some_and(idle);
            if still {
                tracing::info!("stopping a sandbox without calls");
                self.close(&handle);
            }
        }
    }

    /// Stops all of them.
    pub(super) async fn stop(&self) {
        let all: Vec<Entry> = self.table().drain().map(|(_, entry)| entry).collect();
        for entry in all {
            entry.sandbox.stop().await;
        }
    }
}

/// A sandbox in use by a call.
pub(super) struct Lease {
    pub(super) sandbox: Arc<Sandbox>,
    handle: String,
    pool: Option<Arc<Pool>>,
    told: bool,
    session: bool,
}

impl Lease {
    /// The handle that addresses must name: the client has no session that stands for it.
    pub(super) fn address(&self) -> Option<&str> {
        (!self.session && self.pool.is_some()).then_some(self.handle.as_str())
    }

    /// The handle that the client does not know yet.
    pub(super) fn news(&self) -> Option<&str> {
        (!self.told).then_some(self.handle.as_str())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && let Some(entry) = pool.table().get_mut(&self.handle)
        {
            entry.uses = entry.uses.saturating_sub(1);
            entry.since = Instant::now();
        }
    }
}

/// Where a server's calls find their sandbox.
pub(super) enum Desk {
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
    pub(super) fn many(pool: Arc<Pool>) -> Self {
        Self::Many {
            pool,
            own: Mutex::default(),
        }
    }

    /// Whether calls may name a sandbox.
    pub(super) fn has_many(&self) -> bool {
        matches!(self, Self::Many { .. })
    }

    /// The configuration that every sandbox is made with.
    pub(super) fn config(&self) -> &Config {
        match self {
            Self::One(sandbox) => sandbox.config(),
            Self::Many { pool, .. } => &pool.config,
        }
    }

    /// The sandbox of that handle, or the client's own, if there is one: none is made, and none is kept by it.
    pub(super) fn seen(&self, named: Option<&str>) -> Option<Arc<Sandbox>> {
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
    pub(super) fn lease(&self, named: Option<&str>, session: bool) -> Result<Lease, Refusal> {
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
            return pool.find(handle);
        }
        if !session {
            return pool.open();
        }
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = own.as_deref() {
            let found = pool.find(handle).map(|mut lease| {
                lease.session = true;
                lease
            });
            return found.map_err(|_| {
                *own = None;
                Refusal::new(format!(
                    "failed to use the session's sandbox: it was stopped after {} without a call. The next call \
                     boots a fresh one: /workspace is as it was, everything else is as the image has it",
                    text::duration(pool.limits.idle)
                ))
            });
        }
        let mut lease = pool.open()?;
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
