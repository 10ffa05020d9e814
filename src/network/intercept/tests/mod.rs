//! Real clients, real servers with TLS, and between them a listener that stands in for the guest.

mod broker;
mod programs;
mod protocols;
mod red_team;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use ::http::{HeaderMap, Request, response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::key::KeySource;
use crate::network::rules::{Mode, Rules};
use crate::network::secrets::Secret;
use server::{HOST, Upstream, VALUE};

/// What is different from test to test.
struct Setup {
    /// `PORT` stands for the port of the guest's listener.
    allow: Vec<&'static str>,
    deny: Vec<&'static str>,
    limits: Limits,
    /// The host that the guest asked for.
    host: &'static str,
    /// Whether the host trusts the servers' authority.
    trusts: bool,
    /// Where the secret comes from.
    from: KeySource,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            allow: vec!["api.example:PORT"],
            deny: vec![],
            // A busy machine must not look like a silent server.
            limits: Limits {
                quiet: Duration::from_secs(60),
                ..Limits::default()
            },
            host: HOST,
            trusts: true,
            from: KeySource::Variable("TOKEN".to_owned()),
        }
    }
}

/// A sandbox's network, and the servers outside of it.
struct World {
    address: SocketAddr,
    authority: Arc<Authority>,
    holder: String,
    reports: Arc<Mutex<Vec<Requested>>>,
    ended: Arc<Mutex<Vec<Result<(), String>>>>,
    dir: TempDir,
}

/// What a client gets.
struct Got {
    head: response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Everything that the guest sees, in one text.
    fn all(&self) -> String {
        format!("{:?} {} {:?}", self.head, self.text(), self.trailers)
    }
}

fn roots(pem: &str) -> ClientConfig {
    crate::web::use_ring();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl World {
    async fn new(upstream: Upstream, setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(&dir.path().join("sandbox")).unwrap());
        let outside = Authority::open(&dir.path().join("world")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port().to_string();
        let secret = Secret {
            name: "TOKEN".to_owned(),
            from: setup.from,
            hosts: vec![format!("{HOST}:{port}"), format!("192.0.2.7:{port}")],
            header: "Authorization".to_owned(),
        };
        let secrets = Secrets::new(
            vec![secret],
            &authority,
            Arc::new(|_: &str| Some(VALUE.to_owned())),
        )
        .unwrap();
        let holder = secrets.variables().next().unwrap().1.to_owned();
        let lines = |lines: Vec<&str>| {
            lines
                .iter()
                .map(|line| line.replace("PORT", &port))
                .collect::<Vec<_>>()
        };
        let (allow, deny) = (lines(setup.allow), lines(setup.deny));
        let rules = Rules::new(
            Mode::List,
            allow.iter().map(String::as_str),
            deny.iter().map(String::as_str),
        )
        .unwrap();
        let (sender, rules) = watch::channel(Arc::new(rules));
        let tls = if setup.trusts {
            roots(outside.certificate())
        } else {
            roots(authority.certificate())
        };
        let interceptor = Arc::new(Interceptor::new(
            authority.clone(),
            Arc::new(secrets),
            tls,
            setup.limits,
        ));
        let to = Target {
            host: Host::parse(setup.host).unwrap(),
            port: address.port(),
            rules,
        };
        let server = upstream.start(&outside).await;
        let (reports, ended) = <(Arc<Mutex<Vec<Requested>>>, Arc<Mutex<Vec<_>>>)>::default();
        let (told, ends) = (reports.clone(), ended.clone());
        tokio::spawn(async move {
            let _rules = sender;
            loop {
                let (guest, _) = listener.accept().await.unwrap();
                let (interceptor, to, told, ends) =
                    (interceptor.clone(), to.clone(), told.clone(), ends.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let reporter: Reporter =
                        Arc::new(move |requested| told.lock().unwrap().push(requested));
                    let served = interceptor.serve(guest, server, to, reporter).await;
                    ends.lock()
                        .unwrap()
                        .push(served.map_err(|error| error.to_string()));
                });
            }
        });
        Self {
            address,
            authority,
            holder,
            reports,
            ended,
            dir,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.address.port())
    }

    /// The authority's certificate, as a file.
    fn ca(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("ca.pem");
        std::fs::write(&path, self.authority.certificate()).unwrap();
        path
    }

    /// A connection with TLS, with this server name.
    async fn tls(&self, name: &str, alpn: &[&[u8]]) -> io::Result<client::TlsStream<TcpStream>> {
        let mut config = roots(self.authority.certificate());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let connected = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name.to_owned()).unwrap(), connected)
            .await
    }

    /// What the guest gets for bytes that it writes by itself.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.tls(HOST, &[HTTP_1_1]).await.unwrap();
        told(
            &mut stream,
            &request.replace("PORT", &self.address.port().to_string()),
        )
        .await
    }

    /// A request over a new connection, with HTTP/1.1 or HTTP/2.
    async fn ask(&self, second: bool, request: Request<Full<Bytes>>) -> Got {
        let stream = self
            .tls(HOST, if second { &[H2, HTTP_1_1] } else { &[HTTP_1_1] })
            .await
            .unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let response = if chosen.as_deref() == Some(H2) {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = client2::handshake(executor, TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        Got {
            head,
            body: body.to_bytes(),
            trailers,
        }
    }

    /// A request for a path, with the placeholder in its header.
    async fn get(&self, second: bool, path: &str) -> Got {
        self.ask(
            second,
            self.request(second, path).body(Full::default()).unwrap(),
        )
        .await
    }

    fn request(&self, second: bool, path: &str) -> ::http::request::Builder {
        let uri = if second {
            self.url(path)
        } else {
            path.to_owned()
        };
        let host = format!("{HOST}:{}", self.address.port());
        let request = Request::builder()
            .uri(uri)
            .header("authorization", format!("Bearer {}", self.holder))
            .header("te", "trailers");
        if second {
            request
        } else {
            request.header("host", host)
        }
    }

    /// The reports, once there are so many.
    async fn reports(&self, count: usize) -> Vec<Requested> {
        for _ in 0..1000 {
            let reports = self.reports.lock().unwrap().clone();
            if reports.len() >= count {
                return reports;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.reports.lock().unwrap());
    }

    /// How the first connection ended.
    async fn end(&self) -> Result<(), String> {
        for _ in 0..1000 {
            if let Some(ended) = self.ended.lock().unwrap().first() {
                return ended.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the connection does not end");
    }
}

/// Writes a text, and reads until the end.
async fn told(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // An end without a goodbye is an end.
    timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .expect("the connection ends")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}
