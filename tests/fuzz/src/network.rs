//! Whatever a guest sends over the streams, the host ends them or answers; it connects only what is allowed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use snowglobe::network::broker::{Broker, Deadlines, Settings};
use snowglobe::network::outside::Outside;
use snowglobe::network::rules::{Mode, Rules};
use snowglobe_init::streams::{self, Bounds, Ended, Side};
use snowglobe_init::wire::network::{FromGuest, FromHost};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The name that is allowed, and its address.
const NAME: &str = "allowed.test";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);

#[derive(Debug, Arbitrary)]
enum Act {
    /// Bytes of any kind.
    Raw(Vec<u8>),
    /// A frame: its stream, its kind, its body.
    Frame(u8, u8, Vec<u8>),
    /// The guest's next stream, to the allowed name on one of these ports.
    Connect(u8),
    /// The guest's next stream, with a request for this host.
    ConnectTo(String, u16),
    /// The guest's next stream, with a question.
    Resolve(String),
    /// Data, several times.
    Data(u8, Vec<u8>, u8),
    /// The host asks the guest for a stream.
    Reach,
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("there is a runtime")
});

/// Every connection goes to a server of the test's own, which takes all bytes and answers some.
struct Server(SocketAddr);

impl Outside for Server {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let known = name == NAME;
        async move {
            match known {
                true => Ok(vec![ADDRESS.into()]),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        }
        .boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        assert_eq!(to.ip(), IpAddr::from(ADDRESS), "it is not allowed");
        TcpStream::connect(self.0).boxed()
    }

    fn own(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

pub(crate) fn play(bytes: &[u8]) {
    let Some(acts) = crate::made::<Vec<Act>>(bytes) else {
        return;
    };
    RUNTIME.block_on(async {
        let played = tokio::time::timeout(Duration::from_secs(10), run(acts));
        played.await.expect("it ends");
    });
}

async fn run(acts: Vec<Act>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    let serving = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            tasks.spawn(async move {
                tcp.write_all(&[22, 3, 3, 0, 50, 2]).await.ok();
                tcp.read_to_end(&mut Vec::new()).await.ok();
            });
        }
    });
    let settings = Settings {
        outside: Box::new(Server(address)),
        deadlines: Deadlines {
            first: Duration::from_millis(50),
            ..Deadlines::default()
        },
        ..Settings::default()
    };
    let allowed = ["allowed.test:22", "allowed.test:80", "allowed.test:443"];
    let rules = Rules::new(Mode::List, allowed, []).expect("they are rules");
    let broker = Arc::new(Broker::new(settings, Arc::new(rules)));
    let (ours, theirs) = tokio::io::duplex(4096);
    let (opener, asked, served) = streams::over(ours, Side::Host, Bounds { streams: 16 });
    let answering = tokio::spawn(broker.clone().serve(asked));
    let served = tokio::spawn(served);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let reading = tokio::spawn(async move {
        let mut piece = [0; 4096];
        while reader.read(&mut piece).await.is_ok_and(|length| length > 0) {}
    });
    let mut next = 1;
    for act in acts {
        if let Act::Reach = act {
            let opener = opener.clone();
            tokio::spawn(async move {
                let request =
                    serde_json::to_vec(&FromHost::Reach { port: 1 }).expect("it is a request");
                opener.open(request).await.map(drop)
            });
            continue;
        }
        let bytes = bytes(act, &mut next);
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    tokio::task::yield_now().await;
    writer.shutdown().await.ok();
    drop(opener);
    match served.await.expect("it does not panic") {
        Ok(()) | Err(Ended::Violation(_) | Ended::Io(_)) => {}
    }
    answering.await.expect("it does not panic");
    assert_eq!(broker.counts().open, 0, "nothing stays open");
    reading.abort();
    serving.abort();
}

fn bytes(act: Act, next: &mut u32) -> Vec<u8> {
    let mut open = |ask: FromGuest| {
        let id = *next;
        *next += 2;
        frame(id, 1, &serde_json::to_vec(&ask).expect("it is a request"))
    };
    match act {
        Act::Raw(bytes) => bytes,
        Act::Frame(id, kind, body) => frame(id.into(), kind, &body),
        Act::Connect(port) => open(FromGuest::Connect {
            host: NAME.into(),
            port: [22, 80, 443][usize::from(port % 3)],
            by: None,
        }),
        Act::ConnectTo(host, port) => open(FromGuest::Connect {
            host,
            port,
            by: None,
        }),
        Act::Resolve(name) => open(FromGuest::Resolve { name, by: None }),
        Act::Data(id, body, times) => frame(id.into(), 3, &body).repeat(usize::from(times) + 1),
        Act::Reach => Vec::new(),
    }
}

fn frame(id: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut frame = id.to_be_bytes().to_vec();
    frame.extend([kind, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    frame
}
