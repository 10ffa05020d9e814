//! Connections to anywhere, brought to the host: the TUN device, the listeners, the table of flows.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::AddressFamily;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::dns::{self, Answer, Question};
use super::flows::{Action, Flows, OWN_V4, OWN_V6};
use super::packet::{self, Unreachable};
use super::{Network, program};
use crate::streams::{OpenError, Reason, Stream, pump};
use crate::system::netlink;
use crate::wire::network::FromGuest;

/// The device's name.
const DEVICE: &str = "snowglobe0";

/// The largest packet: what IPv4 allows, rounded down.
const MTU: u16 = 65_520;

/// How many packets wait in the device. With the kernel's 500 a crowd of connections loses some.
const QUEUE: u32 = 10_000;

/// How many connections wait to be taken. They are accepted at once, but many begin at once.
const BACKLOG: u32 = 4096;

/// How often flows that have ended are forgotten while there are no packets.
const SWEEP: Duration = Duration::from_secs(10);

/// How many questions to other resolvers are answered at once; further ones are lost, as in any network.
const QUESTIONS: usize = 64;

/// What happened to a flow, and what the resolver answers.
enum Report {
    Connected(u16),
    Refused(u16, Option<Unreachable>),
    Taken(u16),
    Ended(u16),
    Packet(Vec<u8>),
}

/// The streams of flows that the kernel has not taken yet.
type Waiting = Arc<Mutex<HashMap<u16, Stream>>>;

/// Starts it: from now on, the device is the default route.
pub(super) async fn start(network: Arc<Network>) -> io::Result<()> {
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MTU)
        .ipv4(OWN_V4, 32, None)
        .with(|builder| {
            builder.tx_queue_len(QUEUE);
        })
        .build_async()?;
    let index = device.if_index()?;
    // A kernel without IPv6 has no connections of it.
    let v6 = netlink::add_address(index, OWN_V6.into(), 128).is_ok();
    let v4_listener = listen(SocketAddr::from((OWN_V4, 0)))?;
    let v6_listener = match v6 {
        true => Some(listen(SocketAddr::from((OWN_V6, 0)))?),
        false => None,
    };
    let port = |listener: &TcpListener| listener.local_addr().map_or(0, |own| own.port());
    let ports = (port(&v4_listener), v6_listener.as_ref().map_or(0, port));
    netlink::add_default_route(index, AddressFamily::INET)?;
    if v6_listener.is_some() {
        netlink::add_default_route(index, AddressFamily::INET6)?;
    }
    let (reports, received) = mpsc::unbounded_channel();
    let waiting = Waiting::default();
    for listener in [Some(v4_listener), v6_listener].into_iter().flatten() {
        tokio::spawn(accept(listener, waiting.clone(), reports.clone()));
    }
    let carrier = Carrier {
        network,
        questions: Arc::new(Semaphore::new(QUESTIONS)),
        waiting,
        reports,
    };
    tokio::spawn(carry(device, Flows::new(ports), carrier, received));
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections that the kernel has finished, and copies each to its stream.
async fn accept(listener: TcpListener, waiting: Waiting, reports: mpsc::UnboundedSender<Report>) {
    loop {
        let Ok((tcp, peer)) = listener.accept().await else {
            // Too many descriptors are open: one is closed soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let flow = peer.port();
        let mut streams = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = streams.remove(&flow) else {
            continue;
        };
        drop(streams);
        let reports = reports.clone();
        reports.send(Report::Taken(flow)).ok();
        tokio::spawn(async move {
            // How it ended is seen at both ends.
            pump(tcp, stream).await;
            reports.send(Report::Ended(flow)).ok();
        });
    }
}

/// What the packets need besides the table.
struct Carrier {
    network: Arc<Network>,
    questions: Arc<Semaphore>,
    waiting: Waiting,
    reports: mpsc::UnboundedSender<Report>,
}

/// Carries packets for as long as the machine runs.
async fn carry(
    device: AsyncDevice,
    mut flows: Flows,
    carrier: Carrier,
    mut received: mpsc::UnboundedReceiver<Report>,
) {
    let mut buffer = vec![0; usize::from(u16::MAX) + 1];
    let mut sweeps = tokio::time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answer = tokio::select! {
            biased;
            Some(report) = received.recv() => match report {
                Report::Connected(flow) => flows.connected(flow),
                Report::Refused(flow, why) => flows.refused(flow, why),
                Report::Taken(flow) => {
                    flows.taken(flow);
                    None
                }
                Report::Ended(flow) => {
                    flows.ended(flow, Instant::now());
                    None
                }
                Report::Packet(packet) => Some(packet),
            },
            // Without packets nothing else forgets them.
            _ = sweeps.tick(), if !flows.is_empty() => {
                flows.sweep(Instant::now());
                None
            }
            length = device.recv(&mut buffer) => {
                let Ok(length) = length else { return };
                let packet = &mut buffer[..length];
                match flows.packet(packet, Instant::now()) {
                    Action::Drop => None,
                    Action::Write => {
                        // Best effort, as any network: the kernel sends a lost segment again.
                        device.send(packet).await.ok();
                        None
                    }
                    Action::Answer(answer) => Some(answer),
                    Action::Connect { flow, from, to } => {
                        carrier.connect(flow, from, to);
                        None
                    }
                    Action::Resolve { from, to, payload } => {
                        carrier.resolve(&packet[payload..], from, to);
                        None
                    }
                }
            }
        };
        if let Some(answer) = answer.filter(|answer| !answer.is_empty()) {
            device.send(&answer).await.ok();
        }
        carrier.drop_streams(flows.forgotten());
    }
}

