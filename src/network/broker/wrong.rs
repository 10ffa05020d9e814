//! What is wrong with a connection's first bytes.

/// How much may be held, in bytes.
pub(super) const MOST: usize = 16 << 10;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Wrong {
    /// The bytes name another host.
    #[error("the connection is for `{name}`, but it asks for `{asked}`")]
    Other {
        /// The name that was allowed.
        name: String,
        /// What the bytes name.
        asked: String,
    },
    /// TLS without a server name.
    #[error("the connection is for `{0}`, but its TLS has no server name (SNI)")]
    NoServerName(String),
    /// HTTP without a host.
    #[error("the connection is for `{0}`, but its request has no `Host`")]
    NoHost(String),
    /// A name is hidden.
    #[error(
        "the connection may hide a name (encrypted ClientHello); in Chromium, \
         `--disable-features=EncryptedClientHello` turns that off"
    )]
    Hidden,
    /// The bytes are not what the port is for.
    #[error("only TLS and HTTP/1 go to ports 80 and 443: {0}")]
    Unknown(String),
    /// A ClientHello or request that can't be understood.
    #[error("understand the first bytes of the connection: {0}")]
    Bad(String),
    /// The first bytes are never complete.
    #[error("the first {MOST} bytes of the connection name no host")]
    Long,
    /// The guest ended its data, or did not go on, in the middle of them.
    #[error("the first bytes of the connection are not complete, and name no host")]
    Cut,
}
