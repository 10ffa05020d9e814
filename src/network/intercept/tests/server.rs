//! The servers of the tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::network::authority::Authority;
use crate::network::intercept::{H2, HTTP_1_1};
use crate::network::rules::Host;

/// The value that no guest may see.
pub(super) const VALUE: &str = "ghp_S3cretValue/0123456789+abcdef=";

/// The host that the secret is for.
pub(super) const HOST: &str = "api.example";

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// What a server is.
pub(super) enum Upstream {
    /// It speaks HTTP/2 and HTTP/1.1, whichever the client wants.
    Both,
    /// It speaks HTTP/1.1 without TLS.
    Plain,
    /// It has the certificate of another host.
    WrongName,
    /// It answers these bytes, with TLS, whatever it is asked.
    Bytes(&'static str),
    /// It accepts connections, and is silent.
    Silent,
    /// It serves this directory's repositories of git, to who knows the value.
    Git(std::path::PathBuf),
}

impl Upstream {
    pub(super) async fn start(self, authority: &Authority) -> SocketAddr {
        crate::web::use_ring();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = if matches!(self, Self::WrongName) {
            "other.example"
        } else {
            HOST
        };
        let leaf = authority.leaf(&Host::parse(name).unwrap()).unwrap();
        let resolver = Arc::new(SingleCertAndKey::from(leaf));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let kind = Arc::new(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(kind.clone(), stream, acceptor.clone()));
            }
        });
        address
    }
}

async fn serve(kind: Arc<Upstream>, stream: TcpStream, acceptor: TlsAcceptor) {
    if let Upstream::Silent = *kind {
        return std::future::pending().await;
    }
    let served = kind.clone();
    let service = service_fn(move |request| {
        let kind = served.clone();
        async move {
            Ok::<_, Infallible>(match &*kind {
                Upstream::Git(dir) => git(request, dir).await,
                _ => answer(request).await,
            })
        }
    });
    if let Upstream::Plain = *kind {
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .ok();
        return;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    if let Upstream::Bytes(bytes) = *kind {
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.ok();
        return;
    }
    if stream.get_ref().1.alpn_protocol() == Some(H2) {
        let executor = hyper_util::rt::TokioExecutor::new();
        http2::Builder::new(executor)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    } else {
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .ok();
    }
}

fn full(text: impl Into<Bytes>) -> Answer {
    Full::new(text.into()).boxed_unsync()
}

/// A body in pieces.
fn pieces(pieces: impl Iterator<Item = Frame<Bytes>> + Send + 'static) -> Answer {
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async move {
        tokio::task::yield_now().await;
        pieces.next().map(|piece| (Ok(piece), pieces))
    });
    StreamBody::new(stream).boxed_unsync()
}