impl Carrier {
    /// Asks the host for a connection.
    fn connect(&self, flow: u16, from: SocketAddr, to: SocketAddr) {
        let (network, waiting) = (self.network.clone(), self.waiting.clone());
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let ask = FromGuest::Connect {
                host: network.target(to),
                port: to.port(),
                by: program::of_connection(from, to),
            };
            let report = match network.open(&ask).await {
                Ok(stream) => {
                    let mut streams = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    streams.insert(flow, stream);
                    Report::Connected(flow)
                }
                Err(error) => Report::Refused(flow, unreachable(&error)),
            };
            reports.send(report).ok();
        });
    }

    /// Lets go of the streams of flows that the kernel never took: the host sees a reset.
    fn drop_streams(&self, flows: Vec<u16>) {
        if !flows.is_empty() {
            let mut streams = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            flows.iter().for_each(|flow| drop(streams.remove(flow)));
        }
    }

    /// Answers a question that was asked of another resolver.
    fn resolve(&self, question: &[u8], from: SocketAddr, to: SocketAddr) {
        let Some(question) = Question::parse(question) else {
            if let Some(answer) = dns::not_supported(question) {
                let packet = packet::datagram(to, from, &answer);
                self.reports.send(Report::Packet(packet)).ok();
            }
            return;
        };
        let Ok(place) = self.questions.clone().try_acquire_owned() else {
            return;
        };
        let (network, reports) = (self.network.clone(), self.reports.clone());
        tokio::spawn(async move {
            let answer: Answer = network.resolve(&question, from).await;
            if let Some(answer) = question.answered(answer) {
                let packet = packet::datagram(to, from, &answer);
                reports.send(Report::Packet(packet)).ok();
            }
            drop(place);
        });
    }
}

/// What a program is told of a refusal: nothing for a reset.
fn unreachable(error: &OpenError) -> Option<Unreachable> {
    match error {
        OpenError::Refused(refusal) => match refusal.reason {
            Reason::Unreachable | Reason::TimedOut => Some(Unreachable::Host),
            _ => None,
        },
        _ => Some(Unreachable::Host),
    }
}
