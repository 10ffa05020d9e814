//! The host's own proxy (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), behind which the broker connects.
//!
//! The proxy resolves names, so which address is reached is its decision; the broker still refuses names that the host
//! itself resolves to addresses of its own or of its neighbours.
//!
//! All ports go through `CONNECT`, also port 80, which some proxies refuse.

use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::rules::Host;

/// The host's proxies, and what is reached without them.
#[derive(Debug)]
pub struct Proxies(Matcher);

/// A proxy for one connection.
pub struct Proxy(Intercept);

/// What is wrong with a proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It is of a kind that the broker does not speak.
    #[error("use the host's proxy: `{0}://` is not `http://` or `socks5h://`")]
    Scheme(String),
    /// It has no address.
    #[error("use the host's proxy: it has no host")]
    NoHost,
    /// It refuses, or does not answer as a proxy does.
    #[error("connect through the host's proxy: {0}")]
    Tunnel(String),
}

impl Proxies {
    /// Those of the environment, as curl understands it.
    pub fn from_env() -> Self {
        Self(Matcher::from_env())
    }

    /// These, as in the environment's variables.
    pub fn new(http: &str, https: &str, no: &str) -> Self {
        Self(Matcher::builder().http(http).https(https).no(no).build())
    }

    /// The proxy for connections to this host and port, if there is one.
    pub fn find(&self, host: &Host, port: u16) -> Option<Proxy> {
        let scheme = if port == 80 { "http" } else { "https" };
        let uri: Uri = format!("{scheme}://{host}:{port}").parse().ok()?;
        self.0.intercept(&uri).map(Proxy)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Proxy {
    /// Where it is. Fails if the broker does not speak its protocol.
    pub fn host_and_port(&self) -> Result<(Host, u16), ProxyError> {
        let uri = self.0.uri();
        let default = match uri.scheme_str() {
            Some("http") | None => 80,
            Some("socks5" | "socks5h") => 1080,
            Some(other) => return Err(ProxyError::Scheme(other.to_owned())),
        };
        let host = uri.host().ok_or(ProxyError::NoHost)?;
        let host = Host::parse(host).map_err(|_| ProxyError::NoHost)?;
        Ok((host, uri.port_u16().unwrap_or(default)))
    }

    /// Has the proxy, which `connected` leads to, connect to a host.
    pub async fn tunnel(
        &self,
        connected: TcpStream,
        host: &Host,
        port: u16,
    ) -> Result<TcpStream, ProxyError> {
        let failed = |error: &dyn fmt::Display| ProxyError::Tunnel(error.to_string());
        let to: Uri = format!("https://{host}:{port}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| failed(&error))?;
        let (uri, connected) = (self.0.uri().clone(), Connected(Some(connected)));
        let tunnelled = match uri.scheme_str() {
            Some("socks5" | "socks5h") => {
                let mut socks = SocksV5::new(uri, connected);
                if let Some((user, password)) = self.0.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                socks.call(to).await.map_err(|error| failed(&error))?
            }
            _ => {
                let mut tunnel = Tunnel::new(uri, connected);
                if let Some(auth) = self.0.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(to).await.map_err(|error| failed(&error))?
            }
        };
        Ok(tunnelled.into_inner().0)
    }
}

/// A connector that has connected already.
struct Connected(Option<TcpStream>);

impl Service<Uri> for Connected {
    type Response = TokioIo<ByteByByte>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connected = self
            .0
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into());
        ready(connected.map(|stream| TokioIo::new(ByteByByte(stream))))
    }
}

/// Reads one byte at a time, so that nothing of what follows the proxy's answer is taken for a part of it: with some
/// protocols the server speaks first.
struct ByteByByte(TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut self.0).poll_read(context, &mut one);
        buffer.put_slice(one.filled());
        read
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
