//! What stands between HTTP and the library that serves `/mcp`: clients as they are.
//!
//! - The library serves only who names both forms of an answer. Whoever takes one of them (`*/*`, no `Accept`, JSON
//!   alone) is served, too; one that takes JSON alone gets the last message of the stream.
//! - JSON goes by other names (`application/json-rpc`). What a web page could send without being asked whether it may
//!   (`text/plain`, no type) stays refused.
//! - A body that is no message is answered as over a stream: with an error for its id.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sse_stream::SseStream;
use tokio_stream::StreamExt;

use crate::mcp::transport::accept::Accepts;
use crate::mcp::transport::http::holding;
use crate::mcp::transport::intake::{Intake, Taken};
use crate::mcp::transport::malformed::{Malformed, understand};
use crate::mcp::transport::scan::Scan;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// Serves one request of `/mcp`.
pub(crate) async fn serve(mut request: Request, next: Next) -> Response {
    let accepts = Accepts::of(request.headers());
    match *request.method() {
        Method::POST if accepts.json || accepts.events => {
            request.headers_mut().insert(header::ACCEPT, BOTH);
            post(request, next, accepts).await
        }
        Method::GET if accepts.events => {
            request.headers_mut().insert(header::ACCEPT, BOTH);
            next.run(request).await
        }
        Method::POST | Method::GET => not_acceptable(),
        _ => next.run(request).await,
    }
}

fn not_acceptable() -> Response {
    let why = format!("answers are {JSON} or {EVENTS}: send `Accept: {JSON}, {EVENTS}`\n");
    (StatusCode::NOT_ACCEPTABLE, why).into_response()
}

async fn post(mut request: Request, next: Next, accepts: Accepts) -> Response {
    if !is_json(request.headers()) {
        let why = format!("a message is JSON: send `Content-Type: {JSON}`\n");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, why).into_response();
    }
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    let (mut head, body) = request.into_parts();
    let intake = head.extensions.remove::<Arc<Intake>>().unwrap_or_default();
    let Taken { bytes: body, room } = match intake.take(body).await {
        Ok(taken) => taken,
        Err(refusal) => return *refusal,
    };
    let request = Request::from_parts(head, Body::from(body.clone()));
    // What came with a call is kept until it is answered.
    let response = holding(next.run(request).await, room);
    // The types of the request are right: what the library can't take is the body.
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE
        && let Err(malformed) = understand(&body)
    {
        return refused(StatusCode::BAD_REQUEST, &malformed);
    }
    if accepts.events || !is_stream(&response) {
        return response;
    }
    let method = Scan::of(&body).method.value;
    drop(body);
    match method.as_deref() {
        // It has no last message.
        Some(b"\"subscriptions/listen\"") => not_acceptable(),
        _ => last_message(response).await,
    }
}

/// Whether the body is JSON by its type, and of a kind that a web page can't send unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.strip_prefix("application/").is_some_and(|kind| {
        matches!(kind, "json" | "json-rpc" | "jsonrpc" | "jsonrequest") || kind.ends_with("+json")
    })
}

/// A message that is none, as an answer over HTTP.
pub(crate) fn refused(status: StatusCode, malformed: &Malformed) -> Response {
    let kind = [(header::CONTENT_TYPE, JSON)];
    (status, kind, malformed.answer()).into_response()
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(EVENTS.as_bytes()))
}

/// The answer in a stream of messages, for a client that takes no stream.
async fn last_message(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let mut events = SseStream::from_bytes_stream(body.into_data_stream());
    while let Some(Ok(event)) = events.next().await {
        let message = event.data.unwrap_or_default();
        let found = Scan::of(message.as_bytes());
        if found.method.times == 0 && found.result.times + found.error.times > 0 {
            let headers = &mut head.headers;
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            headers.remove(header::TRANSFER_ENCODING);
            return Response::from_parts(head, Body::from(message));
        }
    }
    let why = "the call ended without an answer: the session was closed meanwhile\n";
    (StatusCode::BAD_GATEWAY, why).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_by_several_names_and_plain_text_by_none() {
        let is = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
            is_json(&headers)
        };
        for kind in [
            "application/json",
            "Application/JSON ; charset=utf-8",
            "application/json-rpc",
            "application/vnd.api+json",
        ] {
            assert!(is(kind), "{kind}");
        }
        // What a page may send to anybody without a preflight.
        for kind in [
            "",
            "text/plain",
            "text/plain; x=application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "text/json",
        ] {
            assert!(!is(kind), "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
