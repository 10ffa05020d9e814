//! MCP over HTTP: streamable at `/mcp`, as older clients speak it at `/sse`; `/healthz` says that the server runs,
//! `/metrics`, where asked for, how it is doing.
//!
//! What a request must pass, in this order: Host and Origin ([`origin`]), the rate, the bearer token, the bound on
//! requests under way; then the library's own checks of the same, of length and headers. A browser's preflight is
//! answered after the first of these; refusals say to an allowed page's browser that the page may see them. The token
//! is compared in constant time. An address that others can reach needs one. TLS is left to a proxy.
//!
//! Before all of that, connections are bounded ([`Bounds`]): those that ask for nothing make room after a while.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::LONGEST_MESSAGE;
use super::desk::{Desk, Limits, Pool};
use super::metrics::Metrics;
use super::origin::{self, Allowed};
use super::server::{Server, Shared};
use super::sessions::Sessions;
use super::{post, sse};
use crate::config::Config;

/// How many seconds' worth of requests are taken at once.
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("it is not 0");

/// How many requests may be under way, streams that stay open included.
const UNDER_WAY: usize = 256;

/// What connections may take, whoever they are.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How many there may be; the next ones wait until one ends.
    connections: usize,
    /// Within which time a request's head must have come, from the connection's start or the answer before it.
    head_within: Duration,
}

impl Default for Bounds {
    /// Twice as many as requests may be under way, and below the 1,024 files that systems allow a process.
    fn default() -> Self {
        Self {
            connections: 2 * UNDER_WAY,
            head_within: Duration::from_secs(30),
        }
    }
}

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
    /// What is to be an origin is none.
    #[error("let web pages call (--allow-origin): {0}")]
    Origin(String),
    /// The address can't be listened on.
    #[error("listen on {address}: is something else there? Choose another with --http")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
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
    allowed: Arc<Allowed>,
    token: Option<String>,
    rate: DefaultDirectRateLimiter,
    under_way: Arc<Semaphore>,
}

/// Starts to listen.
pub async fn listen(mut http: Http) -> Result<Listening, HttpError> {
    if http.token.is_none() && !http.address.ip().is_loopback() {
        return Err(HttpError::Open(http.address));
    }
    let origins = http.origins.iter().map(|text| origin::parse(text));
    http.origins = origins
        .collect::<Result<_, _>>()
        .map_err(HttpError::Origin)?;
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
    pub async fn serve(self, config: Config, closing: CancellationToken) {
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
        let healthy = Router::new().route("/healthz", health);
        let router = router(&self.http, self.address, server, guarded, metrics, &closing)
            .merge(healthy.layer(origin::cors(self.allowed())));
        run(self.listener, router, Bounds::default(), &closing).await;
        pool.stop().await;
    }

    fn allowed(&self) -> Arc<Allowed> {
        let (hosts, origins) = (&self.http.hosts, &self.http.origins);
        Arc::new(Allowed::new(self.address, hosts, origins))
    }

    /// Serves any handler's answers behind the same checks, until `closing` fires.
    pub async fn serve_with<S: ServerHandler>(
        self,
        server: impl Fn() -> S + Send + Sync + 'static,
        closing: CancellationToken,
    ) {
        let metrics = Arc::new(Metrics::new());
        let router = router(
            &self.http,
            self.address,
            server,
            Router::new(),
            metrics,
            &closing,
        );
        run(self.listener, router, Bounds::default(), &closing).await;
    }
}

/// Takes connections until `closing` fires; what they ask for then goes on.
async fn run(
    mut listener: TcpListener,
    router: Router,
    bounds: Bounds,
    closing: &CancellationToken,
) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_within);
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(bounds.connections));
    let mut next = async || {
        let held = room.clone().acquire_owned().await;
        // Where the system has no room it waits and tries again.
        (held, Listener::accept(&mut listener).await.0)
    };
    while let Some((held, stream)) = closing.run_until_cancelled(next()).await {
        // An answer's head and body are two writes: the second must not wait until the first is acknowledged.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
        let connection = server.serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            let _held = held;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
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
    let allowed = Arc::new(Allowed::new(address, &http.hosts, &http.origins));
    let settings = StreamableHttpServerConfig::default()
        .with_allowed_hosts(allowed.hosts().to_vec())
        .with_allowed_origins(allowed.origins().to_vec())
        .enforce_origin_validation()
        .with_max_request_body_bytes(LONGEST_MESSAGE)
        .with_sse_retry(None)
        .with_cancellation_token(closing.clone());
    let sessions = Arc::new(Sessions::new(http.limits.kept()));
    let service = StreamableHttpService::new(move || Ok(server()), sessions, settings);
    let guard = Arc::new(Guard {
        metrics,
        allowed,
        token: http.token.clone(),
        rate: limiter(http.rate),
        under_way: Arc::new(Semaphore::new(UNDER_WAY)),
    });
    let mcp = Router::new()
        .nest_service("/mcp", service)
        .route_layer(middleware::from_fn(post::serve));
    behind(mcp.merge(guarded), guard)
}

/// Puts the checks before routes. What is not there is said to anybody whose Host and Origin are right.
fn behind(routes: Router, guard: Arc<Guard>) -> Router {
    let nothing = async || {
        (
            StatusCode::NOT_FOUND,
            "there is nothing here: MCP is at /mcp\n",
        )
    };
    routes
        .route_layer(middleware::from_fn_with_state(guard.clone(), check))
        .fallback(nothing)
        .layer(origin::cors(guard.allowed.clone()))
        .layer(middleware::from_fn_with_state(guard, admit))
}

