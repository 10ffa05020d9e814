//! The transport of 2024-11-05, for clients that know no other: `GET /sse` opens a stream whose first event names the
//! address that takes the client's messages by `POST`; answers come on the stream.
//!
//! As thin as it can be: each stream is a connection like one over stdio, with a sandbox of its own. Closing the
//! stream ends all of it. The address is unguessable, and the stream's own.

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

use crate::mcp::sandboxes::{Desk, Pool};
use crate::mcp::server::{Server, Shared};
use crate::mcp::transport::connection::Connection;
use crate::mcp::transport::intake::{Intake, Taken};
use crate::mcp::transport::malformed::understand;
use crate::mcp::transport::post::refused;
use crate::mcp::transport::stdio;

/// How many streams there may be at once.
const MOST: usize = 64;

/// How much may wait in a stream for its client or the server, in bytes.
const BUFFER: usize = 1 << 16;

type Input = Arc<tokio::sync::Mutex<WriteHalf<DuplexStream>>>;

/// The streams there are.
pub(crate) struct Streams {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    closing: CancellationToken,
    open: Mutex<HashMap<String, Input>>,
}

/// The routes of the older transport.
pub(crate) fn router(shared: Arc<Shared>, pool: Arc<Pool>, closing: CancellationToken) -> Router {
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

/// Goes with its stream, and takes the connection with it.
struct Open {
    streams: Arc<Streams>,
    id: String,
    _closed: DropGuard,
}

impl Drop for Open {
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
    let (client, server) = tokio::io::duplex(BUFFER);
    let (output, input) = tokio::io::split(client);
    let id = format!("{:032x}", rand::random::<u128>());
    {
        let mut open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST {
            streams.shared.metrics.refused("streams");
            let why = format!("{MOST} streams are open already: close one\n");
            return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
        }
        open.insert(id.clone(), Arc::new(tokio::sync::Mutex::new(input)));
    }
    streams.shared.metrics.sse();
    let closed = streams.closing.child_token();
    let held = Open {
        streams: streams.clone(),
        id: id.clone(),
        _closed: closed.clone().drop_guard(),
    };
    let (read, write) = tokio::io::split(server);
    let connection = Connection::new(read, write, closed.clone());
    let desk = Desk::many(streams.pool.clone());
    let of_client = Server::new(streams.shared.clone(), desk, Some(closed.clone()));
    tokio::spawn(closed.run_until_cancelled_owned(async move {
        if let Err(error) = stdio::attend(of_client, connection).await {
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
    held: Open,
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

async fn take(
    State(streams): State<Arc<Streams>>,
    Query(query): Query<HashMap<String, String>>,
    mut request: Request,
) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    let input = query.get("sessionId").and_then(|id| {
        let open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).cloned()
    });
    let Some(input) = input else {
        return refuse(
            StatusCode::NOT_FOUND,
            "there is no such stream: open one with GET /sse, whose first event names the address to post to",
        );
    };
    let intake = request.extensions_mut().remove::<Arc<Intake>>();
    let taken = intake.unwrap_or_default().take(request.into_body()).await;
    let Taken {
        bytes: body,
        room: _room,
    } = match taken {
        Ok(taken) => taken,
        Err(refusal) => return *refusal,
    };
    if let Err(malformed) = understand(&body) {
        return refused(StatusCode::BAD_REQUEST, &malformed);
    }
    // One message is one line; JSON may be written over several, but no string in it.
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
