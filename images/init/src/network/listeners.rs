//! The ports on which the guest's programs listen.

use std::collections::BTreeMap;
use std::fs;

use super::program::{self, Protocol};
use crate::wire::network::Listener;

/// How many are told, at most.
const MOST: usize = 100;

/// The state of a socket that listens, as the kernel writes it.
const LISTENS: &str = "0A";

/// Every port with a listener that is reached over the loopback interface, but for those of init itself.
pub(super) fn all() -> Vec<Listener> {
    except(std::process::id())
}

/// The same, but for the listeners of one process.
fn except(own: u32) -> Vec<Listener> {
    let mut ports = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let Some(address) = fields.nth(1).and_then(program::parse) else {
                continue;
            };
            let reachable =
                address.ip().is_unspecified() || address.ip().to_canonical().is_loopback();
            if fields.nth(1) == Some(LISTENS) && reachable {
                ports.entry(address.port()).or_insert(address);
            }
        }
    }
    ports
        .into_values()
        .filter_map(|address| {
            let by = program::of(Protocol::Tcp, address);
            (by.as_ref().map(|by| by.pid) != Some(own)).then(|| Listener {
                port: address.port(),
                by: by.map(|by| by.name),
            })
        })
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let find = |own| except(own).into_iter().find(|found| found.port == port);
        assert!(find(0).is_some_and(|found| found.by.is_some()));
        assert_eq!(find(std::process::id()), None);
    }
}