fn limiter(rate: NonZeroU32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST)))
}

/// Lets a request pass that names this server and comes from no page that may not call.
async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    if let Err(why) = guard.allowed.check(request.headers()) {
        guard.metrics.refused("origin");
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let method = request.method().clone();
    origin::name_headers(&method, request.headers_mut());
    next.run(request).await
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
    use std::time::Instant;

    use axum::body::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::ServiceExt as _;

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

    fn on(address: &str) -> Http {
        Http {
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
        let listened = listen(on("0.0.0.0:0")).await;
        assert!(matches!(listened, Err(HttpError::Open(_))));
    }

    /// One request's answer, head and body, on a connection of its own.
    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn connections_that_ask_for_nothing_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let bounds = Bounds {
            connections: 2,
            head_within: Duration::from_millis(300),
        };
        let closing = CancellationToken::new();
        let ended = closing.clone();
        let server = tokio::spawn(async move { run(listener, router, bounds, &ended).await });
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        let began = Instant::now();
        assert!(get(address, "/").await.ends_with("here"));
        assert!(
            began.elapsed() >= bounds.head_within / 2,
            "it waited until there was room: {:?}",
            began.elapsed()
        );
        for held in [&mut silent, &mut slow] {
            let mut rest = Vec::new();
            held.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"", "it was closed without a word");
        }
        closing.cancel();
        server.await.unwrap();
    }

    /// The checks before routes of a test's own.
    fn guarded(routes: Router, token: Option<&str>, rate: u32, under_way: usize) -> Router {
        let guard = Guard {
            metrics: Arc::new(Metrics::new()),
            allowed: Arc::new(Allowed::new(
                "127.0.0.1:1".parse().unwrap(),
                &[],
                &["https://app.example".to_owned()],
            )),
            token: token.map(str::to_owned),
            rate: limiter(NonZeroU32::new(rate).unwrap()),
            under_way: Arc::new(Semaphore::new(under_way)),
        };
        behind(routes, Arc::new(guard))
    }

    async fn answer(router: &Router, path: &str) -> Response {
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, "127.0.0.1:1");
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn more_requests_than_the_rate_allows_are_told_to_come_later() {
        let router = guarded(
            Router::new().route("/", axum::routing::get(async || "here")),
            None,
            1,
            1,
        );
        for _ in 0..BURST.get() {
            assert_eq!(answer(&router, "/").await.status(), StatusCode::OK);
        }
        let refused = answer(&router, "/").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn a_stream_is_under_way_until_its_end() {
        let endless = async || Body::from_stream(tokio_stream::pending::<std::io::Result<Bytes>>());
        let routes = Router::new()
            .route("/endless", axum::routing::get(endless))
            .route("/", axum::routing::get(async || "here"));
        let router = guarded(routes, None, 100, 1);
        let stream = answer(&router, "/endless").await;
        assert_eq!(stream.status(), StatusCode::OK);
        let refused = answer(&router, "/").await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(stream);
        assert_eq!(answer(&router, "/").await.status(), StatusCode::OK);
    }

    /// Asks as the browser of a page of `origin` does.
    async fn page(router: &Router, method: &str, path: &str, origin: &str) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:1")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header("access-control-request-private-network", "true");
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_page_that_may_call_sees_every_answer_and_another_none() {
        let here = axum::routing::get(async || [("mcp-session-id", "x")]);
        let router = guarded(Router::new().route("/mcp", here), Some("secret"), 1, 1);
        let asked = page(&router, "OPTIONS", "/mcp", "https://app.example").await;
        assert_eq!(asked.status(), StatusCode::OK, "a preflight needs no token");
        let says = |answer: &Response, name: &str| {
            let value = answer.headers().get(name);
            value
                .map(|value| value.to_str().unwrap().to_lowercase())
                .unwrap_or_default()
        };
        let allows = |name: &str| says(&asked, &format!("access-control-allow-{name}"));
        assert_eq!(allows("origin"), "https://app.example");
        assert_eq!(allows("private-network"), "true");
        for method in ["get", "post", "delete", "options"] {
            assert!(allows("methods").contains(method), "{}", allows("methods"));
        }
        for name in [
            "authorization",
            "content-type",
            "mcp-session-id",
            "mcp-protocol-version",
        ] {
            assert!(allows("headers").contains(name), "{}", allows("headers"));
        }
        assert_eq!(says(&asked, "access-control-max-age"), "7200");
        assert!(says(&asked, "vary").contains("origin"));
        // The first is refused for its token, the others in the end for their number.
        let mut statuses = Vec::new();
        for path in ["/mcp", "/nowhere", "/mcp", "/mcp", "/mcp", "/mcp", "/mcp"] {
            let answer = page(&router, "GET", path, "https://app.example").await;
            assert_eq!(
                says(&answer, "access-control-allow-origin"),
                "https://app.example"
            );
            assert!(says(&answer, "access-control-expose-headers").contains("mcp-session-id"));
            statuses.push(answer.status().as_u16());
        }
        assert_eq!(statuses, [401, 404, 401, 401, 401, 401, 429]);
        for method in ["OPTIONS", "GET"] {
            let answer = page(&router, method, "/mcp", "https://evil.example").await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
            assert_eq!(says(&answer, "access-control-allow-origin"), "");
            assert_eq!(says(&answer, "access-control-allow-methods"), "");
        }
    }
}
