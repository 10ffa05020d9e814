//! MCP over HTTP: streamable at `/mcp`, as older clients speak it at `/sse`; `/healthz` says that the server runs,
//! `/metrics`, where asked for, how it is doing.
//!
//! What a request must pass, in this order: Host and Origin ([`origin`]), everywhere; then it has the bearer token, or
//! a place in its peer's budget ([`peers`]). What comes without the token sees `/healthz` and refusals, and takes
//! nothing from those that have it: the rate, the bound on requests under way and the room for bodies ([`intake`]) are
//! theirs alone. Then come the library's own checks of length and headers. A browser's preflight is answered after
//! the first of these; refusals say to an allowed page's browser that the page may see them. The token is compared in
//! constant time. An address that others can reach needs one. TLS is left to a proxy.
//!
//! Connections are bounded, too, strangers' apart from those on which the token was shown. One that asks for nothing,
//! or that does not take what it asked for, is closed after a while ([`Patience`]).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::mcp::metrics::Metrics;
use crate::mcp::sandboxes::{Desk, Limits, Pool};
use crate::mcp::server::{Server, Shared};
use crate::mcp::sessions::Sessions;
use crate::mcp::transport::LONGEST_MESSAGE;
use crate::mcp::transport::bind::{At, Bound};
use crate::mcp::transport::intake::Intake;
use crate::mcp::transport::origin::{self, Allowed};
use crate::mcp::transport::peers::{self, Budgets, Connection, Connections};
use crate::mcp::transport::post;
use crate::mcp::transport::sse;

/// How many seconds' worth of requests are taken at once.
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("it is not 0");

/// How many requests may be under way, streams that stay open included.
const UNDER_WAY: usize = 256;

/// The longest head of a request, in bytes, and the most that waits for a client beside what the system holds.
const BUFFER: usize = 64 << 10;

/// How long a connection is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Within which time a request's head must have come, from the connection's start or the answer before it.
    head_within: Duration,
    /// How long a client may take nothing of an answer.
    taking_within: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head_within: Duration::from_secs(30),
            taking_within: Duration::from_secs(60),
        }
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub address: At,
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
    Open(At),
    /// What is to be an origin is none.
    #[error("let web pages call (--allow-origin): {0}")]
    Origin(String),
    /// The address can't be listened on.
    #[error("listen on {address}: is something else there? Choose another with --http")]
    Listen {
        /// The address.
        address: At,
        /// Why not.
        source: std::io::Error,
    },
}

/// A server that listens.
pub struct Listening {
    bound: Bound,
    http: Http,
    /// Where it listens.
    pub address: At,
}

struct Guard {
    metrics: Arc<Metrics>,
    allowed: Arc<Allowed>,
    token: Option<String>,
    /// Of those that have the token.
    rate: DefaultDirectRateLimiter,
    under_way: Arc<Semaphore>,
    intake: Arc<Intake>,
    /// Of all others.
    budgets: Budgets,
}

/// Marks a request that has the token, or needs none.
#[derive(Debug, Clone, Copy)]
struct Trusted;

/// Starts to listen.
pub async fn listen(mut http: Http) -> Result<Listening, HttpError> {
    if http.token.is_none() && !http.address.is_local() {
        return Err(HttpError::Open(http.address));
    }
    let origins = http.origins.iter().map(|text| origin::parse(text));
    http.origins = origins
        .collect::<Result<_, _>>()
        .map_err(HttpError::Origin)?;
    let failed = |source| HttpError::Listen {
        address: http.address.clone(),
        source,
    };
    let bound = Bound::to(&http.address).await.map_err(failed)?;
    let address = bound.at().map_err(failed)?;
    Ok(Listening {
        bound,
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
                let kind = [(header::CONTENT_TYPE, crate::mcp::metrics::MEDIA_TYPE)];
                (kind, metrics.text(pool.count()))
            };
            guarded = guarded.route("/metrics", get(text));
        }
        let of_health = pool.clone();
        let health = get(move || async move { format!("ok\nsandboxes {}\n", of_health.count()) });
        let open = Router::new().route("/healthz", health);
        let of_sessions = pool.clone();
        let server = move || Server::new(shared.clone(), Desk::many(of_sessions.clone()), None);
        let guard = Guard::new(&self.http, &self.address, metrics);
        let mcp = mcp(server, &guard.allowed, self.http.limits, &closing);
        let router = behind(mcp.merge(guarded), open, Arc::new(guard));
        run(
            self.bound,
            router,
            peers::Bounds::of_process(),
            Patience::default(),
            &closing,
        )
        .await;
        pool.stop().await;
    }

    /// Serves any handler's answers behind the same checks, until `closing` fires.
    pub async fn serve_with<S: ServerHandler>(
        self,
        server: impl Fn() -> S + Send + Sync + 'static,
        closing: CancellationToken,
    ) {
        let guard = Guard::new(&self.http, &self.address, Arc::new(Metrics::new()));
        let mcp = mcp(server, &guard.allowed, self.http.limits, &closing);
        let router = behind(mcp, Router::new(), Arc::new(guard));
        run(
            self.bound,
            router,
            peers::Bounds::of_process(),
            Patience::default(),
            &closing,
        )
        .await;
    }
}

