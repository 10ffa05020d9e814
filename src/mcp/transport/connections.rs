//! Bounds the connections over HTTP.
//!
//! A connection is unauthenticated until a request on it has shown the token (or was accepted, where no token is needed).
//! Authenticated connections and others have limits of their own, so others can't displace authenticated ones. A
//! new connection is always accepted: if there are too many unauthenticated ones, the oldest one of the peer with most of
//! them is closed. Of the authenticated ones only a connection without a request in progress is closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use super::peers::Peer;

/// How many files a server asks to open.
const WANTED_FILES: u64 = 8192;

/// How often a connection tries again that waits for the grace period of another one.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Unauthenticated ones.
    pub(super) unauthenticated: usize,
    /// Authenticated ones.
    pub(super) authenticated: usize,
    /// How long a connection has at least to send its first request before it may be closed for another.
    pub(super) grace: Duration,
}

impl ConnectionLimits {
    /// The limits of a process that may open so many files. At least a third is left for sandboxes.
    fn for_files(files: u64) -> Self {
        let share = usize::try_from(files / 3).unwrap_or(usize::MAX);
        Self {
            unauthenticated: share.min(1024),
            authenticated: share.min(512),
            grace: Duration::from_millis(200),
        }
    }

    /// The limits of this process, after it has raised its limit of open files.
    pub(super) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(WANTED_FILES).min(WANTED_FILES);
        let now = limit.current.unwrap_or(WANTED_FILES);
        let raised = Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        let files = match now < most && setrlimit(Resource::Nofile, raised).is_ok() {
            true => most,
            false => now,
        };
        Self::for_files(files)
    }
}

struct Entry {
    peer: Peer,
    authenticated: bool,
    /// How many requests are in progress on it.
    active: usize,
    since: Instant,
    close: CancellationToken,
}

/// The open connections by number, so by age.
#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Entry>,
    /// The unauthenticated ones of each peer.
    by_peer: HashMap<Peer, BTreeSet<u64>>,
    unauthenticated: usize,
    next: u64,
}

impl Table {
    /// A connection no longer counts as unauthenticated.
    fn remove_unauthenticated(&mut self, number: u64, peer: Peer) {
        let Some(numbers) = self.by_peer.get_mut(&peer) else {
            return;
        };
        self.unauthenticated -= usize::from(numbers.remove(&number));
        if numbers.is_empty() {
            self.by_peer.remove(&peer);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        self.remove_unauthenticated(number, entry.peer);
        Some(entry)
    }

    /// Closes a connection to make room.
    fn close(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.close.cancel();
        }
    }

    /// The oldest unauthenticated connection of the peer with most of them.
    fn evicted(&self) -> Option<u64> {
        let oldest = |numbers: &BTreeSet<u64>| numbers.first().copied();
        let peers = self.by_peer.values();
        let most = peers.max_by_key(|numbers| (numbers.len(), Reverse(oldest(numbers))))?;
        oldest(most)
    }
}

