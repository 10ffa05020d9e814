//! Connections over HTTP, and who may have how many.
//!
//! A connection is a stranger's until a request on it has shown the token (or passed, where none is asked for); from
//! then on it is known. Strangers can't take room from the known: each kind has a bound of its own, and whoever has
//! no token is served from a budget of requests of its peer. A new stranger always gets in: of the peer that has
//! most of them the oldest one goes. Of the known ones only those go that ask for nothing just now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

/// How many requests a second one peer may make without the token, in the long run.
const STRANGERS_RATE: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");

/// How many it may make at once.
const STRANGERS_BURST: NonZeroU32 = NonZeroU32::new(100).expect("it is not 0");

/// Among how many budgets peers are spread. Two that share one only share its bound.
const BUDGETS: usize = 1024;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// A host; of the newer addresses the network, since one host has as many as it likes.
    Host(IpAddr),
    /// A user of this machine, at a unix socket.
    User(u32),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Host(Ipv6Addr::from(network).into())
            }
            address => Self::Host(address),
        }
    }
}

/// The budgets of peers that show no token: as many as there are, whatever peers there are.
pub(crate) struct Budgets {
    of: Vec<DefaultDirectRateLimiter>,
    hasher: RandomState,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(STRANGERS_RATE, STRANGERS_BURST)
    }
}

impl Budgets {
    pub(crate) fn new(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            of: (0..BUDGETS).map(|_| RateLimiter::direct(quota)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a request out of a peer's budget; false where nothing is left.
    pub(crate) fn spend(&self, peer: Option<Peer>) -> bool {
        let place = self.hasher.hash_one(peer) as usize % self.of.len();
        self.of[place].check().is_ok()
    }
}

/// How many files a server may open, where the system lets it.
const FILES: u64 = 8192;

/// How long to wait until a stranger has had its time.
const SOON: Duration = Duration::from_millis(2);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Those that have not shown the token.
    pub(crate) strangers: usize,
    /// Those that have.
    pub(crate) known: usize,
    /// How long a stranger has at least to send its first request.
    pub(crate) grace: Duration,
}

impl Bounds {
    /// What a process may have that may open so many files, most of which are left for sandboxes.
    fn of(files: u64) -> Self {
        let share = usize::try_from(files / 3).unwrap_or(usize::MAX);
        Self {
            strangers: share.min(1024),
            known: share.min(512),
            grace: Duration::from_millis(200),
        }
    }

    /// What this process may have, after it has asked the system for as much as it needs.
    pub(crate) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(FILES).min(FILES);
        let now = limit.current.unwrap_or(FILES);
        let raised = Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        let files = match now < most && setrlimit(Resource::Nofile, raised).is_ok() {
            true => most,
            false => now,
        };
        Self::of(files)
    }
}

struct Entry {
    peer: Peer,
    known: bool,
    /// How many requests are under way on it.
    busy: usize,
    since: Instant,
    close: CancellationToken,
}

/// The connections there are, by age.
#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Entry>,
    /// The strangers' of each peer.
    crowds: HashMap<Peer, BTreeSet<u64>>,
    strangers: usize,
    next: u64,
}

impl Table {
    /// It is a stranger's no more.
    fn leave_crowd(&mut self, number: u64, peer: Peer) {
        let Some(crowd) = self.crowds.get_mut(&peer) else {
            return;
        };
        self.strangers -= usize::from(crowd.remove(&number));
        if crowd.is_empty() {
            self.crowds.remove(&peer);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        self.leave_crowd(number, entry.peer);
        Some(entry)
    }

    /// Closes a connection to make room.
    fn close(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.close.cancel();
        }
    }

    /// Of the peer that has most strangers' connections the oldest one.
    fn surplus(&self) -> Option<u64> {
        let first = |crowd: &BTreeSet<u64>| crowd.first().copied();
        let crowds = self.crowds.values();
        let largest = crowds.max_by_key(|crowd| (crowd.len(), Reverse(first(crowd))))?;
        first(largest)
    }
}

/// The connections there are.
pub(crate) struct Connections {
    bounds: Bounds,
    table: Mutex<Table>,
}

impl Connections {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            table: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection begins, a stranger's; another one may have to go for it.
    pub(crate) async fn enter(self: &Arc<Self>, peer: Peer) -> Connection {
        loop {
            if let Some(connection) = self.try_enter(peer) {
                return connection;
            }
            tokio::time::sleep(SOON).await;
        }
    }

    fn try_enter(self: &Arc<Self>, peer: Peer) -> Option<Connection> {
        let mut table = self.table();
        if table.strangers >= self.bounds.strangers
            && let Some(surplus) = table.surplus()
        {
            let young = |entry: &Entry| entry.since.elapsed() < self.bounds.grace;
            if table.open.get(&surplus).is_some_and(young) {
                return None;
            }
            table.close(surplus);
        }
        let number = table.next;
        table.next += 1;
        let close = CancellationToken::new();
        let entry = Entry {
            peer,
            known: false,
            busy: 0,
            since: Instant::now(),
            close: close.clone(),
        };
        table.open.insert(number, entry);
        table.crowds.entry(peer).or_default().insert(number);
        table.strangers += 1;
        Some(Connection {
            all: self.clone(),
            peer,
            number,
            close,
        })
    }
}

