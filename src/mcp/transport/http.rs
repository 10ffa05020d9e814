//! MCP over HTTP: streamable at `/mcp`, the older transport at `/sse`; `/healthz` tells that the server runs, and
//! `/metrics`, if enabled, how it is used.
//!
//! Every request passes [`checks`]; then the library checks lengths and headers of `/mcp`. The preflight of a browser is
//! answered after the first check. An address that others can reach needs a token. TLS is left to a proxy.
//!
//! Connections are bounded, too ([`connections`](super::connections)). One that sends no request, or does not read its
//! answer, is closed after a while ([`accept_loop`]).

mod accept_loop;
mod checks;
mod options;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::routing::get;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;

use self::accept_loop::Timeouts;
use self::checks::{RequestChecks, with_checks};
pub use self::options::HttpOptions;
use super::bind::{ListenAddress, Listener};
use super::connections::ConnectionLimits;
use super::malformed::MAX_MESSAGE;
use super::origin::{self, AllowList};
use super::{post, sse};
use crate::config::Config;
use crate::fleet::{Fleet, Limits};
use crate::mcp::metrics::{self, Metrics};
use crate::mcp::selector::Selector;
use crate::mcp::server::{Server, Shared};
use crate::mcp::sessions::Sessions;

/// Why the server can't listen.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Everyone who reaches the address could run commands.
    #[error(
        "listen on {0} without a token: others can reach that address; leave --no-token out, or listen on 127.0.0.1"
    )]
    Open(ListenAddress),
    /// A text is no origin.
    #[error("let web pages call (--allow-origin): {0}")]
    Origin(String),
    /// Listening on the address failed.
    #[error("listen on {address}: another program may use it; choose another address with --http")]
    Listen {
        /// The address.
        address: ListenAddress,
        /// The cause.
        source: std::io::Error,
    },
}

/// A server that listens.
pub struct Listening {
    listener: Listener,
    options: HttpOptions,
    /// The address on which it listens.
    pub address: ListenAddress,
}

/// Starts to listen.
pub async fn listen(mut options: HttpOptions) -> Result<Listening, HttpError> {
    if options.token.is_none() && !options.address.is_local() {
        return Err(HttpError::Open(options.address));
    }
    let origins = options.origins.iter().map(|text| origin::parse(text));
    options.origins = origins
        .collect::<Result<_, _>>()
        .map_err(HttpError::Origin)?;
    let failed = |source| HttpError::Listen {
        address: options.address.clone(),
        source,
    };
    let listener = Listener::bind(&options.address).await.map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok(Listening {
        listener,
        options,
        address,
    })
}

impl Listening {
    /// Serves until `closing` fires. Then every sandbox is stopped.
    pub async fn serve(self, config: Config, closing: CancellationToken) {
        let shared = Shared::fleet(&config);
        let pool = Fleet::new(config, self.options.limits, closing.clone()).await;
        let metrics = shared.metrics.clone();
        let health = pool.clone();
        let open = Router::new().route(
            "/healthz",
            get(move || async move { format!("ok\nsandboxes {}\n", health.count()) }),
        );
        let mut guarded = sse::router(shared.clone(), pool.clone(), closing.clone());
        if self.options.metrics {
            let (metrics, pool) = (metrics.clone(), pool.clone());
            let text = move || async move {
                let media_type = [(header::CONTENT_TYPE, metrics::MEDIA_TYPE)];
                (
                    media_type,
                    metrics.text(pool.count(), &pool.network_counts()),
                )
            };
            guarded = guarded.route("/metrics", get(text));
        }
        let clients = pool.clone();
        let server = move || Server::new(shared.clone(), Selector::fleet(clients.clone()), None);
        self.serve_routes(server, guarded, open, metrics, closing)
            .await;
        pool.stop().await;
    }

    /// Serves any handler behind the same checks, until `closing` fires.
    pub async fn serve_with<S: ServerHandler>(
        self,
        server: impl Fn() -> S + Send + Sync + 'static,
        closing: CancellationToken,
    ) {
        let metrics = Arc::new(Metrics::new());
        self.serve_routes(server, Router::new(), Router::new(), metrics, closing)
            .await;
    }

    /// Serves `/mcp` and routes beside it; those of `open` need no token.
    async fn serve_routes<S: ServerHandler>(
        self,
        server: impl Fn() -> S + Send + Sync + 'static,
        guarded: Router,
        open: Router,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) {
        let checks = RequestChecks::new(&self.options, &self.address, metrics);
        let mcp = mcp(server, &checks.allowed, self.options.limits, &closing);
        let router = with_checks(mcp.merge(guarded), open, Arc::new(checks));
        let limits = ConnectionLimits::of_process();
        accept_loop::run(self.listener, router, limits, Timeouts::default(), &closing).await;
    }
}

/// The library's service of `/mcp`.
fn mcp<S: ServerHandler>(
    server: impl Fn() -> S + Send + Sync + 'static,
    allowed: &AllowList,
    limits: Limits,
    closing: &CancellationToken,
) -> Router {
    let settings = StreamableHttpServerConfig::default()
        .with_allowed_hosts(allowed.hosts().to_vec())
        .with_allowed_origins(allowed.origins().to_vec())
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_MESSAGE)
        .with_sse_retry(None)
        .with_cancellation_token(closing.clone());
    let sessions = Arc::new(Sessions::new(limits.kept()));
    let service = StreamableHttpService::new(move || Ok(server()), sessions, settings);
    Router::new()
        .nest_service("/mcp", service)
        .route_layer(middleware::from_fn(post::serve))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::num::NonZeroU32;

    use super::*;

    pub(super) fn options(address: &str) -> HttpOptions {
        HttpOptions {
            address: address.parse().unwrap(),
            token: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            rate: NonZeroU32::MIN,
            metrics: false,
            limits: Limits {
                sandboxes: 1,
                idle: Duration::from_secs(1),
            },
        }
    }

    #[tokio::test]
    async fn an_address_that_others_reach_needs_a_token() {
        let listening = listen(options("0.0.0.0:0")).await;
        assert!(matches!(listening, Err(HttpError::Open(_))));
    }
}