async fn answer(mut request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    let sent = request
        .headers()
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default();
    let answer = Response::builder();
    let cut = |text: String, size: usize| {
        let all: Vec<Bytes> = text
            .as_bytes()
            .chunks(size)
            .map(Bytes::copy_from_slice)
            .collect();
        all.into_iter().map(Frame::data)
    };
    match path.as_str() {
        // With a length that was told.
        "/echo" => {
            let head = format!(
                "{} {}\n{:?}\n{sent}\n",
                request.method(),
                request.uri(),
                request.headers()
            );
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            answer.body(full([head.as_bytes(), &body].concat()))
        }
        "/stream" => answer.body(pieces(cut(format!("data: {sent}\n\n").repeat(3), 3))),
        "/long" => {
            let text = format!("{}{sent}{}", "x".repeat(100_000), "y".repeat(100_000));
            answer
                .header("content-length", text.len())
                .body(pieces(cut(text, 1000)))
        }
        "/header" => answer
            .header("x-echo", &sent)
            .header("set-cookie", format!("a={sent}"))
            .body(full("")),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-echo", sent.parse().unwrap());
            trailers.insert("x-sum", "1".parse().unwrap());
            let frames = cut("data".into(), 1).chain([Frame::trailers(trailers)]);
            answer
                .header("trailer", "x-echo, x-sum")
                .body(pieces(frames))
        }
        "/error" => answer
            .status(500)
            .body(full(format!("<p>bad token: {sent}</p>"))),
        "/unauthorized" => answer
            .status(401)
            .header("www-authenticate", format!("Bearer error=\"{sent}\""))
            .body(full(sent)),
        "/redirect" => answer
            .status(302)
            .header("location", format!("https://evil.example/?token={sent}"))
            .body(full("")),
        "/compressed" => answer
            .header("content-encoding", "gzip")
            .body(full("not really")),
        "/big" => answer.body(pieces(
            (0..64).map(|_| Frame::data(Bytes::from(vec![b'z'; 64 << 10]))),
        )),
        "/endless" => answer.body(pieces(std::iter::repeat_with(|| {
            Frame::data(Bytes::from(vec![b'z'; 64 << 10]))
        }))),
        "/upload" => {
            let body = request.into_body().collect().await.unwrap();
            let trailers = format!("{:?}", body.trailers());
            answer.body(full(format!("{} bytes, {trailers}", body.to_bytes().len())))
        }
        "/too-large" => answer.status(413).body(full("no")),
        "/range" => {
            let range = request
                .headers()
                .get("range")
                .map(|range| range.to_str().unwrap().to_owned());
            let of = |range: String| {
                range
                    .trim_start_matches("bytes=0-")
                    .parse::<usize>()
                    .unwrap()
            };
            let end = range
                .map_or(sent.len(), |range| of(range) + 1)
                .min(sent.len());
            answer
                .status(if end < sent.len() { 206 } else { 200 })
                .body(full(sent[..end].to_owned()))
        }
        "/never" => std::future::pending().await,
        "/socket" => {
            let headers = format!("{:?}", request.headers());
            let protocol = request.headers()["upgrade"].clone();
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                socket(TokioIo::new(upgraded.await.unwrap()), &sent, &headers).await
            });
            answer
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", protocol)
                .body(full(""))
        }
        "/none" => answer.status(StatusCode::NO_CONTENT).body(full("")),
        _ => answer.body(full("hello")),
    }
    .unwrap()
}

/// Tells everything that it knows, then says what it hears.
async fn socket(mut stream: impl AsyncRead + AsyncWrite + Unpin, sent: &str, headers: &str) {
    for piece in format!("{sent}\n{headers}\n").as_bytes().chunks(5) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut heard = vec![0; 1024];
    loop {
        let length = stream.read(&mut heard).await.unwrap_or(0);
        if length == 0 {
            stream.write_all(b"bye").await.ok();
            stream.shutdown().await.ok();
            return;
        }
        stream.write_all(&heard[..length]).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// `git http-backend`, for clients that know the value.
async fn git(request: Request<Incoming>, dir: &std::path::Path) -> Response<Answer> {
    use base64::Engine as _;
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("me:{VALUE}"));
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    if header("authorization") != format!("Basic {expected}") {
        let answer = Response::builder()
            .status(401)
            .header("www-authenticate", "Basic realm=\"git\"");
        return answer.body(full("who are you?")).unwrap();
    }
    let mut backend = tokio::process::Command::new("git");
    backend
        .args(["-c", "http.receivepack=true", "http-backend"])
        .env("GIT_PROJECT_ROOT", dir)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "me")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let has_body = *request.method() == Method::POST;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if has_body {
        backend.env("CONTENT_LENGTH", body.len().to_string());
    }
    let mut backend = backend.spawn().unwrap();
    let mut stdin = backend.stdin.take().unwrap();
    tokio::spawn(async move { stdin.write_all(&body).await });
    let output = backend.wait_with_output().await.unwrap().stdout;
    let end = memchr::memmem::find(&output, b"\r\n\r\n").unwrap();
    let mut answer = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name {
            "Status" => answer.status(&value[..3]),
            _ => answer.header(name, value),
        };
    }
    answer.body(full(output[end + 4..].to_vec())).unwrap()
}