/// One connection; gone when it is dropped.
pub(crate) struct Connection {
    all: Arc<Connections>,
    pub(crate) peer: Peer,
    number: u64,
    /// Fires when it has to make room.
    pub(crate) close: CancellationToken,
}

impl Connection {
    /// A request on it has passed. None where there are too many known ones, all of them at work.
    pub(crate) fn passed(self: &Arc<Self>) -> Option<Busy> {
        let mut table = self.all.table();
        let known = table.open.len() - table.strangers;
        let is_new = table
            .open
            .get(&self.number)
            .is_some_and(|entry| !entry.known);
        if is_new && known >= self.all.bounds.known {
            let mut idle = table
                .open
                .iter()
                .filter(|(_, entry)| entry.known && entry.busy == 0);
            let idle = *idle.next()?.0;
            table.close(idle);
        }
        if let Some(entry) = table.open.get_mut(&self.number) {
            entry.known = true;
            entry.busy += 1;
            table.leave_crowd(self.number, self.peer);
        }
        Some(Busy(self.clone()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.table().remove(self.number);
    }
}

/// A request under way.
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(entry) = self.0.all.table().open.get_mut(&self.0.number) {
            entry.busy = entry.busy.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(last: u8) -> Peer {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn a_stranger_of_the_largest_crowd_makes_room() {
        let all = Connections::new(Bounds {
            strangers: 3,
            known: 1,
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
    fn known_ones_go_only_while_they_ask_for_nothing() {
        let all = Connections::new(Bounds {
            strangers: 1,
            known: 2,
            grace: Duration::ZERO,
        });
        let enter = || Arc::new(all.try_enter(host(1)).unwrap());
        let first = enter();
        let busy = first.passed().unwrap();
        let second = enter();
        drop(second.passed().unwrap());
        assert!(!first.close.is_cancelled() && !second.close.is_cancelled());
        let third = enter();
        let also_busy = third.passed().unwrap();
        assert!(second.close.is_cancelled() && !first.close.is_cancelled());
        let fourth = enter();
        assert!(fourth.passed().is_none(), "all are at work");
        assert!(
            first.passed().is_some(),
            "on a known one as many as it likes"
        );
        drop((busy, also_busy));
        assert!(fourth.passed().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_has_some_time_before_it_makes_room() {
        let all = Connections::new(Bounds {
            strangers: 1,
            known: 1,
            grace: Duration::from_secs(3600),
        });
        let first = Arc::new(all.enter(host(1)).await);
        assert!(all.try_enter(host(2)).is_none() && !first.close.is_cancelled());
        drop(first.passed());
        assert!(
            all.try_enter(host(2)).is_some(),
            "it is no stranger any more"
        );
    }

    #[test]
    fn what_there_may_be_leaves_files_for_the_rest() {
        for files in [0, 1, 256, 1024, FILES, u64::MAX] {
            let bounds = Bounds::of(files);
            assert!((bounds.strangers + bounds.known) as u64 <= files / 3 * 2);
        }
        assert_eq!(Bounds::of(FILES).strangers, 1024);
        let bounds = Bounds::of_process();
        assert!(bounds.strangers > 0 && bounds.known > 0);
    }

    #[test]
    fn a_host_is_one_peer_whatever_address_of_its_network_it_uses() {
        let of = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn one_peers_budget_is_not_anothers() {
        let budgets = Budgets::new(NonZeroU32::MIN, NonZeroU32::new(3).unwrap());
        let spent = |peer| (0..100).filter(|_| budgets.spend(Some(peer))).count();
        assert_eq!(spent(host(1)), 3);
        // Of a few others not all have the same of a thousand budgets.
        assert!((2..12).any(|last| spent(host(last)) == 3));
    }

    proptest! {
        #[test]
        fn strangers_never_touch_the_known(steps in prop::collection::vec((0u8..4, any::<bool>()), 1..60)) {
            let bounds = Bounds { strangers: 4, known: 60, grace: Duration::ZERO };
            let all = Connections::new(bounds);
            let mut known = Vec::new();
            let mut strangers = Vec::new();
            for (peer, passes) in steps {
                let connection = Arc::new(all.try_enter(host(peer)).unwrap());
                prop_assert!(!connection.close.is_cancelled(), "whoever comes gets in");
                if passes {
                    drop(connection.passed());
                    known.push(connection);
                } else {
                    strangers.push(connection);
                }
                let open = strangers.iter().filter(|stranger| !stranger.close.is_cancelled()).count();
                prop_assert!(open <= bounds.strangers);
                prop_assert!(known.iter().all(|known| !known.close.is_cancelled()));
            }
        }
    }
}
