//! Secrets that never enter the guest.
//!
//! The guest's environment holds a placeholder for each secret, `snowglobe-secret-NAME-…`. Where a request to one of the
//! secret's hosts has the placeholder in the secret's header, the host puts the real value there, and nowhere else:
//! elsewhere the placeholder goes out as it is, which does no harm. What such a host answers has the value
//! [hidden](mask) again.
//!
//! A value is read when it is first needed and kept in memory only. One from a command or a file is read anew once a
//! server has refused it; the former values are still hidden.

mod held;
pub(super) mod mask;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName};

use super::authority::Authority;
use super::rules::{Asked, Host, Mode, RuleError, Rules, Verdict};
use crate::key::{Environment, KeySource};
use held::Held;
use mask::Patterns;

/// What every placeholder begins with.
const PLACEHOLDER: &str = "snowglobe-secret-";

/// The longest name of a secret, in bytes.
const MAX_NAME: usize = 64;

/// Headers that lead a request, or frame it: none of them takes a secret.
const NOT_FOR_SECRETS: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
];

/// A secret, as the user defines it.
#[derive(Debug, Clone)]
pub(crate) struct Secret {
    /// The variable of the guest's environment that holds the placeholder.
    pub(crate) name: String,
    /// Where the value comes from.
    pub(crate) from: KeySource,
    /// Where it may go: hosts and requests, as in rules.
    pub(crate) hosts: Vec<String>,
    /// The header that it is put into.
    pub(crate) header: String,
}

/// What is wrong with a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Its name is no variable's.
    #[error(
        "define the secret `{0}`: a name is that of an environment variable, of at most {MAX_NAME} letters"
    )]
    Name(String),
    /// Its header is none, or one that leads a request.
    #[error(
        "define the secret {name}: `{header}` is no header that can hold a secret; most servers take `Authorization`"
    )]
    Header {
        /// The secret.
        name: String,
        /// Its header.
        header: String,
    },
    /// One of its hosts can't be understood.
    #[error("define the secret {name}")]
    Hosts {
        /// The secret.
        name: String,
        /// Why.
        source: RuleError,
    },
    /// It has no hosts.
    #[error("define the secret {0}: it has no `hosts`, so it could go nowhere")]
    NoHosts(String),
    /// Its value can't be read.
    #[error("read the secret {name}: {why}")]
    Read {
        /// The secret.
        name: String,
        /// Why; never the value.
        why: String,
    },
}

/// The secrets of a sandbox.
pub(crate) struct Secrets {
    all: Vec<Arc<Held>>,
    environment: Arc<Environment>,
    /// What hides the values that were read so far.
    patterns: Mutex<Option<(u64, Patterns)>>,
}

/// The secrets that a request has.
#[derive(Default)]
pub(crate) struct Used(Vec<Arc<Held>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all.iter().map(|secret| &secret.name))
            .finish()
    }
}

impl fmt::Debug for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Used {
    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|secret| secret.name.as_str())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The server refuses them: those that may have been renewed are read anew for the next request.
    pub(crate) async fn refused(&self) {
        for secret in &self.0 {
            secret.refused().await;
        }
    }
}

impl Secrets {
    /// The secrets of the sandbox with this authority; values from variables come from `environment`.
    pub(crate) fn new(
        secrets: Vec<Secret>,
        authority: &Authority,
        environment: Arc<Environment>,
    ) -> Result<Self, SecretError> {
        let held = |secret: Secret| {
            let (header, hosts) = secret.check()?;
            let Secret { name, from, .. } = secret;
            let tag = authority.tag(&format!("secret {name}"));
            let placeholder = format!("{PLACEHOLDER}{name}-{tag}");
            Ok(Arc::new(Held::new(name, placeholder, from, header, hosts)))
        };
        let all: Result<_, _> = secrets.into_iter().map(held).collect();
        Ok(Self {
            all: all?,
            environment,
            patterns: Mutex::default(),
        })
    }

