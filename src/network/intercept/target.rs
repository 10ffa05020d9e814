//! What a connection is for, and how long it may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::network::rules::{Host, Rules};

/// How long something may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The first byte of a connection, each handshake of TLS, a change of the protocol.
    pub handshake: Duration,
    /// The head of a request, and the pause before it.
    pub head: Duration,
    /// A server's silence before an answer.
    pub answer: Duration,
    /// A server's silence until a beginning of what may be a secret goes on.
    pub quiet: Duration,
    /// A server's silence until a body goes to it that it was asked for.
    pub expect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            head: Duration::from_secs(60),
            answer: Duration::from_secs(300),
            quiet: Duration::from_millis(100),
            expect: Duration::from_secs(1),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host that the guest asked for, and that the rules allow.
    pub host: Host,
    /// The port that the guest asked for.
    pub port: u16,
    /// The rules, as they are now and as they will be.
    pub rules: watch::Receiver<Arc<Rules>>,
}
