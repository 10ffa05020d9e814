//! Options of the HTTP server.

use std::num::NonZeroU32;

use crate::fleet::Limits;
use crate::mcp::transport::bind::ListenAddress;

/// Options of the HTTP server.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Where to listen.
    pub address: ListenAddress,
    /// The token that clients must send; none: no token is needed.
    pub token: Option<String>,
    /// Names of this server in `Host`, beside those of the loopback.
    pub hosts: Vec<String>,
    /// Web pages that may call it, beside those of this machine.
    pub origins: Vec<String>,
    /// The limits of sandboxes.
    pub limits: Limits,
    /// How many requests a second are accepted in the long run; five times as many at once.
    pub rate: NonZeroU32,
    /// Whether `/metrics` is served.
    pub metrics: bool,
}
