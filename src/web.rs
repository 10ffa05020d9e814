//! Clients for HTTPS: the one place that says which cryptography they use and what they call themselves.

use std::sync::Once;

use rustls_platform_verifier::ConfigVerifierExt as _;

/// The user agent of all requests.
pub(crate) const USER_AGENT: &str = concat!("snowglobe/", env!("CARGO_PKG_VERSION"));

/// Makes ring the cryptography of TLS in this process.
pub(crate) fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::debug!("the process has another provider of cryptography already");
        }
    });
}

/// TLS of a client that trusts the system's authorities.
pub(crate) fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    use_ring();
    rustls::ClientConfig::with_platform_verifier()
}

/// A client that trusts the system's authorities. Answers come as they are: a compressed one could be of any length.
pub(crate) fn client() -> reqwest::ClientBuilder {
    use_ring();
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
}