    /// The guest's variables: names and placeholders.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all
            .iter()
            .map(|secret| (secret.name.as_str(), secret.placeholder.as_str()))
    }

    /// Whether connections there must be inspected, since secrets may go there.
    pub(crate) fn are_for(&self, host: &Host, port: u16) -> bool {
        let is_for = |secret: &Arc<Held>| {
            matches!(secret.hosts.connection(host, port), Verdict::Allowed { .. })
        };
        self.all.iter().any(is_for)
    }

    /// Puts values into the headers of a request, where the placeholders are. The caller has checked that the request
    /// goes to this host and to no other one, over TLS.
    pub(crate) async fn put_in(
        &self,
        host: &Host,
        port: u16,
        asked: &Asked<'_>,
        headers: &mut HeaderMap,
    ) -> Result<Used, SecretError> {
        let mut used = Used::default();
        for secret in &self.all {
            let is_named = headers
                .get_all(&secret.header)
                .iter()
                .any(|value| secret.is_named(value));
            if !is_named
                || !matches!(
                    secret.hosts.request(host, port, asked),
                    Verdict::Allowed { .. }
                )
            {
                continue;
            }
            let value = self.value(secret).await?;
            if let http::header::Entry::Occupied(mut entry) = headers.entry(&secret.header) {
                for header in entry.iter_mut().filter(|header| secret.is_named(header)) {
                    let put = secret.put_into(&value, header);
                    put.map_err(|why| SecretError::Read {
                        name: secret.name.clone(),
                        why,
                    })?;
                }
            }
            used.0.push(secret.clone());
        }
        Ok(used)
    }

    /// What hides the values that were read so far; none if none was.
    pub(crate) fn patterns(&self) -> Option<Patterns> {
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.all.iter().map(|secret| secret.known().changes).sum();
        if changes == 0 {
            return None;
        }
        if let Some((_, known)) = patterns.as_ref().filter(|(of, _)| *of == changes) {
            return Some(known.clone());
        }
        let values: Vec<_> = self
            .all
            .iter()
            .map(|secret| (secret, secret.known().all.clone()))
            .collect();
        let pairs = values.iter().flat_map(|(secret, all)| {
            all.iter()
                .map(|value| (value.as_str(), secret.placeholder.as_str()))
        });
        match Patterns::new(pairs) {
            Ok(new) => {
                *patterns = Some((changes, new.clone()));
                Some(new)
            }
            Err(error) => {
                // The values are bounded, and so are the patterns' sizes.
                tracing::error!(%error, "secrets can't be hidden");
                None
            }
        }
    }

    async fn value(&self, secret: &Arc<Held>) -> Result<String, SecretError> {
        let (reads, environment) = (secret.clone(), self.environment.clone());
        // A guest that gives a request up does not have the command run again for each one.
        let read = tokio::spawn(async move { reads.value(&*environment).await }).await;
        let why = match read {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        Err(SecretError::Read {
            name: secret.name.clone(),
            why,
        })
    }
}

impl Secret {
    /// Checks it; gives its header and the rules for its hosts.
    pub(crate) fn check(&self) -> Result<(HeaderName, Rules), SecretError> {
        let Self {
            name,
            hosts,
            header,
            ..
        } = self;
        let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.len() > MAX_NAME || !name.starts_with(starts) || !name.chars().all(good) {
            return Err(SecretError::Name(name.chars().take(100).collect()));
        }
        let name = name.clone();
        let parsed = header
            .parse()
            .ok()
            .filter(|parsed: &HeaderName| !NOT_FOR_SECRETS.contains(&parsed.as_str()));
        let Some(parsed) = parsed else {
            return Err(SecretError::Header {
                name,
                header: header.clone(),
            });
        };
        if hosts.is_empty() {
            return Err(SecretError::NoHosts(name));
        }
        match Rules::new(Mode::List, hosts.iter().map(String::as_str), []) {
            Ok(hosts) => Ok((parsed, hosts)),
            Err(source) => Err(SecretError::Hosts { name, source }),
        }
    }
}
