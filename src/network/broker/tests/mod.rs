//! The broker with a guest's end of the streams and servers on loopback. Names, addresses and the ways to them are the
//! test's own.

mod bounds;
mod connections;
mod first_bytes;
mod hellos;
mod names;
mod proxies;
mod rules;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use snowglobe_init::streams::{self, OpenError, Reason, Refusal, Side, Stream, Streams};
use snowglobe_init::wire::network::{FromGuest, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::rules::Mode;
use super::*;

/// A public address.
const PUBLIC: &str = "151.101.0.1";

/// How long the tests wait for what must happen.
const SOON: Duration = Duration::from_secs(120);

/// A network of the test's own.
#[derive(Debug, Default)]
struct Pretended {
    /// What a name resolves to, the next time and later; the last answer stays.
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    /// Where the way to an address leads in truth.
    ways: Mutex<HashMap<SocketAddr, SocketAddr>>,
    own: Vec<IpAddr>,
    /// Names that were looked up, and addresses that were connected to.
    looked_up: Mutex<Vec<String>>,
    connected: Mutex<Vec<SocketAddr>>,
}

/// The way to a server that resets a connection as soon as it is made, which its client learns when it connects.
const RESETS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

#[derive(Debug, Clone, Default)]
struct World(Arc<Pretended>);

impl Outside for World {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.0.looked_up.lock().unwrap().push(name.to_owned());
        let mut names = self.0.names.lock().unwrap();
        let answer = match names.get_mut(name) {
            Some(answers) if answers.len() > 1 => Ok(answers.remove(0)),
            Some(answers) => Ok(answers[0].clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let silent = name.starts_with("silent.");
        Box::pin(async move {
            if silent {
                std::future::pending::<()>().await;
            }
            answer
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self.0.connected.lock().unwrap().push(to);
        let way = self.0.ways.lock().unwrap().get(&to).copied();
        let to = way.or(to.ip().is_loopback().then_some(to));
        Box::pin(async move {
            match to {
                Some(RESETS) => Err(io::ErrorKind::ConnectionReset.into()),
                Some(to) => TcpStream::connect(to).await,
                None => std::future::pending().await,
            }
        })
    }

    fn own(&self) -> io::Result<Vec<IpAddr>> {
        Ok(self.0.own.clone())
    }
}

impl World {
    /// A name with addresses, one lookup after another.
    fn name(&self, name: &str, answers: &[&[&str]]) {
        let parsed = |answer: &&[&str]| answer.iter().map(|at| at.parse().unwrap()).collect();
        self.0
            .names
            .lock()
            .unwrap()
            .insert(name.into(), answers.iter().map(parsed).collect());
    }

    /// What really listens at an address.
    fn way(&self, at: &str, to: SocketAddr) {
        self.0.ways.lock().unwrap().insert(at.parse().unwrap(), to);
    }

    fn connected(&self) -> Vec<String> {
        self.0
            .connected
            .lock()
            .unwrap()
            .iter()
            .map(SocketAddr::to_string)
            .collect()
    }
}

/// Settings with deadlines that a busy machine does not miss.
fn settings() -> Settings {
    let deadlines = Deadlines {
        resolve: SOON,
        connect: SOON,
        first: SOON,
    };
    Settings {
        deadlines,
        ..Settings::default()
    }
}

/// A guest, its broker and the broker's world.
struct Net {
    broker: Arc<Broker>,
    guest: Streams,
    world: World,
}

fn rules(mode: Mode, allow: &[&str], deny: &[&str]) -> Arc<Rules> {
    Arc::new(Rules::new(mode, allow.iter().copied(), deny.iter().copied()).unwrap())
}

impl Net {
    fn new(settings: Settings, rules: Arc<Rules>) -> Self {
        Self::with(World::default(), settings, rules)
    }

    fn with(world: World, settings: Settings, rules: Arc<Rules>) -> Self {
        let settings = Settings {
            outside: Box::new(world.clone()),
            ..settings
        };
        Self::over(world, settings, rules)
    }

    /// A network that uses the outside of the settings.
    fn over(world: World, settings: Settings, rules: Arc<Rules>) -> Self {
        let broker = Arc::new(Broker::new(settings, rules));
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let bounds = streams::Bounds { streams: 256 };
        let (host, asked, host_served) = streams::over(ours, Side::Host, bounds);
        let (guest, _unasked, guest_served) = streams::over(theirs, Side::Guest, bounds);
        tokio::spawn(async move {
            let _host = host;
            host_served.await
        });
        tokio::spawn(guest_served);
        tokio::spawn(broker.clone().serve(asked));
        Self {
            broker,
            guest,
            world,
        }
    }

    /// A network where these names are at [`PUBLIC`], which leads to `server` on each of the ports.
    fn to(server: SocketAddr, names: &[&str], ports: &[u16]) -> Self {
        let allow: Vec<String> = names
            .iter()
            .flat_map(|name| ports.iter().map(move |port| format!("{name}:{port}")))
            .collect();
        let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
        let net = Self::new(settings(), rules(Mode::List, &allow, &[]));
        names
            .iter()
            .for_each(|name| net.world.name(name, &[&[PUBLIC]]));
        ports
            .iter()
            .for_each(|port| net.world.way(&format!("{PUBLIC}:{port}"), server));
        net
    }

    async fn ask(&self, request: &FromGuest) -> Result<Stream, Refusal> {
        let opened = self.guest.open(serde_json::to_vec(request).unwrap());
        match tokio::time::timeout(SOON, opened).await.unwrap() {
            Ok((stream, answer)) => {
                assert!(answer.is_empty());
                Ok(stream)
            }
            Err(OpenError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Stream, Refusal> {
        let by = Some(Program {
            pid: 41,
            name: "pip".into(),
            command: "pip\u{1b} download x".into(),
        });
        self.ask(&FromGuest::Connect {
            host: host.into(),
            port,
            by,
        })
        .await
    }

    async fn refused(&self, host: &str, port: u16) -> Refusal {
        match self.connect(host, port).await {
            Err(refusal) => refusal,
            Ok(_) => panic!("{host}:{port} was connected"),
        }
    }

    async fn resolve(&self, name: &str) -> Result<(), Refusal> {
        self.ask(&FromGuest::Resolve {
            name: name.into(),
            by: None,
        })
        .await
        .map(drop)
    }
}

/// A server that serves each connection with `serve`.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(connection));
        }
    });
    at
}

/// A server that sends back everything, and ends when the client does.
async fn echo() -> SocketAddr {
    server(|mut connection| async move {
        let (mut reader, mut writer) = connection.split();
        tokio::io::copy(&mut reader, &mut writer).await.ok();
    })
    .await
}

/// Sends bytes, ends, and gives all that comes back, or how the stream was reset.
async fn exchange(mut stream: Stream, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let exchanged = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        Ok(got)
    };
    tokio::time::timeout(SOON, exchanged)
        .await
        .unwrap()
        .map_err(|error: io::Error| reset(&error))
}

/// How a stream was reset.
fn reset(error: &io::Error) -> Refusal {
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    error
        .get_ref()
        .unwrap()
        .downcast_ref::<Refusal>()
        .unwrap()
        .clone()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "{what}");
}
