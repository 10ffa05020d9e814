//! The guest's half of the network: a convenience, never a fence.
//!
//! The host connects to a port beside the guest link, which carries [`streams`]. The resolver answers
//! at once from the start: it asks the host about each name, so a refusal is a refusal of the host's, with its reason
//! noted there. When the host turns egress on, a TUN device becomes the default route, and every connection is brought
//! to the host. Nothing else of it runs before that.

mod authorities;
mod dns;
mod egress;
mod flows;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod listeners;
mod names;
mod packet;
mod program;
mod proxy;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::streams::{self, Bounds, Incoming, OpenError, Reason, Refusal, Side, Streams};
use crate::wire::network::{BEGINNING, FromGuest, FromHost, MAX_AUTHORITIES};

use dns::{Answer, Question};
use names::Names;

/// How many streams the host may have open.
const BOUNDS: Bounds = Bounds { streams: 512 };

/// How many questions to the resolver are answered at once; further ones wait in the socket.
const QUESTIONS: usize = 64;

/// Where the resolver listens; the file of the C libraries names it.
pub const RESOLVER: &str = "127.0.0.1";

/// The guest's half of the network.
#[derive(Debug, Default)]
pub struct Network {
    host: Mutex<Option<Streams>>,
    names: Mutex<Names>,
    egress: tokio::sync::Mutex<bool>,
}

impl Network {
    /// Serves one connection of the host, which begins with [`BEGINNING`], until it ends.
    pub async fn serve(self: Arc<Self>, mut transport: impl crate::link::Stream) {
        let mut beginning = [0; BEGINNING.len()];
        if transport.read_exact(&mut beginning).await.is_err() || beginning != BEGINNING {
            return;
        }
        let (streams, mut asked, served) = streams::over(transport, Side::Guest, BOUNDS);
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(streams);
        let network = self.clone();
        let answering = async move {
            while let Some(incoming) = asked.recv().await {
                tokio::spawn(network.clone().answer(incoming));
            }
        };
        let (ended, ()) = tokio::join!(served, answering);
        if let Err(error) = ended {
            tracing::debug!(%error, "the host's streams ended");
        }
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Does what the host asks for.
    async fn answer(self: Arc<Self>, incoming: Incoming) {
        let request = serde_json::from_slice(&incoming.request);
        match request {
            Ok(FromHost::Reach { port }) => reach(incoming, port).await,
            Ok(FromHost::Egress) => {
                if let Err(error) = self.start_egress(incoming).await {
                    tracing::warn!(%error, "connections can't be brought to the host");
                }
            }
            Ok(FromHost::Listeners) => {
                let listeners = serde_json::to_vec(&listeners::all()).unwrap_or_default();
                drop(incoming.accept(listeners));
            }
            Err(error) => incoming.refuse(Refusal::new(Reason::Failed, error.to_string())),
        }
    }

    async fn start_egress(self: &Arc<Self>, incoming: Incoming) -> std::io::Result<()> {
        // Before the first connection: a program reads its authorities once.
        let mut authorities = String::new();
        let mut stream = incoming.accept("");
        let mut sent = (&mut stream).take(MAX_AUTHORITIES);
        sent.read_to_string(&mut authorities).await?;
        let install = move || authorities::install(Path::new("/"), &authorities);
        if let Err(error) = tokio::task::spawn_blocking(install).await? {
            tracing::warn!(%error, "the host's authorities can't be added");
        }
        let mut started = self.egress.lock().await;
        if !*started {
            egress::start(self.clone()).await?;
            proxy::start(self.clone()).await;
            *started = true;
        }
        stream.shutdown().await
    }

    /// Asks the host for a stream.
    async fn open(&self, ask: &FromGuest) -> Result<streams::Stream, OpenError> {
        let host = self
            .host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let host = host.ok_or(OpenError::Ended)?;
        let request = serde_json::to_vec(ask).unwrap_or_default();
        host.open(request).await.map(|(stream, _)| stream)
    }

    /// What the resolver answers.
    async fn resolve(&self, question: &Question, from: SocketAddr) -> Answer {
        let name = &question.name;
        if name == "localhost" || name.ends_with(".localhost") {
            return match question.v4 {
                true => Answer::Address(std::net::Ipv4Addr::LOCALHOST),
                false => Answer::Empty,
            };
        }
        // Names without a dot are no names of the public network, and searching for them tells the host nothing.
        if name.is_empty() || name.ends_with(".arpa") {
            return Answer::NoSuchName;
        }
        let ask = FromGuest::Resolve {
            name: name.clone(),
            by: program::of(program::Protocol::Udp, from),
        };
        match self.open(&ask).await {
            Ok(_) if question.v4 => Answer::Address(self.address(name)),
            Ok(_) => Answer::Empty,
            Err(OpenError::Refused(refusal)) => match refusal.reason {
                Reason::Denied | Reason::NotFound => Answer::NoSuchName,
                _ => Answer::Failed,
            },
            Err(_) => Answer::Failed,
        }
    }

    fn address(&self, name: &str) -> std::net::Ipv4Addr {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.address(name)
    }

    /// The name that an address stands for, or the address.
    fn target(&self, address: SocketAddr) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.name(address.ip()) {
            Some(name) => name.to_owned(),
            None => address.ip().to_canonical().to_string(),
        }
    }

    /// Serves the resolver on the loopback interface, for as long as the machine runs.
    pub async fn serve_resolver(self: Arc<Self>) -> std::io::Result<()> {
        let socket = Arc::new(UdpSocket::bind((RESOLVER, 53)).await?);
        let places = Arc::new(Semaphore::new(QUESTIONS));
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            let Some(question) = Question::parse(&buffer[..length]) else {
                if let Some(answer) = dns::not_supported(&buffer[..length]) {
                    socket.send_to(&answer, from).await.ok();
                }
                continue;
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                continue;
            };
            let (network, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let answer = network.resolve(&question, from).await;
                if let Some(answer) = question.answered(answer) {
                    // Best effort: the asker asks again.
                    socket.send_to(&answer, from).await.ok();
                }
                drop(place);
            });
        }
    }
}

/// Connects the host to a port of the loopback interface.
async fn reach(incoming: Incoming, port: u16) {
    let connected = async {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(tcp) => Ok(tcp),
            Err(_) => TcpStream::connect(("::1", port)).await,
        }
    };
    tokio::select! {
        connected = connected => match connected {
            Ok(tcp) => {
                // How it ended is seen at both ends.
                streams::pump(tcp, incoming.accept("")).await;
            }
            Err(error) => {
                incoming.refuse(Refusal::new(Reason::Refused, error.to_string()));
            }
        },
        () = incoming.withdrawn() => {}
    }
}