/// Takes connections until `closing` fires; what they ask for then goes on.
async fn run(
    mut bound: Bound,
    router: Router,
    bounds: peers::Bounds,
    patience: Patience,
    closing: &CancellationToken,
) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head_within)
        .max_buf_size(BUFFER);
    let router = TowerToHyperService::new(router);
    let connections = Connections::new(bounds);
    while let Some((stream, peer)) = closing.run_until_cancelled(bound.accept()).await {
        let connection = Arc::new(connections.enter(peer).await);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(patience.taking_within));
        let (of_requests, router) = (connection.clone(), router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(of_requests.clone());
            router.call(request)
        });
        let served = server.serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::spawn(async move {
            match connection.close.run_until_cancelled(served).await {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "a connection broke"),
                None => tracing::debug!("a connection made room for another"),
            }
        });
        // Who came now asks before the next one comes in.
        tokio::task::yield_now().await;
    }
}

impl Guard {
    fn new(http: &Http, address: &At, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            allowed: Arc::new(Allowed::new(address, &http.hosts, &http.origins)),
            token: http.token.clone(),
            rate: limiter(http.rate),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            intake: Arc::default(),
            budgets: Budgets::default(),
        }
    }
}

/// The library's service of `/mcp`.
fn mcp<S: ServerHandler>(
    server: impl Fn() -> S + Send + Sync + 'static,
    allowed: &Allowed,
    limits: Limits,
    closing: &CancellationToken,
) -> Router {
    let settings = StreamableHttpServerConfig::default()
        .with_allowed_hosts(allowed.hosts().to_vec())
        .with_allowed_origins(allowed.origins().to_vec())
        .enforce_origin_validation()
        .with_max_request_body_bytes(LONGEST_MESSAGE)
        .with_sse_retry(None)
        .with_cancellation_token(closing.clone());
    let sessions = Arc::new(Sessions::new(limits.kept()));
    let service = StreamableHttpService::new(move || Ok(server()), sessions, settings);
    Router::new()
        .nest_service("/mcp", service)
        .route_layer(middleware::from_fn(post::serve))
}

/// Puts the checks before routes; those that are `open` need no token. What is not there is said to anybody whose
/// Host and Origin are right.
fn behind(guarded: Router, open: Router, guard: Arc<Guard>) -> Router {
    let nothing = async || {
        (
            StatusCode::NOT_FOUND,
            "there is nothing here: MCP is at /mcp\n",
        )
    };
    guarded
        .route_layer(middleware::from_fn_with_state(guard.clone(), check))
        .merge(open)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(guard.clone(), tell_apart))
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

/// Tells whether a request has the token. One that has none comes out of its peer's budget.
async fn tell_apart(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let trusted = match &guard.token {
        Some(token) => bears(request.headers(), token),
        None => true,
    };
    if !trusted {
        let peer = connection.map(|connection| connection.peer);
        return match guard.budgets.spend(peer) {
            true => next.run(request).await,
            false => closing(guard.too_many()),
        };
    }
    let busy = match connection.as_ref().map(Connection::passed) {
        Some(None) => {
            guard.metrics.refused("connections");
            let why = "too many connections are at work";
            return closing(refuse(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        Some(busy) => busy,
        None => None,
    };
    request.extensions_mut().insert(Trusted);
    holding(next.run(request).await, busy)
}

/// Lets a request pass that has the token, or says why not.
async fn check(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let refused = |reason| guard.metrics.refused(reason);
    if request.extensions().get::<Trusted>().is_none() {
        refused("token");
        let mut answer = refuse(
            StatusCode::UNAUTHORIZED,
            "send the header `Authorization: Bearer TOKEN`, with the token that the server was started with",
        );
        let headers = answer.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    if guard.rate.check().is_err() {
        return guard.too_many();
    }
    let Ok(permit) = guard.under_way.clone().try_acquire_owned() else {
        refused("under_way");
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are under way",
        );
    };
    request.extensions_mut().insert(guard.intake.clone());
    holding(next.run(request).await, permit)
}

/// Holds something until the end of an answer: a stream is under way until then, which is long after its head.
pub(crate) fn holding<T: Send + 'static>(mut answer: Response, held: T) -> Response {
    // As a stream it no longer shows how long it is.
    if let Some(length) = answer
        .body()
        .size_hint()
        .exact()
        .filter(|length| *length > 0)
    {
        answer
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _held = &held;
            piece
        }))
    })
}

