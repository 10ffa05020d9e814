//! Connections whose requests are looked at: those for which rules name methods and paths, and those to which secrets go.
//!
//! The host stands between the guest and the server. Towards the guest it is the server, with a certificate of the
//! [sandbox's authority](super::authority); towards the server it is a client that verifies the server's certificate as
//! the rest of Snowglobe does. Both sides speak the protocol that the server chooses, HTTP/1.1 or HTTP/2, so that one
//! connection of the guest stays one connection to the server. Without TLS it is HTTP/1.1, and no secret is put in.
//!
//! For each request the server name of TLS, the host of the request and the name of the connection must be the same one;
//! else the guest is told so (421) and its connection ends. The rules decide on each request (403). What follows after an
//! upgrade, such as WebSocket, is carried as it is, with secrets hidden; other forms of HTTP can't be upgraded to.
//! What the host says itself (`100 Continue` excepted) are answers of plain text; other informational answers of servers
//! stay behind.
//!
//! Everything of a connection ends with the future that [serves](Interceptor::serve) it.

mod answer;
mod body;
mod error;
mod exchange;
mod head;
mod inspect;
mod report;
mod response;
mod target;
mod tasks;
#[cfg(test)]
mod tests;
mod tunnel;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authority::Authority;
use super::rules::Host;
use super::secrets::Secrets;
use exchange::{Exchange, Server};
use tasks::Tasks;

pub use error::InterceptError;
pub use report::{Outcome, Reporter, Requested};
pub use target::{Limits, Target};

/// The most bytes of the headers of a request or an answer.
const MAX_HEAD: usize = 64 << 10;

/// The most headers of a request or an answer.
const MAX_HEADERS: usize = 200;

/// Requests of one connection of HTTP/2 at a time.
const MAX_STREAMS: u32 = 100;

/// How much of one stream of HTTP/2, and of all streams of a connection, may wait for its reader, in bytes.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// How much of one stream of HTTP/2 may wait to be sent, in bytes.
const MAX_UNSENT: usize = 64 << 10;

/// The first byte of TLS.
const HANDSHAKE: u8 = 22;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What a connection consists of.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// Looks at the requests of a sandbox's connections.
pub struct Interceptor {
    authority: Arc<Authority>,
    secrets: Arc<Secrets>,
    tls: ClientConfig,
    limits: Limits,
}

impl fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptor")
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

impl Interceptor {
    /// For the sandbox with this authority and these secrets. `tls` says which servers are trusted: see
    /// [`crate::web::tls`].
    pub(crate) fn new(
        authority: Arc<Authority>,
        secrets: Arc<Secrets>,
        tls: ClientConfig,
        limits: Limits,
    ) -> Self {
        Self {
            authority,
            secrets,
            tls,
            limits,
        }
    }

    /// Serves a connection of the guest to its end. `server` is connected to the host that the guest asked for, and
    /// nothing was sent to either of them. Each request is reported when it has ended.
    pub async fn serve(
        &self,
        guest: impl Transport,
        server: impl Transport,
        to: Target,
        reporter: Reporter,
    ) -> Result<(), InterceptError> {
        let mut guest = BufReader::new(guest);
        let first = match timeout(self.limits.handshake, guest.fill_buf()).await {
            Ok(first) => first?.first().copied(),
            Err(_) => return Err(self.slow("begun to speak")),
        };
        let (tasks, _end_with_this) = Tasks::new();
        match first {
            None => Ok(()),
            Some(HANDSHAKE) => self.secure(guest, server, to, reporter, &tasks).await,
            Some(_) => {
                let (ending, exchange) = self.exchange(to, false, reporter);
                let exchange = self.first(server, exchange, &tasks).await;
                self.requests(guest, exchange, false, ending, &tasks).await
            }
        }
    }

    fn slow(&self, what: &'static str) -> InterceptError {
        InterceptError::Slow {
            what,
            seconds: self.limits.handshake.as_secs(),
        }
    }

