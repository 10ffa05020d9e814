//! The transport between a client and the server: messages as lines of JSON.
//!
//! States: opening, until a request chooses a lifecycle; open; closed. Opening, whatever is not a request is
//! dropped (nothing can be meant by it, and the library would end the connection over it). Closed, the token
//! fires at once: the library itself tells running calls only after it waited for them.
//!
//! A line that is no message is answered here ([`crate::mcp::transport::malformed`]); the connection goes on. All writing is done by
//! one task, so that an answer is written whole whatever else goes on.

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
use crate::mcp::transport::malformed::{Malformed, Role, understand};

/// How many messages may wait to be written. A client that reads none of its answers is not read from either.
const QUEUE: usize = 16;

/// How long the last messages may take to be written.
const LAST: Duration = Duration::from_secs(2);

/// A line to write, and who waits for that.
struct Outgoing {
    line: Vec<u8>,
    written: Option<oneshot::Sender<Result<(), Error>>>,
}

/// A client's connection.
pub(crate) struct Connection<R> {
    input: Lines<R>,
    output: Option<mpsc::Sender<Outgoing>>,
    writer: Option<AbortOnDropHandle<()>>,
    /// An answer that has no place in the queue yet.
    answer: Option<Vec<u8>>,
    opening: bool,
    closed: CancellationToken,
}

impl<R: AsyncRead + Send + Unpin> Connection<R> {
    /// Talks over `input` and `output`; `closed` fires when the client has closed its end.
    pub(crate) fn new<W>(input: R, output: W, closed: CancellationToken) -> Self
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            input: Lines::new(input),
            output: Some(sender),
            writer: Some(AbortOnDropHandle::new(tokio::spawn(write(output, queue)))),
            answer: None,
            opening: true,
            closed,
        }
    }

    /// The next message; a line that is none is answered. Nothing is lost when the future is dropped.
    async fn message(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            if self.answer.is_some() {
                let place = self.output.as_ref()?.reserve().await.ok()?;
                if let Some(answer) = self.answer.take() {
                    place.send(Outgoing {
                        line: line(answer),
                        written: None,
                    });
                }
            }
            let malformed = match self.input.next().await {
                Line::End => return None,
                Line::Whole(line) if line.trim_ascii().is_empty() => continue,
                Line::Whole(line) => match understand(&line) {
                    Ok(message) => return Some(message),
                    Err(malformed) => malformed,
                },
                Line::TooLong(found) => Malformed::too_long(&found),
            };
            tracing::debug!(role = ?malformed.role, why = malformed.message(), "a line is no message");
            match malformed.role {
                Role::Notification => {}
                Role::Response => {
                    if let Some(ended) = malformed.of_response() {
                        return Some(ended);
                    }
                }
                Role::Request | Role::Unclear => {
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
            // Its sender may have gone.
            let _ = written.send(done);
        }
        if failed {
            break;
        }
    }
    let _ = output.shutdown().await;
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
                self.closed.cancel();
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
            && tokio::time::timeout(LAST, writer).await.is_err()
        {
            tracing::debug!("a client reads nothing: its last messages are dropped");
        }
        Ok(())
    }
}
