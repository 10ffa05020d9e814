//! Accepts connections over HTTP and serves the requests on them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::mcp::transport::bind::Listener;
use crate::mcp::transport::connections::{ConnectionLimits, Connections};

/// The longest head of a request, and the most that waits for a client besides what the system buffers, in bytes.
const BUFFER: usize = 64 << 10;

/// How long the server waits for a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// For the head of a request, since the start of the connection or the answer before it.
    pub(super) head: Duration,
    /// For each write of an answer: how long the client may read nothing.
    pub(super) write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            write: Duration::from_secs(60),
        }
    }
}

/// Serves connections until `closing` fires. Requests that are in progress then continue.
pub(super) async fn run(
    mut listener: Listener,
    router: Router,
    limits: ConnectionLimits,
    timeouts: Timeouts,
    closing: &CancellationToken,
) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_buf_size(BUFFER);
    let router = TowerToHyperService::new(router);
    let connections = Connections::new(limits);
    while let Some((stream, peer)) = closing.run_until_cancelled(listener.accept()).await {
        let connection = Arc::new(connections.enter(peer).await);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(timeouts.write));
        let (for_requests, router) = (connection.clone(), router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(for_requests.clone());
            router.call(request)
        });
        let served = server.serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::spawn(async move {
            match connection.close.run_until_cancelled(served).await {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "a connection broke"),
                None => tracing::debug!("a connection was closed to make room for another one"),
            }
        });
        // The new connection runs first, so its first request is seen before the next one is accepted.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::{Body, Bytes};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::checks::tests::checks;
    use super::super::checks::{RequestChecks, with_checks};
    use super::*;
    use crate::mcp::transport::bind::ListenAddress;

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
        limits: ConnectionLimits,
        timeouts: Timeouts,
        checks: RequestChecks,
    ) -> (SocketAddr, CancellationToken) {
        let listener = Listener::bind(&ListenAddress::Tcp(([127, 0, 0, 1], 0).into()))
            .await
            .unwrap();
        let Ok(ListenAddress::Tcp(address)) = listener.address() else {
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
        let router = with_checks(routes, Router::new(), Arc::new(checks));
        let closing = CancellationToken::new();
        let ended = closing.clone();
        tokio::spawn(async move { run(listener, router, limits, timeouts, &ended).await });
        (address, closing)
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        let ended = end.await.is_ok();
        assert_eq!(rest, b"", "it was closed without an answer");
        ended
    }

    #[tokio::test]
    async fn connections_without_requests_make_room() {
        let limits = ConnectionLimits {
            unauthenticated: 2,
            authenticated: 2,
            grace: Duration::ZERO,
        };
        let (address, _closing) = serve(limits, Timeouts::default(), checks(None, 100, 10)).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        for _ in 0..3 {
            assert!(get(address, "/").await.ends_with("here"));
        }
        assert!(is_closed(&mut silent).await);
        // Connections that were served are authenticated, so the second one still has its room.
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
    async fn a_missing_head_and_an_unread_answer_end_the_connection() {
        let timeouts = Timeouts {
            head: Duration::from_millis(300),
            write: Duration::from_millis(300),
        };
        let checks = checks(None, 100, 1);
        let active = checks.active.clone();
        let (address, _closing) = serve(ConnectionLimits::of_process(), timeouts, checks).await;
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
            "its answer is in progress"
        );
        // The client reads nothing more of it.
        let again = tokio::time::timeout(Duration::from_secs(20), active.acquire());
        assert!(again.await.is_ok(), "the request no longer counts");
    }
}
