//! MCP on a pair of streams: standard input and output, or a unix socket.

use std::sync::Arc;

use rmcp::model::ProtocolVersion;
use rmcp::service::{QuitReason, ServerInitializeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::mcp::sandboxes::Desk;
use crate::mcp::server::{Server, Shared};
use crate::sandbox::Sandbox;

/// Why serving a client ended before the client did.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// The client did not open the connection as any known version of the protocol does.
    #[error(
        "agree with the client on how to talk: {0}; expected MCP messages, one JSON object a line, \
         starting with `initialize` or `server/discover` (newest version {newest})",
        newest = ProtocolVersion::LATEST
    )]
    Opening(String),
    /// The task that serves the connection broke.
    #[error("go on serving the client: {0}; please report it")]
    Broken(String),
}

/// Serves one client on standard input and output, until it closes them. What its calls still run then is
/// cancelled; the same goes for a future that is dropped. The sandbox itself is left alone: stopping it is
/// the caller's.
pub async fn serve_stdio(sandbox: Arc<Sandbox>) -> Result<(), McpError> {
    let (input, output) = rmcp::transport::stdio_pipes();
    serve(input, output, sandbox).await
}

/// Serves one client on a stream, such as an accepted unix socket. See [`serve_stdio`].
pub async fn serve_stream<S>(stream: S, sandbox: Arc<Sandbox>) -> Result<(), McpError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (input, output) = tokio::io::split(stream);
    serve(input, output, sandbox).await
}

/// Serves one client on a pair of streams. See [`serve_stdio`].
pub async fn serve<R, W>(input: R, output: W, sandbox: Arc<Sandbox>) -> Result<(), McpError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let closed = CancellationToken::new();
    // Dropped together with this future, it cancels what runs then.
    let _dropped = closed.clone().drop_guard();
    let connection = Connection::new(input, output, closed.clone());
    let shared = Shared::new(sandbox.config(), false);
    let server = Server::new(shared, Desk::One(sandbox), Some(closed));
    attend(server, connection).await
}

/// Serves until the client leaves.
pub(crate) async fn attend<R>(server: Server, connection: Connection<R>) -> Result<(), McpError>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let running = match rmcp::service::serve_server(server, connection).await {
        Ok(running) => running,
        // The client left before it asked for anything: nothing went wrong.
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {
            return Ok(());
        }
        Err(error) => return Err(McpError::Opening(error.to_string())),
    };
    match running.waiting().await {
        Ok(QuitReason::JoinError(error)) | Err(error) => Err(McpError::Broken(error.to_string())),
        Ok(_) => Ok(()),
    }
}
