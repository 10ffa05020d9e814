//! Ports of the guest on this machine's loopback interface.
//!
//! A web page may have its name resolve to this machine ("rebinding") and then read what listens here. So a connection
//! that begins as HTTP must name this machine in its `Host`; all other protocols pass unchanged.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use snowglobe_init::streams::{OpenError, Reason, Refusal, Stream, pump, pump_after};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many ports may be open at once.
const MAX_PORTS: usize = 64;

/// How many connections one port has at once. Further ones wait to be taken.
const MAX_CONNECTIONS: usize = 128;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// How many lines a head may have.
const MAX_LINES: usize = 128;

/// What begins a request that a page can make.
const METHODS: [&str; 9] = [
    "GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "PATCH ", "OPTIONS ", "CONNECT ", "TRACE ",
];

/// How long a client may take for the head of its first request.
const HEAD: Duration = Duration::from_secs(30);

/// Within what time a request comes at once.
const AT_ONCE: Duration = Duration::from_millis(200);

/// How long to wait before looking again at a head that is not whole.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Connects to a port of the guest.
pub type Reach = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Stream, OpenError>> + Send + Sync>;

/// A port of the guest that is open on this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OpenPort {
    /// The guest's port.
    pub port: u16,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// A port of the guest: one on which a program listens, or that is open on this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// Whether a program listens there.
    pub listening: bool,
    /// The program, if the guest knows.
    pub program: Option<String>,
    /// Where it is reached on this machine, if it is open.
    pub address: Option<SocketAddr>,
}

/// Why a port was not opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The address can't be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It is open already, elsewhere.
    #[error("open port {port}: it is open already, at {at}; close it first")]
    Open {
        /// The guest's port.
        port: u16,
        /// Where it is reached.
        at: SocketAddr,
    },
    /// Too many are open.
    #[error("open port {0}: {MAX_PORTS} ports are open; close one first")]
    TooMany(u16),
}

/// The open ports of a sandbox. All are closed when this is dropped.
#[derive(Default)]
pub struct Ports(Mutex<BTreeMap<u16, (SocketAddr, Listening)>>);

struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ports").field(&self.list()).finish()
    }
}

impl Ports {
    /// Opens a port of the guest at `address`: by default on the loopback interface, with the same number if it is free.
    pub async fn open(
        &self,
        port: u16,
        address: Option<SocketAddr>,
        reach: Reach,
    ) -> Result<OpenPort, PortError> {
        if let Some(at) = self.find(port) {
            return match address {
                Some(wanted) if wanted != at => Err(PortError::Open { port, at }),
                _ => Ok(OpenPort { port, address: at }),
            };
        }
        let listener = listen(port, address).await?;
        let at = listener.local_addr().map_err(|source| PortError::Listen {
            address: address.unwrap_or_else(|| loopback(port)),
            source,
        })?;
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_PORTS {
            return Err(PortError::TooMany(port));
        }
        let task = Listening(tokio::spawn(serve(listener, port, reach)));
        open.insert(port, (at, task));
        Ok(OpenPort { port, address: at })
    }

    /// Closes a port and its connections. Gives whether it was open.
    pub fn close(&self, port: u16) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&port).is_some()
    }

    /// Closes all of them.
    pub fn close_all(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// All open ports.
    pub fn list(&self) -> Vec<OpenPort> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(port, (address, _)): (&u16, &(SocketAddr, Listening))| OpenPort {
            port: *port,
            address: *address,
        };
        open.iter().map(one).collect()
    }

    fn find(&self, port: u16) -> Option<SocketAddr> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&port).map(|(address, _)| *address)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Listens where it was asked for, or on the loopback interface with the same number, or with any.
async fn listen(port: u16, address: Option<SocketAddr>) -> Result<TcpListener, PortError> {
    let wanted = address.unwrap_or_else(|| loopback(port));
    match TcpListener::bind(wanted).await {
        Ok(listener) => Ok(listener),
        Err(_) if address.is_none() => {
            let any = loopback(0);
            let bound = TcpListener::bind(any).await;
            bound.map_err(|source| PortError::Listen {
                address: any,
                source,
            })
        }
        Err(source) => Err(PortError::Listen {
            address: wanted,
            source,
        }),
    }
}

async fn serve(listener: TcpListener, port: u16, reach: Reach) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task: closing a port ends its connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((tcp, _)) => {
                let reach = reach.clone();
                connections.spawn(async move {
                    if let Err(error) = carry(tcp, port, &reach).await {
                        tracing::debug!(%error, port, "a connection to the guest's port ended");
                    }
                    drop(place);
                });
            }
            // Too many descriptors are open: one is closed soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn carry(mut tcp: TcpStream, port: u16, reach: &Reach) -> io::Result<()> {
    // A page's request comes at once. In some protocols the server speaks first.
    let asked = tokio::time::timeout(AT_ONCE, tcp.peek(&mut [0]))
        .await
        .is_ok();
    if asked {
        let (mut reader, _) = tcp.split();
        if let Err(other) = names_this_machine(&mut reader).await {
            let text = format!("{other}\n");
            let length = text.len();
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
            );
            tcp.write_all(answer.as_bytes()).await?;
            return tcp.shutdown().await;
        }
    }
    match reach(port).await {
        Ok(stream) if asked => pump(tcp, stream).await,
        // A browser may connect long before it asks.
        Ok(stream) => {
            let look = async |tcp: &mut ReadHalf<'_>| {
                let named = names_this_machine(tcp).await;
                named.map_err(|other| Refusal::new(Reason::Denied, other.to_string()))
            };
            pump_after(tcp, stream, look).await;
        }
        Err(error) => {
            // As if nothing listened here.
            tcp.set_zero_linger()?;
            return Err(io::Error::other(error));
        }
    }
    Ok(())
}

