//! Why a connection ends.

use std::io;

use crate::network::authority::AuthorityError;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterceptError {
    /// TLS asks for another name, or for none.
    #[error("the connection is for `{host}`, but its TLS asks for `{asked}` (SNI)")]
    ServerName {
        /// The connection's host.
        host: String,
        /// What TLS asks for.
        asked: String,
    },
    /// The guest is too slow.
    #[error("the guest has not {what} in {seconds} s")]
    Slow {
        /// What it should have done.
        what: &'static str,
        /// In how many seconds.
        seconds: u64,
    },
    /// No certificate can be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The guest does not finish its handshake. Often it does not trust the sandbox's authority.
    #[error(
        "agree on TLS with the guest; programs that bring authorities of their own must be told the sandbox's"
    )]
    Handshake(#[source] io::Error),
    /// TLS can't be set up.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The guest's end breaks.
    #[error("read from the guest")]
    Io(#[from] io::Error),
    /// The guest does not speak HTTP as it should.
    #[error("serve the guest's requests")]
    Http(#[from] hyper::Error),
}
