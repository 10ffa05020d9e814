//! Names of the user's own, `[network.hosts]`: `"db.local:5432" = "127.0.0.1:5432"`. Pure.
//!
//! Such a name needs no resolver, and may stand for an address that is refused otherwise: one of this machine, or a
//! private one. It still needs a rule that allows it.

use std::fmt;

use super::rules::Host;

/// Names of the user's own, and what they stand for.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    host: Host,
    /// All ports if none is given.
    port: Option<u16>,
    to: Host,
    /// The port that the guest asked for if none is given.
    to_port: Option<u16>,
}

/// What a name of the user's own stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// An address, or another name that the host resolves.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// An entry that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("understand the entry `{entry}` of `network.hosts`: {why}")]
pub struct HostsError {
    /// The entry's name.
    pub entry: String,
    /// What is wrong, and what was expected.
    pub why: String,
}

impl Hosts {
    /// Understands the entries. Fails at a host or port that is none, and at a port that leads to all ports of another
    /// host.
    pub fn new<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, HostsError> {
        let one = |(name, to): (&str, &str)| {
            let understood = || {
                let (host, port) = host_and_port(name)?;
                let (to, to_port) = host_and_port(to)?;
                Ok(Entry {
                    host,
                    port,
                    to,
                    to_port,
                })
            };
            understood().map_err(|why| HostsError {
                entry: name.chars().take(100).collect(),
                why,
            })
        };
        entries
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What a host and port stand for; an entry with the port counts more than one without.
    pub fn find(&self, host: &Host, port: u16) -> Option<Target> {
        let of = |wanted: Option<u16>| {
            self.0
                .iter()
                .find(|entry| entry.host == *host && entry.port == wanted)
        };
        let entry = of(Some(port)).or_else(|| of(None))?;
        Some(Target {
            host: entry.to.clone(),
            port: entry.to_port.unwrap_or(port),
        })
    }

    /// Whether there is an entry for this host, with any port.
    pub fn knows(&self, host: &Host) -> bool {
        self.0.iter().any(|entry| entry.host == *host)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The parts of `HOST[:PORT]`. An address of IPv6 with a port is in brackets.
pub(super) fn host_and_port(text: &str) -> Result<(Host, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
            if port == 0 {
                return Err("port 0 is no port".into());
            }
            (host, Some(port))
        }
        _ => (text, None),
    };
    Ok((Host::parse(host)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_for_addresses_and_names() {
        let hosts = Hosts::new([
            ("db.local:5432", "127.0.0.1:15432"),
            ("Web.local", "[::1]"),
            ("web.local:81", "localhost:8081"),
            ("[2001:db8::1]:80", "192.168.0.1"),
        ])
        .unwrap();
        let find = |host: &str, port| {
            let found = hosts.find(&Host::parse(host).unwrap(), port);
            found.map(|target| target.to_string()).unwrap_or_default()
        };
        assert_eq!(find("db.local", 5432), "127.0.0.1:15432");
        assert_eq!(find("db.local", 5433), "");
        assert_eq!(find("web.local", 80), "[::1]:80");
        assert_eq!(find("web.local", 81), "localhost:8081");
        assert_eq!(find("2001:db8::1", 80), "192.168.0.1:80");
        assert!(
            hosts.knows(&Host::parse("db.local").unwrap())
                && !hosts.knows(&Host::parse("x.local").unwrap())
        );
    }

    #[test]
    fn wrong_entries_say_what_is_wrong() {
        for (name, to, expected) in [
            ("db.local:0", "127.0.0.1", "port 0"),
            ("db.local", "127.0.0.1:x", "`x` is no port"),
            ("d b", "127.0.0.1", "no name"),
            ("db.local", "http://x/", "no port"),
        ] {
            let error = Hosts::new([(name, to)]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
    }
}
