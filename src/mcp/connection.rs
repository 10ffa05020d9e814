//! The transport between a client and the server.
//!
//! States: opening, until a request chooses a lifecycle; open; closed. Opening, whatever is not a request is
//! dropped (nothing can be meant by it, and the library would end the connection over it). Closed, the token
//! fires at once: the library itself tells running calls only after it waited for them.

use rmcp::RoleServer;
use rmcp::model::{ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::LONGEST_MESSAGE;

/// A client's connection.
pub(super) struct Connection<R: AsyncRead, W: AsyncWrite> {
    transport: AsyncRwTransport<RoleServer, R, W>,
    opening: bool,
    closed: CancellationToken,
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Talks over `input` and `output`; `closed` fires when the client has closed its end.
    pub(super) fn new(input: R, output: W, closed: CancellationToken) -> Self {
        Self {
            transport: AsyncRwTransport::new_server(input, output)
                .with_max_line_length(LONGEST_MESSAGE),
            opening: true,
            closed,
        }
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

impl<R, W> Transport<RoleServer> for Connection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = std::io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.transport.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(message) = self.transport.receive().await else {
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
        self.transport.close().await
    }
}
