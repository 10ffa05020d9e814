//! The network of one sandbox while it lives: its settings, which a person may change, and the broker that obeys them.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use base64::Engine as _;
use snowglobe_init::wire::network::AUTHORITIES;

use super::audit::Audit;
use super::authority::{Authority, AuthorityError};
use super::broker::{self, Broker, Refusals};
use super::hosts::HostsError;
use super::intercept::{Interceptor, Limits};
use super::ports::Ports;
use super::proxy::Proxies;
use super::rules::{Mode, RuleError, Rules};
use super::secrets::{SecretError, Secrets};
use super::settings::{Bounds, Change, ChangeError, Settings};
use crate::key::Environment;
use crate::web;

/// For how many seconds the rate may come at once.
const BURST: NonZeroU32 = NonZeroU32::new(2).expect("it is not 0");

/// The network of a sandbox.
#[derive(Debug)]
pub struct Live {
    settings: Mutex<Settings>,
    broker: Arc<Broker>,
    /// The guest's ports that are open on this machine.
    pub ports: Ports,
    log: PathBuf,
    secrets: Arc<Secrets>,
    authorities: Arc<str>,
}

/// Variables by which programs with authorities of their own are told of the guest's. Those of one line are read by the
/// same programs, so that one of them that an image or a person sets must not be overruled by another.
const AUTHORITIES_IN: [&[&str]; 6] = [
    &["SSL_CERT_FILE"],
    &["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"],
    &["NODE_EXTRA_CA_CERTS"],
    &["GIT_SSL_CAINFO"],
    &["CARGO_HTTP_CAINFO"],
    &["AWS_CA_BUNDLE"],
];

/// What a person may know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its settings as they are now, [as they may be shown](Settings::shown).
    #[serde(flatten)]
    pub settings: Settings,
    /// What was counted since the sandbox started.
    pub counts: Counts,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that are open.
    pub open: u64,
    /// Connections that were made.
    pub made: u64,
    /// Names and connections that were refused, or ended by a rule.
    pub refused: u64,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
}

/// The authorities that this machine trusts, as PEM; those that can't be read are left out.
fn host_authorities() -> String {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "an authority of this machine can't be read");
    }
    let pem = |certificate: &rustls::pki_types::CertificateDer<'_>| {
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|at| &text[at..text.len().min(at + 64)])
            .collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        )
    };
    found.certs.iter().map(pem).collect()
}

