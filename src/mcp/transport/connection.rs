//! The connection to a client over a pair of streams: one JSON message a line.
//!
//! States: opening, until a request chooses a lifecycle; open; closed. While opening, messages that are not requests are
//! dropped: they can't mean anything yet, and the library would end the connection. When the client closes its end, the
//! token `disconnected` fires at once; the library itself cancels running calls only after it has waited for them.
//!
//! A line that is no message is answered here ([`crate::mcp::transport::malformed`]); the connection goes on. One task writes
//! everything, so an answer is always written whole.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::mcp::transport::lines::{Line, Lines};
use crate::mcp::transport::malformed::{Malformed, Role, parse};

/// How many messages may wait to be written. While the queue is full, nothing is read from the client.
const MAX_QUEUED: usize = 16;

/// How long the last messages may take to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A line to write, and where to report that it was written.
struct Outgoing {
    line: Vec<u8>,
    written: Option<oneshot::Sender<Result<(), Error>>>,
}

/// A client's connection.
pub(crate) struct Connection<R> {
    input: Lines<R>,
    output: Option<mpsc::Sender<Outgoing>>,
    writer: Option<AbortOnDropHandle<()>>,
    /// An answer that waits for room in the queue.
    answer: Option<Vec<u8>>,
    opening: bool,
    disconnected: CancellationToken,
}

impl<R: AsyncRead + Send + Unpin> Connection<R> {
    /// A connection over `input` and `output`; `disconnected` fires when the client has closed its end.
    pub(crate) fn new<W>(input: R, output: W, disconnected: CancellationToken) -> Self
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        Self {
            input: Lines::new(input),
            output: Some(sender),
            writer: Some(AbortOnDropHandle::new(tokio::spawn(write(output, queue)))),
            answer: None,
            opening: true,
            disconnected,
        }
    }

    /// The next message; a line that is no message is answered. Nothing is lost when the future is dropped.
    async fn message(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            if self.answer.is_some() {
                let room = self.output.as_ref()?.reserve().await.ok()?;
                if let Some(answer) = self.answer.take() {
                    room.send(Outgoing {
                        line: line(answer),
                        written: None,
                    });
                }
            }
            let malformed = match self.input.next().await {
                Line::End => return None,
                Line::Whole(line) if line.trim_ascii().is_empty() => continue,
                Line::Whole(line) => match parse(&line) {
                    Ok(message) => return Some(message),
                    Err(malformed) => malformed,
                },
                Line::TooLong(found) => Malformed::too_long(&found),
            };
            tracing::debug!(role = ?malformed.role, why = malformed.message(), "a line is no message");
            match malformed.role {
                Role::Notification => {}
                Role::Response => {
                    if let Some(ended) = malformed.as_error_response() {
                        return Some(ended);
                    }
                }
                Role::Request | Role::Unknown => {
                    self.answer = Some(malformed.answer().into_bytes());
                }
            }
        }
    }
}

fn line(mut message: Vec<u8>) -> Vec<u8> {
    message.push(b'\n');
    message
}

async fn write(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { line, written }) = queue.recv().await {
        let done = match output.write_all(&line).await {
            Ok(()) => output.flush().await,
            failed => failed,
        };
        let failed = done.is_err();
        if let Some(written) = written {
            // The sender no longer waits if its call was cancelled.
            drop(written.send(done));
        }
        if failed {
            break;
        }
    }
    if let Err(error) = output.shutdown().await {
        tracing::debug!(%error, "a client's stream could not be closed");
    }
}

/// Whether this request chooses the connection's lifecycle.
fn chooses_lifecycle(request: &ClientRequest) -> bool {
    match request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
        other => other
            .get_meta()
            .missing_required_keys(&ProtocolVersion::V_2026_07_28)
            .is_empty(),
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> Transport<RoleServer> for Connection<R> {
    type Error = Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let output = self.output.clone();
        async move {
            let closed = || Error::new(ErrorKind::NotConnected, "the connection is closed");
            let output = output.ok_or_else(closed)?;
            let (written, done) = oneshot::channel();
            let outgoing = Outgoing {
                line: line(serde_json::to_vec(&message)?),
                written: Some(written),
            };
            output.send(outgoing).await.map_err(|_| closed())?;
            done.await.map_err(|_| closed())?
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(message) = self.message().await else {
                self.disconnected.cancel();
                return None;
            };
            match &message {
                JsonRpcMessage::Request(request) => {
                    self.opening &= !chooses_lifecycle(&request.request);
                }
                _ if self.opening => {
                    tracing::debug!("dropping a message that came before the first request");
                    continue;
                }
                _ => {}
            }
            return Some(message);
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.output = None;
        if let Some(writer) = self.writer.take()
            && tokio::time::timeout(CLOSE_TIMEOUT, writer).await.is_err()
        {
            tracing::debug!("a client does not read: its last messages are dropped");
        }
        Ok(())
    }
}