/// Fails if the first request is HTTP, and names another machine than this one. Nothing is taken: the guest gets every
/// byte as it was sent.
async fn names_this_machine(tcp: &mut ReadHalf<'_>) -> io::Result<()> {
    let mut buffer = vec![0; MAX_HEAD];
    let mut deadline = None;
    let mut seen = 0;
    loop {
        let length = tcp.peek(&mut buffer).await?;
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + HEAD);
        match head(&buffer[..length]) {
            Some(Some(host)) if !is_this_machine(&host) => {
                let why = format!(
                    "this is a port of a sandbox; it is reached as localhost or by an address, not as {host:?}"
                );
                return Err(io::Error::other(why));
            }
            None | Some(Some(_)) => return Ok(()),
            Some(None) if length == 0 => return Ok(()),
            Some(None) if length == MAX_HEAD || Instant::now() > deadline => {
                return Err(io::Error::other(
                    "the request's head is too long, or takes too long",
                ));
            }
            // Looking returns at once as long as nothing new has come.
            Some(None) if length == seen => tokio::time::sleep(LOOK_AGAIN).await,
            Some(None) => seen = length,
        }
    }
}

/// The `Host` of a request; an inner none while its head is not whole; an outer none if this is no HTTP.
fn head(bytes: &[u8]) -> Option<Option<String>> {
    // Other protocols may begin with a word, too, and then wait for an answer.
    if !METHODS
        .iter()
        .any(|method| bytes.starts_with(method.as_bytes()))
    {
        return None;
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => Some(None),
        Ok(httparse::Status::Complete(_)) => {
            let mut hosts = request
                .headers
                .iter()
                .filter(|line| line.name.eq_ignore_ascii_case("host"));
            let host = hosts
                .next()
                .map(|line| String::from_utf8_lossy(line.value).into_owned());
            // Two of them would be read in different ways.
            Some(Some(match hosts.next() {
                None => host.unwrap_or_default(),
                Some(_) => "two hosts".to_owned(),
            }))
        }
        Err(_) => None,
    }
}

/// Whether a `Host` is this machine's: `localhost`, a name below it, or an address, which no page's name can become.
fn is_this_machine(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if !port.contains(']') => bare,
        _ => host,
    };
    let name = bare
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    // HTTP/1.0 has none.
    name.is_empty()
        || name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use snowglobe_init::streams::{self, Bounds, Side};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A guest in this process, whose ports are those of `server`.
    fn guest(server: SocketAddr) -> Reach {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let bounds = Bounds { streams: 64 };
        let (host, _unasked, host_served) = streams::over(ours, Side::Host, bounds);
        let (_guest, mut asked, guest_served) = streams::over(theirs, Side::Guest, bounds);
        tokio::spawn(host_served);
        tokio::spawn(guest_served);
        tokio::spawn(async move {
            while let Some(incoming) = asked.recv().await {
                tokio::spawn(async move {
                    let tcp = TcpStream::connect(server).await.unwrap();
                    pump(tcp, incoming.accept("")).await
                });
            }
        });
        Arc::new(move |_| {
            let host = host.clone();
            Box::pin(async move { host.open("reach").await.map(|(stream, _)| stream) })
        })
    }

    /// A server that sends `first` and then repeats what it gets.
    async fn echo(first: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    tcp.write_all(first).await.unwrap();
                    let (mut reader, mut writer) = tcp.split();
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                });
            }
        });
        address
    }

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn http_must_name_this_machine_and_other_protocols_pass() {
        let ports = Ports::default();
        let open = ports
            .open(8080, None, guest(echo(b"").await))
            .await
            .unwrap();
        for host in [
            "localhost",
            "LOCALHOST:99",
            "a.localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.7",
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(ask(open.address, &request).await, request);
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "x\r\nHost: localhost",
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = ask(open.address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        }
        for other in [
            "\x16\x03\x01 no HTTP",
            "GET / HTTP/1.0\r\n\r\n",
            "*1\r\n$4\r\nPING\r\n",
        ] {
            assert_eq!(ask(open.address, other).await, other);
        }
    }

    #[tokio::test]
    async fn a_server_may_speak_first_and_a_late_request_is_looked_at() {
        let ports = Ports::default();
        let open = ports
            .open(2200, None, guest(echo(b"hello\n").await))
            .await
            .unwrap();
        let mut tcp = TcpStream::connect(open.address).await.unwrap();
        let mut hello = [0; 6];
        tcp.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello\n");
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await
            .unwrap();
        let ended = tcp.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn ports_are_listed_and_closed_with_their_connections() {
        let ports = Ports::default();
        let reach = guest(echo(b"").await);
        let open = ports.open(3000, None, reach.clone()).await.unwrap();
        assert!(open.address.ip().is_loopback());
        // Opened again, it is the same one; elsewhere it is refused.
        assert_eq!(ports.open(3000, None, reach.clone()).await.unwrap(), open);
        let elsewhere = ports
            .open(3000, Some(SocketAddr::from(([127, 0, 0, 2], 0))), reach)
            .await;
        assert!(matches!(elsewhere, Err(PortError::Open { .. })));
        assert_eq!(ports.list(), std::slice::from_ref(&open));
        let mut tcp = TcpStream::connect(open.address).await.unwrap();
        tcp.write_all(b"x").await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'x');
        assert!(ports.close(3000) && !ports.close(3000));
        tcp.read_u8().await.unwrap_err();
        TcpStream::connect(open.address).await.unwrap_err();
    }
}
