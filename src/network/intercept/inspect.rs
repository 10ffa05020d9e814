//! The broker's connections, as the [`Interceptor`] takes them: the guest's end is a stream that is lent, its bytes are
//! counted, and its end is passed on.

use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use snowglobe_init::streams::{Reason, Refusal, Stream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Interceptor;
use super::error::InterceptError;
use super::report::{Outcome, Reporter, Requested};
use super::target::Target;
use crate::network::broker::{Connection, Inspect, Inspected, Report};
use crate::network::rules::Host;

/// How much may wait between the stream and the interceptor, each way, in bytes.
const WAITING: usize = 64 << 10;

/// How much is read at once, in bytes.
const PIECE: usize = 32 << 10;

/// How long the last bytes may take to reach the guest, and the guest to end its direction.
const DRAIN: Duration = Duration::from_secs(5);

/// How a connection ended before the interceptor did.
enum Ended {
    /// Both directions have ended.
    Both,
    /// The guest is gone.
    Guest,
    /// It may not go on.
    Refused(Refusal),
}

impl Inspect for Interceptor {
    fn wants(&self, host: &Host, port: u16) -> bool {
        let is_plain = port == 80 && matches!(host, Host::Name(_));
        is_plain || self.secrets.are_for(host, port)
    }

    fn inspect<'a>(&'a self, connection: Inspected<'a>) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.inspect(connection))
    }
}

impl Interceptor {
    async fn inspect(&self, connection: Inspected<'_>) -> Result<(), Refusal> {
        let Inspected {
            host,
            port,
            rules,
            guest,
            server,
            counts,
            report,
        } = connection;
        let server =
            again(server).map_err(|error| Refusal::new(Reason::Failed, error.to_string()))?;
        let to = Target {
            host: host.clone(),
            port,
            rules,
        };
        let (near, far) = tokio::io::duplex(WAITING);
        let served = self.serve(far, server, to, reporter(report));
        let bridged = bridge(guest, near, counts);
        let (mut served, mut bridged) = (std::pin::pin!(served), std::pin::pin!(bridged));
        let ended = tokio::select! {
            ended = bridged.as_mut() => return ended.result(),
            ended = served.as_mut() => ended,
        };
        // What was answered still goes to the guest, which may have more to say.
        let last = timeout(DRAIN, bridged).await;
        match (ended, last) {
            (Err(error), _) => Err(refusal(&error)),
            (Ok(()), Ok(last)) => last.result(),
            (Ok(()), Err(_)) => Err(Refusal::new(
                Reason::Reset,
                "the guest does not end the connection",
            )),
        }
    }
}

impl Ended {
    fn result(self) -> Result<(), Refusal> {
        match self {
            Self::Both | Self::Guest => Ok(()),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

/// The same connection once more, to be owned.
fn again(connection: &TcpStream) -> io::Result<TcpStream> {
    let descriptor = connection.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(StdStream::from(descriptor))
}

fn refusal(error: &InterceptError) -> Refusal {
    let reason = match error {
        InterceptError::ServerName { .. } => Reason::Denied,
        InterceptError::Slow { .. } => Reason::TimedOut,
        _ => Reason::Failed,
    };
    Refusal::new(reason, crate::describe(error))
}

/// Tells the broker of requests.
fn reporter(report: &Report) -> Reporter {
    let report = report.clone();
    Arc::new(move |requested: Requested| {
        let Requested {
            method,
            path,
            status,
            sent,
            received,
            outcome,
            ..
        } = requested;
        let line = match status {
            0 => format!("{method} {path}"),
            status => format!("{method} {path} ({status})"),
        };
        let refused;
        let outcome = match &outcome {
            Outcome::Allowed { rule } => Ok(rule.as_str()),
            Outcome::Refused { why, remedy } => {
                let text = remedy
                    .as_ref()
                    .map_or_else(|| why.clone(), |remedy| format!("{why}; {remedy}"));
                refused = Refusal::new(Reason::Denied, text);
                Err(&refused)
            }
            Outcome::Failed { why } => {
                refused = Refusal::new(Reason::Failed, why.as_str());
                Err(&refused)
            }
        };
        report.request(&line, outcome, (sent, received));
    })
}

/// Carries bytes between the guest and the interceptor until both directions have ended.
async fn bridge(guest: &mut Stream, near: DuplexStream, counts: &Connection) -> Ended {
    let (guest_reader, guest_writer) = tokio::io::split(guest);
    let (near_reader, near_writer) = tokio::io::split(near);
    let up = up(guest_reader, near_writer, counts);
    let down = down(near_reader, guest_writer, counts);
    match tokio::try_join!(up, down) {
        Ok(_) => Ended::Both,
        Err(ended) => ended,
    }
}

/// What the interceptor no longer takes is read all the same, until the guest ends.
async fn up(
    mut guest: impl AsyncRead + Unpin,
    near: impl AsyncWrite + Unpin,
    counts: &Connection,
) -> Result<(), Ended> {
    let (mut piece, mut near) = (vec![0; PIECE], Some(near));
    loop {
        let length = guest.read(&mut piece).await.map_err(|_| Ended::Guest)?;
        if length == 0 {
            if let Some(mut near) = near {
                near.shutdown().await.ok();
            }
            return Ok(());
        }
        counts.up(length).map_err(Ended::Refused)?;
        if let Some(open) = &mut near
            && open.write_all(&piece[..length]).await.is_err()
        {
            near = None;
        }
    }
}

async fn down(
    mut near: impl AsyncRead + Unpin,
    mut guest: impl AsyncWrite + Unpin,
    counts: &Connection,
) -> Result<(), Ended> {
    let mut piece = vec![0; PIECE];
    loop {
        // The interceptor's end breaks only by being dropped.
        let length = near.read(&mut piece).await.unwrap_or(0);
        if length == 0 {
            return guest.shutdown().await.map_err(|_| Ended::Guest);
        }
        counts.down(length).map_err(Ended::Refused)?;
        guest
            .write_all(&piece[..length])
            .await
            .map_err(|_| Ended::Guest)?;
    }
}
