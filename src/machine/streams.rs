//! The streams beside the guest link: connecting, and connecting anew, for as long as the machine runs.
//!
//! The host connects as soon as the machine is up, so a guest's question about a name is answered from the start. What
//! the guest asks for goes to the network's broker. A guest that breaks the rules of the streams loses them,
//! and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use snowglobe_init::streams::{self, Bounds, Ended, OpenError, Side, Stream, Streams};
use snowglobe_init::wire::network::{BEGINNING, FromHost, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::guest::{self, GuestError};
use crate::network::broker::Broker;
use crate::network::rules::Mode;

/// How many streams the guest may have open.
const BOUNDS: Bounds = Bounds { streams: 512 };

/// How long to wait before connecting again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long the guest may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The most ports that are taken from a guest's answer.
const MAX_LISTENERS: usize = 100;

/// What a machine's network needs.
#[derive(Debug, Clone)]
pub struct Network {
    /// Answers the guest.
    pub broker: Arc<Broker>,
    /// The authorities that the guest is to trust beyond its own, as PEM.
    pub authorities: Arc<str>,
}

/// The streams of a machine. They end when this is dropped.
#[derive(Debug)]
pub struct Connection {
    task: tokio::task::JoinHandle<()>,
    streams: watch::Receiver<Option<Streams>>,
    /// Whether the guest has the network that the rules give it.
    ready: watch::Receiver<bool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects to a socket, and again whenever the connection ends.
    pub(super) fn start(socket: PathBuf, network: Network) -> Self {
        let (connected, streams) = watch::channel(None);
        let is_off = network.broker.rules().mode == Mode::Off;
        let (is_ready, ready) = watch::channel(is_off);
        let Network {
            broker,
            authorities,
        } = network;
        let task = tokio::spawn(async move {
            loop {
                match serve(&socket, &broker, &authorities, &connected, &is_ready).await {
                    Ok(()) => {}
                    Err(Ended::Violation(violation)) => {
                        tracing::warn!(%violation, "the guest broke the rules of its streams: it has no network");
                        return;
                    }
                    Err(Ended::Io(error)) => tracing::debug!(%error, "the streams ended"),
                }
                connected.send_replace(None);
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self {
            task,
            streams,
            ready,
        }
    }

    /// Waits until the guest has the network that the rules give it, so that the first command has it, too. A guest that
    /// does not answer has none.
    pub(super) async fn ready(&self) {
        let mut ready = self.ready.clone();
        tokio::time::timeout(ANSWER, ready.wait_for(|ready| *ready))
            .await
            .ok();
    }

    /// Connects to a port of the guest's loopback interface.
    pub async fn reach(&self, port: u16) -> Result<Stream, OpenError> {
        self.ask(&FromHost::Reach { port })
            .await
            .map(|(stream, _)| stream)
    }

    /// The ports on which the guest's programs listen, as the guest tells it.
    pub async fn listeners(&self) -> Result<Vec<Listener>, OpenError> {
        let (_, answer) = self.ask(&FromHost::Listeners).await?;
        let mut listeners: Vec<Listener> = serde_json::from_slice(&answer).unwrap_or_default();
        listeners.truncate(MAX_LISTENERS);
        Ok(listeners)
    }

    async fn ask(&self, ask: &FromHost) -> Result<(Stream, bytes::Bytes), OpenError> {
        let mut streams = self.streams.clone();
        let asked = async {
            let connected = streams.wait_for(Option::is_some).await;
            let connected = connected.ok().and_then(|streams| streams.clone());
            request(&connected.ok_or(OpenError::Ended)?, ask).await
        };
        tokio::time::timeout(ANSWER, asked)
            .await
            .unwrap_or(Err(OpenError::Ended))
    }
}

async fn request(streams: &Streams, ask: &FromHost) -> Result<(Stream, bytes::Bytes), OpenError> {
    let request = serde_json::to_vec(ask).map_err(|_| OpenError::Ended)?;
    streams.open(request).await
}

/// Has the guest bring its connections, and trust these authorities. Returns once it does.
async fn start_egress(streams: &Streams, authorities: &str) -> io::Result<()> {
    let (mut stream, _) = request(streams, &FromHost::Egress)
        .await
        .map_err(io::Error::other)?;
    stream.write_all(authorities.as_bytes()).await?;
    stream.shutdown().await?;
    stream
        .read_u8()
        .await
        .map(drop)
        .or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(error),
        })
}

/// One connection, from its beginning to its end.
async fn serve(
    socket: &Path,
    broker: &Arc<Broker>,
    authorities: &str,
    connected: &watch::Sender<Option<Streams>>,
    is_ready: &watch::Sender<bool>,
) -> Result<(), Ended> {
    let lost = |error: GuestError| Ended::Io(io::Error::other(error));
    let stream = guest::connect(socket).await.map_err(lost)?;
    let mut stream = guest::synchronize(stream).await.map_err(lost)?;
    stream.write_all(BEGINNING).await?;
    let (streams, asked, served) = streams::over(stream, Side::Host, BOUNDS);
    connected.send_replace(Some(streams.clone()));
    let mut rules = broker.watch_rules();
    let answering = broker.clone().serve(asked);
    let switching = async {
        // It is never switched off again: the rules refuse everything then.
        if rules
            .wait_for(|rules| rules.mode != Mode::Off)
            .await
            .is_ok()
            && let Err(error) = start_egress(&streams, authorities).await
        {
            tracing::warn!(%error, "the guest can't bring its connections to the host");
        }
        is_ready.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = served => served,
        () = answering => Ok(()),
        () = switching => Ok(()),
    }
}
