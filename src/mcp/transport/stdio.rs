//! MCP on a pair of streams: standard input and output, or a unix socket.

use std::sync::Arc;

use rmcp::model::ProtocolVersion;
use rmcp::service::{QuitReason, ServerInitializeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::mcp::selector::Selector;
use crate::mcp::server::{Server, Shared};
use crate::sandbox::Sandbox;

/// Why serving a client ended before the client left.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not open the connection as a known version of the protocol requires.
    #[error(
        "agree with the client on the protocol: {0}; expected MCP messages, one JSON object a line, \
         starting with `initialize` or `server/discover` (newest version {newest})",
        newest = ProtocolVersion::LATEST
    )]
    Opening(String),
    /// The task that serves the connection panicked.
    #[error("continue serving the client: {0}; please report it")]
    Panicked(String),
}

/// Serves one client on standard input and output, until it closes them. Calls that still run then are cancelled, also if
/// this future is dropped. The caller stops the sandbox.
pub async fn serve_stdio(sandbox: Arc<Sandbox>) -> Result<(), ServeError> {
    let (input, output) = rmcp::transport::stdio_pipes();
    Box::pin(serve(input, output, sandbox)).await
}

/// Serves one client on a stream, such as an accepted unix socket. See [`serve_stdio`].
pub async fn serve_stream<S>(stream: S, sandbox: Arc<Sandbox>) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (input, output) = tokio::io::split(stream);
    Box::pin(serve(input, output, sandbox)).await
}

/// Serves one client on a pair of streams. See [`serve_stdio`].
pub async fn serve<R, W>(input: R, output: W, sandbox: Arc<Sandbox>) -> Result<(), ServeError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let shared = Shared::single(&sandbox, false);
    Box::pin(serve_with(shared, input, output, sandbox)).await
}

/// Serves one of the clients of a sandbox that stays when they leave. See [`serve_stdio`].
pub(crate) async fn serve_kept<S>(stream: S, sandbox: Arc<Sandbox>) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (input, output) = tokio::io::split(stream);
    let shared = Shared::single(&sandbox, true);
    Box::pin(serve_with(shared, input, output, sandbox)).await
}

async fn serve_with<R, W>(
    shared: Arc<Shared>,
    input: R,
    output: W,
    sandbox: Arc<Sandbox>,
) -> Result<(), ServeError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let disconnected = CancellationToken::new();
    // Cancels running calls when this future is dropped.
    let _disconnect = disconnected.clone().drop_guard();
    let connection = Connection::new(input, output, disconnected.clone());
    let server = Server::new(shared, Selector::single(sandbox), Some(disconnected));
    serve_connection(server, connection).await
}

/// Serves until the client leaves.
pub(crate) async fn serve_connection<R>(
    server: Server,
    connection: Connection<R>,
) -> Result<(), ServeError>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let running = match rmcp::service::serve_server(server, connection).await {
        Ok(running) => running,
        // A client may leave before its first request.
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {
            return Ok(());
        }
        Err(error) => return Err(ServeError::Opening(error.to_string())),
    };
    match running.waiting().await {
        Ok(QuitReason::JoinError(error)) | Err(error) => {
            Err(ServeError::Panicked(error.to_string()))
        }
        Ok(_) => Ok(()),
    }
}