/// Why a sandbox gets no network, and so does not start.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A rule that can't be understood.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A name of the user's own that can't be understood.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// The sandbox's certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// TLS of this machine.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The log.
    #[error("open the log of the network in {directory}")]
    Log {
        /// Its directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Live {
    /// A network with these settings, which is logged into an existing directory.
    pub fn new(settings: Settings, log: &Path) -> Result<Self, LiveError> {
        let audit = Audit::open(log).map_err(|source| LiveError::Log {
            directory: log.to_owned(),
            source,
        })?;
        let authority = Arc::new(Authority::open(log)?);
        let environment: Arc<Environment> = Arc::new(|name: &str| std::env::var(name).ok());
        let secrets = settings.secrets.iter();
        let secrets = secrets.map(|(name, secret)| secret.named(name)).collect();
        let secrets = Arc::new(Secrets::new(secrets, &authority, environment)?);
        let mut authorities = authority.certificate().to_owned();
        if settings.trust_host_ca {
            authorities += &host_authorities();
        }
        let inspector =
            Interceptor::new(authority, secrets.clone(), web::tls()?, Limits::default());
        let made_of = broker::Settings {
            hosts: settings.hosts()?,
            proxies: Some(Proxies::from_env()),
            audit: Some(Arc::new(audit)),
            inspect: Some(Box::new(inspector)),
            bounds: bounds(&settings.bounds),
            ..broker::Settings::default()
        };
        let broker = Broker::new(made_of, Arc::new(settings.rules()?));
        Ok(Self {
            settings: Mutex::new(settings),
            broker: Arc::new(broker),
            ports: Ports::default(),
            log: log.to_owned(),
            secrets,
            authorities: authorities.into(),
        })
    }

    /// The authorities that the guest is to trust, as PEM.
    pub fn authorities(&self) -> &Arc<str> {
        &self.authorities
    }

    /// Variables for the guest's programs: placeholders of secrets, and where the authorities are, beside the names that
    /// the image and the user have `given` already. None if the network is off when the machine starts.
    pub fn variables(&self, given: &HashSet<&str>) -> Vec<(String, String)> {
        if self.lock().mode == Mode::Off {
            return Vec::new();
        }
        let free = |names: &&&[&str]| names.iter().all(|name| !given.contains(name));
        let names = AUTHORITIES_IN.iter().filter(free).copied().flatten();
        let authorities = names.map(|name| (*name, AUTHORITIES));
        let all = self.secrets.variables().chain(authorities);
        all.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// What answers the guest.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Its rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        self.broker.rules()
    }

    /// The directory of its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its settings as they are now.
    pub fn settings(&self) -> Settings {
        self.lock().clone()
    }

    /// What a person may know of it.
    pub fn status(&self) -> Status {
        Status {
            settings: self.lock().shown(),
            counts: self.counts(),
        }
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        let counts = self.broker.counts();
        Counts {
            open: counts.open,
            made: counts.made,
            refused: counts.refused,
            bytes_up: counts.up,
            bytes_down: counts.down,
        }
    }

    /// Changes the rules at once; open connections that are no longer allowed are closed.
    pub fn change(&self, change: &Change, origin: &str) -> Result<Settings, ChangeError> {
        let mut settings = self.lock();
        let changed = settings.changed(change, origin)?;
        self.broker.set_rules(Arc::new(changed.rules()?));
        *settings = changed.clone();
        Ok(changed)
    }

    /// Takes back what was allowed for one command; open connections there are closed.
    pub fn take_back_once(&self) -> Result<Settings, ChangeError> {
        let mut settings = self.lock();
        let changed = settings.without_once();
        if changed != *settings {
            self.broker.set_rules(Arc::new(changed.rules()?));
            *settings = changed.clone();
        }
        Ok(changed)
    }

    /// From where on [`Self::refusals_since`] tells of refusals.
    pub fn refusals_cursor(&self) -> u64 {
        self.broker.refusals_cursor()
    }

    /// The refusals since a cursor; of many only the newest.
    pub fn refusals_since(&self, cursor: u64) -> Refusals {
        self.broker.refusals_since(cursor)
    }
}

/// The bounds as the broker keeps them.
fn bounds(of: &Bounds) -> broker::Bounds {
    let usual = broker::Bounds::default();
    let rate = NonZeroU32::new(of.per_second).unwrap_or(usual.rate);
    broker::Bounds {
        open: usize::try_from(of.connections).unwrap_or(usual.open),
        rate,
        burst: rate.saturating_mul(BURST),
        bytes: of.gib.map(|gib| u64::from(gib) << 30),
        ..usual
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.open += other.open;
        self.made += other.made;
        self.refused += other.refused;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::rules::{Host, Verdict};

    #[tokio::test]
    async fn a_change_counts_at_once_and_a_wrong_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let live = Live::new(Settings::default(), dir.path()).unwrap();
        let host = Host::parse("pypi.org").unwrap();
        let allows = || {
            let verdict = live.broker().rules().connection(&host, 443);
            matches!(verdict, Verdict::Allowed { .. })
        };
        assert!(!allows());
        let change = |allow: &str| Change {
            allow: vec![allow.to_owned()],
            deny: Vec::new(),
        };
        live.change(&change("packages"), "test").unwrap();
        assert!(allows());
        let before = live.settings();
        assert!(live.change(&change("pakages"), "test").is_err());
        assert_eq!(live.settings(), before);
        let text = serde_json::to_string(&live.status()).unwrap();
        assert_eq!(
            serde_json::from_str::<Status>(&text).unwrap(),
            live.status()
        );
    }

    #[test]
    fn a_log_that_can_t_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Live::new(Settings::default(), &dir.path().join("none")).unwrap_err();
        assert!(crate::describe(&error).starts_with("open the log of the network in "));
    }
}
