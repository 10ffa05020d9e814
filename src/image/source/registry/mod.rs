//! Registries: bringing an image's blobs into the store.
//!
//! An image is asked for at its registry's mirrors first, in their order, then at the registry itself ([`endpoint`]);
//! a blob that one of them gives wrongly or not at all is asked for at the next ([`download`]). Digests decide: what a
//! mirror says of a tag is believed, what it gives for a digest is checked.

mod credentials;
mod download;
mod endpoint;
mod error;
mod pull;
mod push;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

pub use error::RegistryError;
pub use pull::Pulled;

/// How registries are reached; where nothing is said of one: over TLS, by its own name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Registries(pub BTreeMap<String, RegistrySettings>);

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Hosts that are asked first, in this order.
    pub mirrors: Vec<String>,
    /// Whether it is spoken to without TLS; where this is not said: only on this machine itself.
    pub http: Option<bool>,
    /// A file with the certificates (PEM) that vouch for it, besides those this machine trusts.
    pub ca: Option<PathBuf>,
}

/// Why what this user keeps for a registry can't be used, and what to do; nothing where it can, or there is nothing.
pub async fn login_trouble(host: &str) -> Option<String> {
    credentials::of(host).await.trouble
}

impl Registries {
    fn of(&self, host: &str) -> RegistrySettings {
        self.0.get(host).cloned().unwrap_or_default()
    }

    /// Whether a registry is spoken to without TLS.
    fn is_http(&self, host: &str) -> bool {
        let settings = self.of(host);
        settings
            .http
            .unwrap_or_else(|| is_loopback(host) && settings.ca.is_none())
    }
}

/// Whether a registry is this machine itself.
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
    fn without_tls_only_on_this_machine_unless_said_otherwise() {
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
