//! The guest: what init does for the network, a network card, and a client that does what the host asks.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use snowglobe_init::link;
use snowglobe_init::network::Network;
use snowglobe_init::system::{self, netlink};
use snowglobe_init::wire::network::{BEGINNING, STREAMS_NAME};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::load::{self, Load, Measured};

/// Where the guest takes what the host asks.
pub(crate) const ASKED: u16 = 9;
/// Where the guest's own server is, for the raw link.
pub(crate) const OWN_SERVER: u16 = 7;
/// The name of the server outside, as the broker knows it.
pub(crate) const SERVER: &str = "server.bench:7000";
/// Where nothing listens.
pub(crate) const CLOSED: &str = "closed.bench:7000";
/// What no rule allows, of a name that is allowed.
pub(crate) const DENIED: &str = "server.bench:7001";

/// What the host asks for, a line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A load on connections to there.
    Measure(String, Load),
    /// Idle connections to there, until the next line.
    Hold(String, usize),
    /// To let them go.
    Release,
    /// A connection that is refused.
    Connect(String),
    /// How much memory is used.
    Used,
}

/// What the guest tells, a line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Told {
    Measured(Measured),
    Refused(Duration, String),
    /// In kB: of the guest, and of this process.
    Used(i64, i64),
    Done,
}

/// Runs as PID 1.
pub(crate) fn run() -> anyhow::Result<()> {
    system::mount_system()?;
    netlink::switch_on(1)?;
    std::fs::create_dir_all("/etc")?;
    std::fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    let card = std::fs::read_to_string("/sys/class/net/eth0/ifindex")?;
    let card = card.trim().parse()?;
    netlink::switch_on(card)?;
    netlink::add_address(card, IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)), 24)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let network = Arc::new(Network::default());
    tokio::spawn(network.clone().serve_resolver());
    tokio::spawn(load::serve(
        TcpListener::bind(("127.0.0.1", OWN_SERVER)).await?,
    ));
    tokio::spawn(answer(TcpListener::bind(("127.0.0.1", ASKED)).await?));
    let session = move |stream: Box<dyn link::Stream>| network.clone().serve(stream);
    link::serve_port(&link::find_port(STREAMS_NAME)?, BEGINNING, session).await?;
    Ok(())
}

async fn answer(listener: TcpListener) -> anyhow::Result<()> {
    let (tcp, _) = listener.accept().await?;
    let mut lines = BufReader::new(tcp).lines();
    let mut held = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let told = match serde_json::from_str(&line)? {
            Ask::Measure(to, load) => measure(to, load).await.map(Told::Measured),
            Ask::Hold(to, count) => hold(&to, count).await.map(|connections| {
                held = connections;
                Told::Done
            }),
            Ask::Release => {
                held.clear();
                Ok(Told::Done)
            }
            Ask::Connect(to) => {
                let began = Instant::now();
                Ok(match TcpStream::connect(&to).await {
                    Ok(_) => Told::Done,
                    Err(error) => Told::Refused(began.elapsed(), error.to_string()),
                })
            }
            Ask::Used => used(),
        };
        let told = match told {
            Ok(told) => serde_json::to_string(&told)?,
            Err(error) => format!("{error:?}"),
        };
        let tcp = lines.get_mut();
        tcp.write_all(format!("{told}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn measure(to: String, load: Load) -> anyhow::Result<Measured> {
    let mut found = tokio::net::lookup_host(to).await?;
    let address = found.next().context("the name has an address")?;
    let connect = move || async move {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    load::measure(connect, load).await
}

async fn hold(to: &str, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut tcp = TcpStream::connect(to).await?;
        load::echo(&mut tcp).await?;
        held.push(tcp);
    }
    Ok(held)
}

fn used() -> anyhow::Result<Told> {
    let of = |key| kilobytes("/proc/meminfo", key);
    let all = of("MemTotal:")? - of("MemAvailable:")?;
    Ok(Told::Used(all, kilobytes("/proc/self/status", "VmRSS:")?))
}

/// A number of kB in a file of the kernel's.
pub(crate) fn kilobytes(file: &str, key: &str) -> io::Result<i64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