    /// A connection with TLS.
    async fn secure(
        &self,
        guest: impl Transport,
        server: impl Transport,
        to: Target,
        reporter: Reporter,
        tasks: &Tasks,
    ) -> Result<(), InterceptError> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), guest);
        let hello = timeout(self.limits.handshake, hello)
            .await
            .map_err(|_| self.slow("sent a ClientHello"))?;
        let hello = hello.map_err(InterceptError::Handshake)?;
        check_name(&to.host, hello.client_hello().server_name())?;
        let offered: Vec<Vec<u8>> = hello
            .client_hello()
            .alpn()
            .into_iter()
            .flatten()
            .map(<[u8]>::to_vec)
            .collect();
        let known = offered
            .into_iter()
            .filter(|name| [H2, HTTP_1_1].contains(&name.as_slice()))
            .collect();
        let server = self.connect(server, &to.host, known).await;
        let second = server
            .as_ref()
            .is_ok_and(|server| server.get_ref().1.alpn_protocol() == Some(H2));
        let config = self.towards_guest(&to.host, second)?;
        let guest = timeout(self.limits.handshake, hello.into_stream(Arc::new(config)));
        let guest = guest
            .await
            .map_err(|_| self.slow("finished the handshake"))?
            .map_err(InterceptError::Handshake)?;
        let (ending, exchange) = self.exchange(to, true, reporter);
        let exchange = match server {
            Err(why) => Exchange {
                server: Server::Unreachable(why),
                ..exchange
            },
            Ok(server) if second => self.second(server, exchange, tasks).await,
            Ok(server) => self.first(server, exchange, tasks).await,
        };
        self.requests(guest, exchange, second, ending, tasks).await
    }

    /// TLS with the server; what is wrong if there is none.
    async fn connect<S: Transport>(
        &self,
        server: S,
        host: &Host,
        offered: Vec<Vec<u8>>,
    ) -> Result<client::TlsStream<S>, String> {
        let mut config = self.tls.clone();
        config.alpn_protocols = offered;
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|error| error.to_string())?
            }
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        let connected = TlsConnector::from(Arc::new(config)).connect(name, server);
        match timeout(self.limits.handshake, connected).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(format!(
                "the host can't agree on TLS with the server: {error}"
            )),
            Err(_) => Err(format!(
                "the server does not agree on TLS within {} s",
                self.limits.handshake.as_secs()
            )),
        }
    }

    fn towards_guest(&self, host: &Host, second: bool) -> Result<ServerConfig, InterceptError> {
        let leaf = self.authority.leaf(host)?;
        let mut config = ServerConfig::builder_with_provider(self.tls.crypto_provider().clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = vec![if second { H2 } else { HTTP_1_1 }.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn exchange(
        &self,
        to: Target,
        secure: bool,
        reporter: Reporter,
    ) -> (CancellationToken, Exchange) {
        let ending = CancellationToken::new();
        let exchange = Exchange {
            to,
            secure,
            server: Server::Unreachable("it is not connected".to_owned()),
            secrets: self.secrets.clone(),
            limits: self.limits,
            reporter,
            ending: ending.clone(),
            server_gone: Arc::default(),
            upgrading: Arc::default(),
            tunnels: TaskTracker::new(),
        };
        (ending, exchange)
    }

    /// HTTP/1.1 with the server.
    async fn first(
        &self,
        server: impl Transport,
        mut exchange: Exchange,
        tasks: &Tasks,
    ) -> Exchange {
        let mut builder = client1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        exchange.server = match builder.handshake(TokioIo::new(server)).await {
            Ok((sender, connection)) => {
                tasks.spawn(watched(connection.with_upgrades(), &exchange));
                Server::First(sender.into())
            }
            Err(error) => Server::Unreachable(error.to_string()),
        };
        exchange
    }

    /// HTTP/2 with the server.
    async fn second(
        &self,
        server: impl Transport,
        mut exchange: Exchange,
        tasks: &Tasks,
    ) -> Exchange {
        let mut builder = client2::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_UNSENT);
        exchange.server = match builder.handshake(TokioIo::new(server)).await {
            Ok((sender, connection)) => {
                tasks.spawn(watched(connection, &exchange));
                Server::Second(sender)
            }
            Err(error) => Server::Unreachable(error.to_string()),
        };
        exchange
    }

    /// Serves the guest's requests.
    async fn requests(
        &self,
        guest: impl Transport,
        exchange: Exchange,
        second: bool,
        ending: CancellationToken,
        tasks: &Tasks,
    ) -> Result<(), InterceptError> {
        let tunnels = exchange.tunnels.clone();
        let exchange = Arc::new(exchange);
        let service = service_fn(move |request| exchange.clone().serve(request));
        let guest = TokioIo::new(guest);
        macro_rules! serve {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = ending.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }};
        }
        let ended = if second {
            let mut builder = http2::Builder::new(tasks.clone());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .max_send_buf_size(MAX_UNSENT);
            serve!(builder.serve_connection(guest, service))
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.head)
                .half_close(true)
                .max_buf_size(MAX_HEAD)
                .max_headers(MAX_HEADERS);
            serve!(builder.serve_connection(guest, service).with_upgrades())
        };
        tunnels.close();
        tunnels.wait().await;
        Ok(ended?)
    }
}

/// The server's connection, which ends the guest's one when it ends.
fn watched(
    connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static,
    exchange: &Exchange,
) -> impl Future<Output = ()> + Send + 'static {
    let (ending, gone, upgrading) = (
        exchange.ending.clone(),
        exchange.server_gone.clone(),
        exchange.upgrading.clone(),
    );
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the server's connection has ended");
        }
        gone.store(true, SeqCst);
        if !upgrading.load(SeqCst) {
            ending.cancel();
        }
    }
}

/// Whether TLS asks for the connection's host. Addresses are no server names.
fn check_name(host: &Host, asked: Option<&str>) -> Result<(), InterceptError> {
    let agrees = match host {
        Host::Name(name) => asked.is_some_and(|asked| asked.eq_ignore_ascii_case(name)),
        Host::Address(_) => asked.is_none(),
    };
    match agrees {
        true => Ok(()),
        false => Err(InterceptError::ServerName {
            host: host.to_string(),
            asked: asked.unwrap_or("no name").to_owned(),
        }),
    }
}