/// The open connections.
pub(super) struct Connections {
    limits: ConnectionLimits,
    table: Mutex<Table>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            table: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a new connection, for which another one may be closed.
    pub(super) async fn enter(self: &Arc<Self>, peer: Peer) -> Connection {
        loop {
            if let Some(connection) = self.try_enter(peer) {
                return connection;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    fn try_enter(self: &Arc<Self>, peer: Peer) -> Option<Connection> {
        let mut table = self.table();
        if table.unauthenticated >= self.limits.unauthenticated
            && let Some(evicted) = table.evicted()
        {
            let young = |entry: &Entry| entry.since.elapsed() < self.limits.grace;
            if table.open.get(&evicted).is_some_and(young) {
                return None;
            }
            table.close(evicted);
        }
        let number = table.next;
        table.next += 1;
        let close = CancellationToken::new();
        let entry = Entry {
            peer,
            authenticated: false,
            active: 0,
            since: Instant::now(),
            close: close.clone(),
        };
        table.open.insert(number, entry);
        table.by_peer.entry(peer).or_default().insert(number);
        table.unauthenticated += 1;
        Some(Connection {
            all: self.clone(),
            peer,
            number,
            close,
        })
    }
}

/// One connection. Dropping it removes it.
pub(super) struct Connection {
    all: Arc<Connections>,
    pub(super) peer: Peer,
    number: u64,
    /// Fires when the connection must close to make room for another one.
    pub(super) close: CancellationToken,
}

impl Connection {
    /// Begins an authenticated request. None if there are too many authenticated connections, all with requests in
    /// progress.
    pub(super) fn begin_request(self: &Arc<Self>) -> Option<ActiveRequest> {
        let mut table = self.all.table();
        let authenticated = table.open.len() - table.unauthenticated;
        let is_new = table
            .open
            .get(&self.number)
            .is_some_and(|entry| !entry.authenticated);
        if is_new && authenticated >= self.all.limits.authenticated {
            let mut idle = table
                .open
                .iter()
                .filter(|(_, entry)| entry.authenticated && entry.active == 0);
            let idle = *idle.next()?.0;
            table.close(idle);
        }
        if let Some(entry) = table.open.get_mut(&self.number) {
            entry.authenticated = true;
            entry.active += 1;
            table.remove_unauthenticated(self.number, self.peer);
        }
        Some(ActiveRequest(self.clone()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.table().remove(self.number);
    }
}

/// An authenticated request in progress.
pub(super) struct ActiveRequest(Arc<Connection>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if let Some(entry) = self.0.all.table().open.get_mut(&self.0.number) {
            entry.active = entry.active.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn host(last: u8) -> Peer {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn the_oldest_connection_of_the_peer_with_most_is_closed() {
        let all = Connections::new(ConnectionLimits {
            unauthenticated: 3,
            authenticated: 1,
            grace: Duration::ZERO,
        });
        let alone = all.try_enter(host(1)).unwrap();
        let first = all.try_enter(host(2)).unwrap();
        let second = all.try_enter(host(2)).unwrap();
        let third = all.try_enter(host(3)).unwrap();
        assert!(first.close.is_cancelled());
        for stays in [&alone, &second, &third] {
            assert!(!stays.close.is_cancelled());
        }
        drop(second);
        let _fourth = all.try_enter(host(3)).unwrap();
        assert!(!third.close.is_cancelled(), "there was room");
    }

    #[test]
    fn authenticated_connections_with_active_requests_stay() {
        let all = Connections::new(ConnectionLimits {
            unauthenticated: 1,
            authenticated: 2,
            grace: Duration::ZERO,
        });
        let enter = || Arc::new(all.try_enter(host(1)).unwrap());
        let first = enter();
        let active = first.begin_request().unwrap();
        let second = enter();
        drop(second.begin_request().unwrap());
        assert!(!first.close.is_cancelled() && !second.close.is_cancelled());
        let third = enter();
        let also_active = third.begin_request().unwrap();
        assert!(second.close.is_cancelled() && !first.close.is_cancelled());
        let fourth = enter();
        assert!(fourth.begin_request().is_none(), "all have active requests");
        assert!(
            first.begin_request().is_some(),
            "an authenticated connection takes any number"
        );
        drop((active, also_active));
        assert!(fourth.begin_request().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_a_grace_period() {
        let all = Connections::new(ConnectionLimits {
            unauthenticated: 1,
            authenticated: 1,
            grace: Duration::from_secs(3600),
        });
        let first = Arc::new(all.enter(host(1)).await);
        assert!(all.try_enter(host(2)).is_none() && !first.close.is_cancelled());
        drop(first.begin_request());
        assert!(
            all.try_enter(host(2)).is_some(),
            "the first one is authenticated now"
        );
    }

    #[test]
    fn the_limits_leave_files_for_sandboxes() {
        for files in [0, 1, 256, 1024, WANTED_FILES, u64::MAX] {
            let limits = ConnectionLimits::for_files(files);
            assert!((limits.unauthenticated + limits.authenticated) as u64 <= files / 3 * 2);
        }
        assert_eq!(
            ConnectionLimits::for_files(WANTED_FILES).unauthenticated,
            1024
        );
        let limits = ConnectionLimits::of_process();
        assert!(limits.unauthenticated > 0 && limits.authenticated > 0);
    }

    proptest! {
        #[test]
        fn unauthenticated_connections_never_close_authenticated_ones(steps in prop::collection::vec((0u8..4, any::<bool>()), 1..60)) {
            let limits = ConnectionLimits { unauthenticated: 4, authenticated: 60, grace: Duration::ZERO };
            let all = Connections::new(limits);
            let mut authenticated = Vec::new();
            let mut others = Vec::new();
            for (peer, passes) in steps {
                let connection = Arc::new(all.try_enter(host(peer)).unwrap());
                prop_assert!(!connection.close.is_cancelled(), "a new connection is always accepted");
                if passes {
                    drop(connection.begin_request());
                    authenticated.push(connection);
                } else {
                    others.push(connection);
                }
                let open = others.iter().filter(|other| !other.close.is_cancelled()).count();
                prop_assert!(open <= limits.unauthenticated);
                prop_assert!(authenticated.iter().all(|one| !one.close.is_cancelled()));
            }
        }
    }
}
