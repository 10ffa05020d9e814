//! What is told of each request, once it has ended.

use std::fmt;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The longest path that is told, in bytes.
const MAX_PATH: usize = 1024;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A rule allows it.
    Allowed {
        /// The rule's text.
        rule: String,
    },
    /// It was refused, and never left this machine.
    Refused {
        /// Why.
        why: String,
        /// What a person can do to allow it.
        remedy: Option<String>,
    },
    /// It was allowed, but failed.
    Failed {
        /// Why. It may tell more than the guest is told.
        why: String,
    },
}

/// A request that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// Its method.
    pub method: String,
    /// Its path without the query, cut after some length.
    pub path: String,
    /// The status that the guest got; 0 if it got none.
    pub status: u16,
    /// How many bytes of its body, or of the stream after an upgrade, went to the server.
    pub sent: u64,
    /// How many bytes of the answer's body, or of the stream after an upgrade, went to the guest.
    pub received: u64,
    /// The names of the secrets that the host has put into it.
    pub secrets: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Is told of each request.
pub type Reporter = Arc<dyn Fn(Requested) + Send + Sync>;

/// Counts one request. Reports once the last clone is gone.
#[derive(Clone)]
pub(super) struct Account(Arc<Inner>);

struct Inner {
    method: String,
    path: String,
    status: AtomicU16,
    sent: AtomicU64,
    received: AtomicU64,
    told: Mutex<(Vec<String>, Outcome)>,
    reporter: Reporter,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({} {})", self.0.method, self.0.path)
    }
}

impl Account {
    pub(super) fn new(method: &str, path: &str, reporter: Reporter) -> Self {
        let end = (0..=MAX_PATH.min(path.len()))
            .rev()
            .find(|at| path.is_char_boundary(*at));
        let given_up = Outcome::Failed {
            why: "the guest gave it up".to_owned(),
        };
        Self(Arc::new(Inner {
            method: method.chars().take(32).collect(),
            path: path[..end.unwrap_or(0)].to_owned(),
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            told: Mutex::new((Vec::new(), given_up)),
            reporter,
        }))
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Relaxed);
    }

    /// How many bytes have moved so far.
    pub(super) fn moved(&self) -> u64 {
        self.0.sent.load(Relaxed) + self.0.received.load(Relaxed)
    }

    pub(super) fn status(&self, status: http::StatusCode) {
        self.0.status.store(status.as_u16(), Relaxed);
    }

    pub(super) fn secrets<'a>(&self, names: impl Iterator<Item = &'a str>) {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).0 =
            names.map(str::to_owned).collect();
    }

    pub(super) fn outcome(&self, outcome: Outcome) {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).1 = outcome;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (secrets, outcome) = std::mem::replace(
            self.told.get_mut().unwrap_or_else(PoisonError::into_inner),
            (Vec::new(), Outcome::Failed { why: String::new() }),
        );
        (self.reporter)(Requested {
            method: std::mem::take(&mut self.method),
            path: std::mem::take(&mut self.path),
            status: self.status.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            secrets,
            outcome,
        });
    }
}
