//! One line of the audit log.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snowglobe_init::wire::network::Program;

/// What the guest asked for, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A name was to be resolved.
    Resolve,
    /// A connection was to be made.
    Connect,
    /// A request was made on a connection whose requests are looked at.
    Request,
    /// A connection ended.
    Close,
    /// Lines were lost: the log could not keep up.
    Lost,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was allowed.
    Allowed,
    /// It was refused, or ended by a rule.
    Refused,
    /// It was allowed, but failed.
    Failed,
}

/// One line. All texts are safe to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When; for several events the last one.
    pub time: Timestamp,
    /// What was asked for, or became of it.
    pub event: Event,
    /// What was decided.
    pub decision: Decision,
    /// The program in the guest, if the guest knew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// A name, or a literal address, as the guest asked for it.
    pub host: String,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address that was connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The request on a connection whose requests are looked at, such as `GET /x`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The rule that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why it was refused, or how it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes from the guest.
    pub up: u64,
    /// Bytes to the guest.
    pub down: u64,
    /// How long it took or was open, in seconds.
    pub seconds: f64,
    /// How many events this line stands for.
    pub count: u64,
}

impl Record {
    /// So many lines are lost.
    pub(super) fn lost(count: u64) -> Self {
        Self {
            time: Timestamp::now(),
            event: Event::Lost,
            decision: Decision::Failed,
            program: None,
            host: String::new(),
            port: None,
            address: None,
            request: None,
            rule: None,
            reason: Some("the log could not keep up".into()),
            up: 0,
            down: 0,
            seconds: 0.0,
            count,
        }
    }
}
