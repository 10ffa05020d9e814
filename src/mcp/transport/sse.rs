//! The transport of protocol 2024-11-05, for older clients: `GET /sse` opens a stream whose first event names the address
//! for the client's messages, which come by `POST`; answers come on the stream.
//!
//! Each stream is a connection like one over stdio, with a sandbox of its own. Closing the stream ends both. The address is
//! unguessable and belongs to one stream.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, WriteHalf};
use tokio_stream::wrappers::LinesStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::body::{BodyReader, ReadBody};
use super::connection::Connection;
use super::malformed::parse;
use super::reply::{malformed_reply, refuse};
use super::stdio;
use crate::fleet::Fleet;
use crate::mcp::selector::Selector;
use crate::mcp::server::{Server, Shared};

/// How many streams may be open.
const MAX_STREAMS: usize = 64;

/// How much may wait in a stream for the client or the server, in bytes.
const BUFFER: usize = 1 << 16;

type Input = Arc<tokio::sync::Mutex<WriteHalf<DuplexStream>>>;

/// The open streams.
struct Streams {
    shared: Arc<Shared>,
    pool: Arc<Fleet>,
    closing: CancellationToken,
    open: Mutex<HashMap<String, Input>>,
}

/// The routes of the older transport.
pub(crate) fn router(shared: Arc<Shared>, pool: Arc<Fleet>, closing: CancellationToken) -> Router {
    let streams = Arc::new(Streams {
        shared,
        pool,
        closing,
        open: Mutex::default(),
    });
    Router::new()
        .route("/sse", get(open))
        .route("/sse/message", post(take))
        .with_state(streams)
}

/// An open stream. Dropping it ends its connection.
struct OpenStream {
    streams: Arc<Streams>,
    id: String,
    _disconnect: DropGuard,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self
            .streams
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.id);
    }
}

async fn open(State(streams): State<Arc<Streams>>) -> Response {
    let (client_end, server_end) = tokio::io::duplex(BUFFER);
    let (output, input) = tokio::io::split(client_end);
    let id = format!("{:032x}", rand::random::<u128>());
    {
        let mut open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_STREAMS {
            streams.shared.metrics.refused("streams");
            let why = format!("{MAX_STREAMS} streams are open already: close one\n");
            return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
        }
        open.insert(id.clone(), Arc::new(tokio::sync::Mutex::new(input)));
    }
    streams.shared.metrics.sse_connected();
    let disconnected = streams.closing.child_token();
    let held = OpenStream {
        streams: streams.clone(),
        id: id.clone(),
        _disconnect: disconnected.clone().drop_guard(),
    };
    let (read, write) = tokio::io::split(server_end);
    let connection = Connection::new(read, write, disconnected.clone());
    let selector = Selector::fleet(streams.pool.clone());
    let server = Server::new(streams.shared.clone(), selector, Some(disconnected.clone()));
    tokio::spawn(disconnected.run_until_cancelled_owned(async move {
        if let Err(error) = stdio::serve_connection(server, connection).await {
            tracing::debug!(%error, "a connection of the older transport ended");
        }
    }));
    Sse::new(events(id, output, held))
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

fn events(
    id: String,
    output: tokio::io::ReadHalf<DuplexStream>,
    held: OpenStream,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let address = Event::default()
        .event("endpoint")
        .data(format!("/sse/message?sessionId={id}"));
    let messages = LinesStream::new(BufReader::new(output).lines())
        .map_while(Result::ok)
        .map(move |line| {
            let _held = &held;
            Event::default().event("message").data(line)
        });
    tokio_stream::once(address).chain(messages).map(Ok)
}

/// Takes a message of a client.
async fn take(
    State(streams): State<Arc<Streams>>,
    Query(query): Query<HashMap<String, String>>,
    mut request: Request,
) -> Response {
    let input = query.get("sessionId").and_then(|id| {
        let open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).cloned()
    });
    let Some(input) = input else {
        return refuse(
            StatusCode::NOT_FOUND,
            "there is no such stream: open one with GET /sse, and post to the address in its first event",
        );
    };
    let reader = request.extensions_mut().remove::<Arc<BodyReader>>();
    let read = reader.unwrap_or_default().read(request.into_body()).await;
    let ReadBody {
        bytes: body,
        reserved: _reserved,
    } = match read {
        Ok(read) => read,
        Err(refusal) => return *refusal,
    };
    if let Err(malformed) = parse(&body) {
        return malformed_reply(StatusCode::BAD_REQUEST, &malformed);
    }
    // The connection takes a message as one line. JSON has line breaks only between its tokens, never inside a string.
    let mut line: Vec<u8> = body.to_vec();
    for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.push(b'\n');
    let mut input = input.lock().await;
    match input.write_all(&line).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(_) => refuse(StatusCode::GONE, "the stream has ended"),
    }
}
