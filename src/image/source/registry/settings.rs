//! The user's settings of registries. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The settings of registries by host. A registry without settings is reached over TLS, by its own name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Registries(pub BTreeMap<String, RegistrySettings>);

/// The settings of a registry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Hosts that are asked before the registry itself, in this order.
    pub mirrors: Vec<String>,
    /// Whether to connect without TLS. The default is yes for registries on this machine without `ca`, else no.
    pub http: Option<bool>,
    /// A file of certificates (PEM) that are trusted for it, besides those that this machine trusts.
    pub ca: Option<PathBuf>,
}

impl Registries {
    /// Whether no registry has settings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings of a host.
    pub(super) fn of(&self, host: &str) -> RegistrySettings {
        self.0.get(host).cloned().unwrap_or_default()
    }

    /// Whether to connect to a host without TLS.
    pub(super) fn is_http(&self, host: &str) -> bool {
        let settings = self.of(host);
        settings
            .http
            .unwrap_or_else(|| is_loopback(host) && settings.ca.is_none())
    }
}

/// Whether a registry is on this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    if name == "localhost" {
        return true;
    }
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_on_this_machine_unless_set_otherwise() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(Registries::default().is_http(host), "{host}");
        }
        for host in [
            "ghcr.io",
            "localhost.evil.com:80",
            "10.0.0.1:5000",
            "127.0.0.1.nip.io",
            "[::2]:5000",
        ] {
            assert!(!Registries::default().is_http(host), "{host}");
        }
        let set = |http, ca: Option<&str>| {
            let settings = RegistrySettings {
                http,
                ca: ca.map(Into::into),
                ..RegistrySettings::default()
            };
            Registries(
                [
                    ("localhost:1".to_owned(), settings.clone()),
                    ("far:1".to_owned(), settings),
                ]
                .into(),
            )
        };
        assert!(set(Some(true), None).is_http("far:1"));
        assert!(!set(Some(false), None).is_http("localhost:1"));
        assert!(!set(None, Some("/ca.pem")).is_http("localhost:1"));
    }
}
