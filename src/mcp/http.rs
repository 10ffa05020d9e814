//! MCP over HTTP: streamable at `/mcp`, as older clients speak it at `/sse`; `/healthz` says that the server runs,
//! `/metrics`, where asked for, how it is doing.
//!
//! What a request must pass, in this order: the rate, Host and Origin ([`origin`]), the bearer token, the
//! bound on requests under way; then the library's own checks of the same, of length and headers. The token is compared in constant time. An
//! address that others can reach needs one. TLS is left to a proxy.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::LONGEST_MESSAGE;
use super::desk::{Desk, Limits, Pool};
use super::metrics::Metrics;
use super::origin::Allowed;
use super::server::{Server, Shared};
use super::sse;
use crate::config::Config;

/// How many seconds' worth of requests are taken at once.
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("it is not 0");

/// How many requests may be under way, streams that stay open included.
const UNDER_WAY: usize = 256;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub address: SocketAddr,
    /// What a client must show; absent: nothing.
    pub token: Option<String>,
    /// Names of this server in `Host` beside the loopback's.
    pub hosts: Vec<String>,
    /// Web pages that may call it, beside those of this machine.
    pub origins: Vec<String>,
    /// How many sandboxes, and for how long.
    pub limits: Limits,
    /// How many requests a second are taken in the long run; five times as many at once.
    pub rate: NonZeroU32,
    /// Whether `/metrics` is served.
    pub metrics: bool,
}

/// Why HTTP can't be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Anybody who reaches the address could run commands.
    #[error(
        "listen on {0} without a token: others can reach that address; leave --no-token out, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// The address can't be listened on.
    #[error("listen on {address}: is something else there? Choose another with --http")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Serving broke.
    #[error("go on serving HTTP")]
    Broken(#[source] std::io::Error),
}

/// A server that listens.
pub struct Listening {
    listener: TcpListener,
    http: Http,
    /// Where it listens.
    pub address: SocketAddr,
}

struct Guard {
    metrics: Arc<Metrics>,
    allowed: Allowed,
    token: Option<String>,
    rate: DefaultDirectRateLimiter,
    under_way: Arc<Semaphore>,
}

/// Starts to listen.
pub async fn listen(http: Http) -> Result<Listening, HttpError> {
    if http.token.is_none() && !http.address.ip().is_loopback() {
        return Err(HttpError::Open(http.address));
    }
    let failed = |source| HttpError::Listen {
        address: http.address,
        source,
    };
    let listener = TcpListener::bind(http.address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Listening {
        listener,
        http,
        address,
    })
}

impl Listening {
    /// Serves until `closing` fires; every sandbox is stopped then.
    pub async fn serve(self, config: Config, closing: CancellationToken) -> Result<(), HttpError> {
        let shared = Shared::new(&config, true);
        let pool = Pool::new(config, self.http.limits, closing.clone());
        let mut guarded = sse::router(shared.clone(), pool.clone(), closing.clone());
        let metrics = shared.metrics.clone();
        if self.http.metrics {
            let (metrics, pool) = (metrics.clone(), pool.clone());
            let text = move || async move {
                let kind = [(header::CONTENT_TYPE, super::metrics::MEDIA_TYPE)];
                (kind, metrics.text(pool.count()))
            };
            guarded = guarded.route("/metrics", get(text));
        }
        let of_health = pool.clone();
        let health = get(move || async move { format!("ok\nsandboxes {}\n", of_health.count()) });
        let of_sessions = pool.clone();
        let server = move || Server::new(shared.clone(), Desk::many(of_sessions.clone()), None);
        let router = router(&self.http, self.address, server, guarded, metrics, &closing)
            .route("/healthz", health);
        let served = run(self.listener, router, closing).await;
        pool.stop().await;
        served
    }

