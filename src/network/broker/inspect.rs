//! Connections whose requests must be looked at, one by one.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use snowglobe_init::streams::{Refusal, Stream};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::rules::{Host, Rules};
use super::counts::Connection;
use super::report::Report;

/// What looks at the requests of connections.
pub trait Inspect: Send + Sync {
    /// Whether it wants a connection that the rules do not ask it to look at: one to a host with a secret, or plain HTTP,
    /// of which the broker itself looks at the first request only.
    fn wants(&self, host: &Host, port: u16) -> bool;

    /// Serves a connection to its end: shuts down the guest's end and reads it until the guest has ended, too, or the guest
    /// sees a reset. A refusal resets the guest's stream, and is told and logged. It is dropped once
    /// the rules no longer allow the connection.
    fn inspect<'a>(&'a self, connection: Inspected<'a>) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// A connection whose requests must be looked at.
#[derive(Debug)]
pub struct Inspected<'a> {
    /// The host that the guest asked for, and that the rules allow.
    pub host: &'a Host,
    /// The port that the guest asked for.
    pub port: u16,
    /// The rules, as they are now and as they will be.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// The guest's end. Nothing was read from it yet.
    pub guest: &'a mut Stream,
    /// The server's end: of a connection to an address that was checked, or through the host's proxy.
    pub server: &'a mut TcpStream,
    /// Where bytes are counted; fails once the sandbox may move no more.
    pub counts: &'a Connection,
    /// Where requests are told of.
    pub report: &'a Report,
}
