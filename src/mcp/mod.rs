//! The MCP server: one file per tool; parameters become a call on the [`Sandbox`], whose answer becomes
//! a result.
//!
//! What holds for every tool:
//!
//! - a result is complete as text and as `structuredContent`: some clients show the model only one of them; what is
//!   said beyond the data is in both ([`call::Notes`]);
//! - a command that ran and failed is a result; arguments that make no sense and a sandbox that could not do
//!   what was asked are errors of the tool, with text that says what to do: a model must be able to read it,
//!   and most clients keep protocol errors to themselves;
//! - schemas are flat ([`schema`]); arguments are taken as they were meant, and one that resembles another is refused
//!   ([`args`], [`names`]);
//! - output is shown as a terminal would show it ([`terminal`]), and bounded ([`output`]);
//! - while a call runs, whoever asked for progress hears at least every 10 s of it ([`pace`]);
//! - a call that is taken back, or whose client left, ends its command; what changes the machine itself
//!   (a snapshot, a reboot, a boot) is never dropped half-way ([`call`]).
//!
//! A connection has three states: opening (no lifecycle chosen yet), open, closed. Both eras of the protocol
//! are spoken on every transport: `initialize` up to 2025-11-25, `server/discover` and self-contained requests
//! from 2026-07-28. Which sandbox a call acts on is the [`desk`]'s to say.
//! Deliberately absent: sampling, roots, logging to the client (the protocol gives them up).

mod accept;
mod address;
mod args;
mod bind;
mod call;
mod changes;
mod command;
mod confirm;
mod connection;
mod desk;
mod edit;
mod exec;
mod http;
mod icons;
mod intake;
mod job;
mod lines;
mod malformed;
mod metrics;
mod names;
mod origin;
pub mod output;
mod pace;
mod peers;
mod picture;
mod post;
mod prompts;
mod read;
mod reboot;
mod resources;
mod scan;
mod schema;
mod search;
mod server;
mod sessions;
mod snapshot;
mod sse;
mod terminal;
mod text;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rmcp::model::ProtocolVersion;
use rmcp::service::{QuitReason, ServerInitializeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::sandbox::Sandbox;
pub use bind::At;
pub use desk::Limits;
pub use http::{Http, HttpError, Listening, listen};

/// The longest message taken, in bytes: room for a `write` of a file of some 40 MiB in base64.
/// A longer one is not kept, and answered with an error.
const LONGEST_MESSAGE: usize = 64 << 20;

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
    let connection = connection::Connection::new(input, output, closed.clone());
    let shared = server::Shared::new(sandbox.config(), false);
    let server = server::Server::new(shared, desk::Desk::One(sandbox), Some(closed));
    attend(server, connection).await
}

/// Serves until the client leaves.
async fn attend<R>(
    server: server::Server,
    connection: connection::Connection<R>,
) -> Result<(), McpError>
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
