//! The peers of connections, and the requests that each may make without the token.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// How many requests a second one peer may make without the token in the long run.
const RATE: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");

/// How many it may make at once.
const BURST: NonZeroU32 = NonZeroU32::new(100).expect("it is not 0");

/// The number of budgets. Peers are spread over them, so two peers may share one.
const BUDGETS: usize = 1024;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Peer {
    /// A host. Of an IPv6 address only the network counts, since one host has many addresses in it.
    Host(IpAddr),
    /// A user of this machine, on a unix socket.
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

/// The budgets of requests without the token. Their number is fixed, so many peers take no memory.
pub(super) struct Budgets {
    budgets: Vec<DefaultDirectRateLimiter>,
    hasher: RandomState,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(RATE, BURST)
    }
}

impl Budgets {
    pub(super) fn new(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            budgets: (0..BUDGETS).map(|_| RateLimiter::direct(quota)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a request out of a peer's budget; false if the budget is empty.
    pub(super) fn spend(&self, peer: Option<Peer>) -> bool {
        let hash = usize::try_from(self.hasher.hash_one(peer) >> 32).unwrap_or(0);
        self.budgets[hash % self.budgets.len()].check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Peer {
        IpAddr::from([10, 0, 0, last]).into()
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
        // Among a thousand budgets, ten other peers do not all share this one.
        assert!((2..12).any(|last| spent(host(last)) == 3));
    }
}