    /// Serves any handler's answers behind the same checks, until `closing` fires.
    pub async fn serve_with<S: ServerHandler>(
        self,
        server: impl Fn() -> S + Send + Sync + 'static,
        closing: CancellationToken,
    ) -> Result<(), HttpError> {
        let metrics = Arc::new(Metrics::new());
        let router = router(
            &self.http,
            self.address,
            server,
            Router::new(),
            metrics,
            &closing,
        );
        run(self.listener, router, closing).await
    }
}

async fn run(
    listener: TcpListener,
    router: Router,
    closing: CancellationToken,
) -> Result<(), HttpError> {
    // An answer's head and body are two writes: the second must not wait until the first is acknowledged.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
    });
    tokio::select! {
        served = axum::serve(listener, router) => served.map_err(HttpError::Broken),
        () = closing.cancelled() => Ok(()),
    }
}

/// `guarded` is behind the checks, too.
fn router<S: ServerHandler>(
    http: &Http,
    address: SocketAddr,
    server: impl Fn() -> S + Send + Sync + 'static,
    guarded: Router,
    metrics: Arc<Metrics>,
    closing: &CancellationToken,
) -> Router {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(http.limits.idle);
    // The library would begin every stream with an event without data, which clients of before 2025-11-25 take for
    // broken JSON: Gemini CLI gives the server up over it.
    sessions.session_config.sse_retry = None;
    let allowed = Allowed::new(address, &http.hosts, &http.origins);
    let settings = StreamableHttpServerConfig::default()
        .with_allowed_hosts(allowed.hosts().to_vec())
        .with_allowed_origins(allowed.origins().to_vec())
        .enforce_origin_validation()
        .with_max_request_body_bytes(LONGEST_MESSAGE)
        .with_sse_retry(None)
        .with_cancellation_token(closing.clone());
    let service = StreamableHttpService::new(move || Ok(server()), Arc::new(sessions), settings);
    let guard = Arc::new(Guard {
        metrics,
        allowed,
        token: http.token.clone(),
        rate: RateLimiter::direct(
            Quota::per_second(http.rate).allow_burst(http.rate.saturating_mul(BURST)),
        ),
        under_way: Arc::new(Semaphore::new(UNDER_WAY)),
    });
    Router::new()
        .nest_service("/mcp", service)
        .merge(guarded)
        .route_layer(middleware::from_fn_with_state(guard, check))
}

/// Lets a request pass, or says why not.
async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let refused = |reason| guard.metrics.refused(reason);
    if guard.rate.check().is_err() {
        refused("rate");
        let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests a second");
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    }
    if let Err(why) = guard.allowed.check(request.headers()) {
        refused("origin");
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    if let Some(token) = &guard.token
        && !bears(request.headers(), token)
    {
        refused("token");
        let mut answer = refuse(
            StatusCode::UNAUTHORIZED,
            "send the header `Authorization: Bearer TOKEN`, with the token that the server was started with",
        );
        let headers = answer.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    let Ok(permit) = guard.under_way.clone().try_acquire_owned() else {
        refused("under_way");
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are under way",
        );
    };
    // A stream is under way until its end, which is long after its head.
    next.run(request).await.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _held = &permit;
            piece
        }))
    })
}

fn refuse(status: StatusCode, why: &'static str) -> Response {
    (status, format!("{why}\n")).into_response()
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, shown) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(shown.trim())
        });
    shown.is_some_and(|shown| shown.as_bytes().ct_eq(token.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_passes() {
        let bearing = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            bears(&headers, "secret")
        };
        assert!(bearing("Bearer secret"));
        assert!(bearing("bearer secret"));
        for wrong in [
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
        ] {
            assert!(!bearing(wrong), "{wrong}");
        }
        assert!(!bears(&HeaderMap::new(), "secret"));
    }

    #[tokio::test]
    async fn an_address_that_others_reach_needs_a_token() {
        let http = Http {
            address: "0.0.0.0:0".parse().unwrap(),
            token: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            rate: NonZeroU32::MIN,
            metrics: false,
            limits: Limits {
                sandboxes: 1,
                idle: std::time::Duration::from_secs(1),
            },
        };
        assert!(matches!(listen(http).await, Err(HttpError::Open(_))));
    }
}
