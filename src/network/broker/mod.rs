//! The broker: answers what the guest asks of the network, on the host.
//!
//! The guest asks for names and for connections; it may lie. Each connection goes through these states:
//!
//! 1. asked: the rules, the counts and the pace are checked;
//! 2. resolved: by `network.hosts` or the host's resolver, and each address is checked;
//! 3. connected: to an address that was checked, or through the host's proxy;
//! 4. open: bytes are copied both ways, the guest's first ones once they [name](gate) the host that was allowed;
//! 5. closed: by both ends, by a reset that is passed on, or at once when the rules no longer allow it.
//!
//! Refusals are told to the guest at once, counted, kept for a while, and logged. Nothing here waits without a deadline
//! but an open connection, and nothing is queued but what the bounds allow.

mod answer;
mod connect;
mod copy;
mod counts;
mod gate;
mod hello;
mod inspect;
mod refusals;
mod report;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod wrong;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use snowglobe_init::streams::Incoming;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::audit::Audit;
use super::hosts::Hosts;
use super::outside::{Outside, ThisMachine};
use super::proxy::Proxies;
use super::rules::Rules;
use crate::recent::Recent;
use counts::Totals;

pub use counts::{Connection, Counts};
pub use inspect::{Inspect, Inspected};
pub use refusals::{Refusals, Refused};
pub use report::Report;

/// How many names the host's resolver looks up at once: each takes a thread.
const LOOKUPS: usize = 32;

/// What a sandbox may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Requests and connections at once. Further ones are refused.
    pub open: usize,
    /// Requests and connections that are being made at once. Further ones wait.
    pub pending: usize,
    /// New requests per second in the long run. Further ones wait.
    pub rate: NonZeroU32,
    /// New requests at once.
    pub burst: NonZeroU32,
    /// Bytes in its life, both ways together; none for any number.
    pub bytes: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        const RATE: NonZeroU32 = NonZeroU32::new(1000).expect("it is not 0");
        const BURST: NonZeroU32 = NonZeroU32::new(2000).expect("it is not 0");
        Self {
            open: 1024,
            pending: 128,
            rate: RATE,
            burst: BURST,
            bytes: None,
        }
    }
}

/// How long the broker waits.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the host's resolver.
    pub resolve: Duration,
    /// Until a connection is made, with resolving and the proxy's part.
    pub connect: Duration,
    /// For the rest of the guest's first bytes, once there are some.
    pub first: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            resolve: seconds(8),
            connect: seconds(10),
            first: seconds(10),
        }
    }
}

/// What a broker is made of.
pub struct Settings {
    /// Names of the user's own.
    pub hosts: Hosts,
    /// The host's proxies.
    pub proxies: Option<Proxies>,
    /// What the sandbox may use.
    pub bounds: Bounds,
    /// How long to wait.
    pub deadlines: Deadlines,
    /// Where everything is logged.
    pub audit: Option<Arc<Audit>>,
    /// What looks at requests. Without it, connections whose requests must be looked at are refused.
    pub inspect: Option<Box<dyn Inspect>>,
    /// The host's network.
    pub outside: Box<dyn Outside>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            proxies: None,
            bounds: Bounds::default(),
            deadlines: Deadlines::default(),
            audit: None,
            inspect: None,
            outside: Box::<ThisMachine>::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// The broker of a sandbox. It outlives connections of the guest, and their streams.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    rules: watch::Sender<Arc<Rules>>,
    open: Semaphore,
    pending: Semaphore,
    /// Lookups that have not ended, also those that are given up.
    lookups: Arc<Semaphore>,
    pace: DefaultDirectRateLimiter,
    totals: Arc<Totals>,
    kept: Mutex<Recent<Refused>>,
}

impl Broker {
    /// A broker with these rules.
    pub fn new(settings: Settings, rules: Arc<Rules>) -> Self {
        let bounds = settings.bounds;
        Self {
            rules: watch::Sender::new(rules),
            open: Semaphore::new(bounds.open),
            pending: Semaphore::new(bounds.pending),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            pace: RateLimiter::direct(Quota::per_second(bounds.rate).allow_burst(bounds.burst)),
            totals: Arc::new(Totals::new(bounds.bytes)),
            kept: Mutex::default(),
            settings,
        }
    }

    /// Answers what the guest asks on one connection of streams, until that ends. Dropping it ends all streams.
    pub async fn serve(self: Arc<Self>, mut asked: mpsc::UnboundedReceiver<Incoming>) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                next = asked.recv() => match next {
                    Some(incoming) => drop(tasks.spawn(self.clone().answer(incoming))),
                    None => break,
                },
                Some(ended) = tasks.join_next() => log_panic(ended),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            log_panic(ended);
        }
    }

    /// Replaces the rules. Connections that they no longer allow are closed at once.
    pub fn set_rules(&self, rules: Arc<Rules>) {
        self.rules.send_replace(rules);
    }

    /// The rules as they are now and as they will be.
    pub fn watch_rules(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.subscribe()
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.borrow().clone()
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.totals.get()
    }

    /// The point of time from which on [`Self::refusals_since`] tells of refusals.
    pub fn refusals_cursor(&self) -> u64 {
        self.kept().cursor()
    }

    /// The refusals since a cursor; of many only the newest.
    pub fn refusals_since(&self, cursor: u64) -> Refusals {
        self.kept().since(cursor)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Recent<Refused>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the pace allows one more request.
    async fn paced(&self) {
        while let Err(early) = self.pace.check() {
            tokio::time::sleep(early.wait_time_from(self.pace.clock().now())).await;
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection of the guest ended badly");
    }
}
