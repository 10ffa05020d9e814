//! The checks that every request over HTTP must pass.
//!
//! In this order: Host and Origin ([`origin`]), for every request; then the bearer token, or the budget of the peer
//! ([`peers`](super::super::peers)). A request without the token gets `/healthz` and refusals, and uses up nothing of
//! requests with it: the rate, the limit of requests in progress and the memory for bodies are for these alone. Refusals
//! tell an allowed page's browser that the page may see them. The token is compared in constant time.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::options::HttpOptions;
use crate::mcp::metrics::Metrics;
use crate::mcp::transport::bind::ListenAddress;
use crate::mcp::transport::body::BodyReader;
use crate::mcp::transport::connections::Connection;
use crate::mcp::transport::origin::{self, AllowList};
use crate::mcp::transport::peers::Budgets;
use crate::mcp::transport::reply::{hold_until_sent, refuse};

/// How many seconds' worth of requests are accepted at once.
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("it is not 0");

/// How many requests may be in progress, open streams included.
const MAX_ACTIVE: usize = 256;

/// What the checks need.
pub(super) struct RequestChecks {
    metrics: Arc<Metrics>,
    pub(super) allowed: Arc<AllowList>,
    token: Option<String>,
    /// For requests with the token.
    rate: DefaultDirectRateLimiter,
    pub(super) active: Arc<Semaphore>,
    bodies: Arc<BodyReader>,
    /// For all other requests.
    budgets: Budgets,
}

/// Marks a request that has the token, or needs none.
#[derive(Debug, Clone, Copy)]
struct Authenticated;

impl RequestChecks {
    pub(super) fn new(
        options: &HttpOptions,
        address: &ListenAddress,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            metrics,
            allowed: Arc::new(AllowList::new(address, &options.hosts, &options.origins)),
            token: options.token.clone(),
            rate: limiter(options.rate),
            active: Arc::new(Semaphore::new(MAX_ACTIVE)),
            bodies: Arc::default(),
            budgets: Budgets::default(),
        }
    }
}

/// Puts the checks before routes; those of `open` need no token, and neither does the answer that a path does not exist.
pub(super) fn with_checks(guarded: Router, open: Router, checks: Arc<RequestChecks>) -> Router {
    let not_found = async || {
        (
            StatusCode::NOT_FOUND,
            "there is nothing at this path: MCP is at /mcp\n",
        )
    };
    guarded
        .route_layer(middleware::from_fn_with_state(
            checks.clone(),
            require_token,
        ))
        .merge(open)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(checks.clone(), authenticate))
        .layer(origin::cors(checks.allowed.clone()))
        .layer(middleware::from_fn_with_state(checks, check_origin))
}

fn limiter(rate: NonZeroU32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST)))
}

/// Refuses a request with a foreign Host, or from a web page that may not call.
async fn check_origin(
    State(checks): State<Arc<RequestChecks>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(why) = checks.allowed.check(request.headers()) {
        checks.metrics.refused("origin");
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let method = request.method().clone();
    origin::add_client_headers(&method, request.headers_mut());
    next.run(request).await
}

/// Checks the token. A request without it counts against the budget of its peer.
async fn authenticate(
    State(checks): State<Arc<RequestChecks>>,
    mut request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let authenticated = match &checks.token {
        Some(token) => has_token(request.headers(), token),
        None => true,
    };
    if !authenticated {
        let peer = connection.map(|connection| connection.peer);
        return match checks.budgets.spend(peer) {
            true => next.run(request).await,
            false => then_close(checks.too_many()),
        };
    }
    let active = match connection.as_ref().map(Connection::begin_request) {
        Some(None) => {
            checks.metrics.refused("connections");
            let why = "too many connections have requests in progress";
            return then_close(refuse(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        Some(active) => active,
        None => None,
    };
    request.extensions_mut().insert(Authenticated);
    hold_until_sent(next.run(request).await, active)
}

/// Refuses a request without the token, and one that comes too fast.
async fn require_token(
    State(checks): State<Arc<RequestChecks>>,
    mut request: Request,
    next: Next,
) -> Response {
    let refused = |reason| checks.metrics.refused(reason);
    if request.extensions().get::<Authenticated>().is_none() {
        refused("token");
        let mut answer = refuse(
            StatusCode::UNAUTHORIZED,
            "send the header `Authorization: Bearer TOKEN`, with the token that the server was started with",
        );
        let headers = answer.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    if checks.rate.check().is_err() {
        return checks.too_many();
    }
    let Ok(permit) = checks.active.clone().try_acquire_owned() else {
        refused("active");
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are in progress",
        );
    };
    request.extensions_mut().insert(checks.bodies.clone());
    hold_until_sent(next.run(request).await, permit)
}

/// Closes the connection after this answer.
fn then_close(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

impl RequestChecks {
    fn too_many(&self) -> Response {
        self.metrics.refused("rate");
        let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests a second");
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }
}

/// Whether the headers have the bearer token.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
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
pub(super) mod tests {
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::super::tests::options;
    use super::*;

    #[test]
    fn only_the_exact_token_passes() {
        let passes = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            has_token(&headers, "secret")
        };
        assert!(passes("Bearer secret"));
        assert!(passes("bearer secret"));
        for wrong in [
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
        ] {
            assert!(!passes(wrong), "{wrong}");
        }
        assert!(!has_token(&HeaderMap::new(), "secret"));
    }

    pub(in crate::mcp::transport::http) fn checks(
        token: Option<&str>,
        rate: u32,
        active: usize,
    ) -> RequestChecks {
        let number = |number| NonZeroU32::new(number).unwrap();
        let mut http = options("127.0.0.1:1");
        http.token = token.map(str::to_owned);
        http.rate = number(rate);
        http.origins = vec!["https://app.example".to_owned()];
        RequestChecks {
            active: Arc::new(Semaphore::new(active)),
            budgets: Budgets::new(number(1), number(6)),
            ..RequestChecks::new(&http, &http.address, Arc::new(Metrics::new()))
        }
    }

    /// The checks before routes of a test's own.
    fn guarded(routes: Router, token: Option<&str>, rate: u32, active: usize) -> Router {
        let open = Router::new().route("/healthz", get(async || "ok"));
        with_checks(routes, open, Arc::new(checks(token, rate, active)))
    }

    async fn answer(router: &Router, path: &str) -> Response {
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, "127.0.0.1:1");
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn requests_beyond_the_rate_are_refused_for_now() {
        let router = guarded(Router::new().route("/", get(async || "here")), None, 1, 1);
        for _ in 0..BURST.get() {
            assert_eq!(answer(&router, "/").await.status(), StatusCode::OK);
        }
        let refused = answer(&router, "/").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn who_has_no_token_takes_nothing_from_those_that_have_it() {
        let here = Router::new().route("/", get(async || "here"));
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
    async fn a_stream_is_active_until_its_end() {
        let endless = async || Body::from_stream(tokio_stream::pending::<std::io::Result<Bytes>>());
        let routes = Router::new()
            .route("/endless", get(endless))
            .route("/", get(async || "here"));
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
        let here = get(async || [("mcp-session-id", "x")]);
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
        // Without the token they are refused; in the end they are too many.
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