/// Has the connection closed after this answer.
fn closing(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

impl Guard {
    fn too_many(&self) -> Response {
        self.metrics.refused("rate");
        let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests a second");
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }
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
    use std::net::SocketAddr;

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

    /// A server of `/`, and its address.
    async fn serve(
        bounds: peers::Bounds,
        patience: Patience,
        guard: Guard,
    ) -> (SocketAddr, CancellationToken) {
        let bound = Bound::to(&At::Tcp(([127, 0, 0, 1], 0).into()))
            .await
            .unwrap();
        let Ok(At::Tcp(address)) = bound.at() else {
            panic!("it is an address");
        };
        let endless = async || {
            Body::from_stream(tokio_stream::iter(std::iter::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[0; 4096]))
            })))
        };
        let routes = Router::new()
            .route("/", axum::routing::get(async || "here"))
            .route("/endless", axum::routing::get(endless));
        let router = behind(routes, Router::new(), Arc::new(guard));
        let closing = CancellationToken::new();
        let ended = closing.clone();
        tokio::spawn(async move { run(bound, router, bounds, patience, &ended).await });
        (address, closing)
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        let ended = end.await.is_ok();
        assert_eq!(rest, b"", "it was closed without a word");
        ended
    }

    #[tokio::test]
    async fn connections_that_ask_for_nothing_make_room() {
        let bounds = peers::Bounds {
            strangers: 2,
            known: 2,
            grace: Duration::ZERO,
        };
        let (address, _closing) = serve(bounds, Patience::default(), guard(None, 100, 10)).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        for _ in 0..3 {
            assert!(get(address, "/").await.ends_with("here"));
        }
        assert!(is_closed(&mut silent).await);
        // Those that are served don't stay strangers, so the second one still has its place.
        let mut another = TcpStream::connect(address).await.unwrap();
        let mut last = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut slow).await);
        for stream in [&mut another, &mut last] {
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("here"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_and_an_answer_that_is_not_taken_end_the_connection() {
        let patience = Patience {
            head_within: Duration::from_millis(300),
            taking_within: Duration::from_millis(300),
        };
        let of_test = guard(None, 100, 1);
        let under_way = of_test.under_way.clone();
        let (address, _closing) = serve(peers::Bounds::of_process(), patience, of_test).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut silent).await);
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy
            .write_all(b"GET /endless HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 1];
        greedy.read_exact(&mut first).await.unwrap();
        assert!(
            get(address, "/").await.contains("503"),
            "its answer is under way"
        );
        // It takes nothing more of it.
        let again = tokio::time::timeout(Duration::from_secs(20), under_way.acquire());
        assert!(again.await.is_ok(), "its place is free again");
    }

    fn guard(token: Option<&str>, rate: u32, under_way: usize) -> Guard {
        let number = |number| NonZeroU32::new(number).unwrap();
        let mut http = on("127.0.0.1:1");
        http.token = token.map(str::to_owned);
        http.rate = number(rate);
        http.origins = vec!["https://app.example".to_owned()];
        Guard {
            under_way: Arc::new(Semaphore::new(under_way)),
            budgets: Budgets::new(number(1), number(6)),
            ..Guard::new(&http, &http.address, Arc::new(Metrics::new()))
        }
    }

    /// The checks before routes of a test's own.
    fn guarded(routes: Router, token: Option<&str>, rate: u32, under_way: usize) -> Router {
        let open = Router::new().route("/healthz", axum::routing::get(async || "ok"));
        behind(routes, open, Arc::new(guard(token, rate, under_way)))
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
    async fn who_has_no_token_takes_nothing_from_those_that_have_it() {
        let here = Router::new().route("/", axum::routing::get(async || "here"));
        let router = guarded(here, Some("secret"), 10, 1);
        let ask = async |path: &str, host: &str, token: Option<&str>| {
            let mut request = Request::builder().uri(path).header(header::HOST, host);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = router
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            answer.status().as_u16()
        };
        let host = "127.0.0.1:1";
        let mut refused = Vec::new();
        for path in [
            "/", "/healthz", "/nowhere", "/", "/", "/", "/", "/healthz", "/nowhere",
        ] {
            refused.push(ask(path, host, Some("wrong")).await);
        }
        assert_eq!(refused, [401, 200, 404, 401, 401, 401, 429, 429, 429]);
        for _ in 0..20 {
            assert_eq!(ask("/", host, Some("secret")).await, 200);
            assert_eq!(ask("/healthz", host, Some("secret")).await, 200);
        }
        for path in ["/", "/healthz", "/nowhere"] {
            assert_eq!(
                ask(path, "evil.example", Some("secret")).await,
                403,
                "{path}"
            );
        }
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
