//! Adapts requests of real clients to the library that serves `/mcp`.
//!
//! - The library serves only clients that accept both forms of an answer by name. Here a client that accepts one of them is
//!   served, too (`*/*`, no `Accept`, JSON alone); one that accepts only JSON gets the last message of the stream.
//! - Other media types of JSON are accepted (`application/json-rpc`). Types that a web page can send without a preflight
//!   (`text/plain`, none) are refused.
//! - A malformed body is answered as on a stream: with an error for its id.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sse_stream::SseStream;
use tokio_stream::StreamExt;

use super::accept::Accepts;
use super::body::{BodyReader, ReadBody};
use super::envelope::EnvelopeScanner;
use super::malformed::parse;
use super::reply::{JSON, hold_until_sent, malformed_reply};

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
        let why = format!("a message must be JSON: send `Content-Type: {JSON}`\n");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, why).into_response();
    }
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    let (mut head, body) = request.into_parts();
    let reader = head
        .extensions
        .remove::<Arc<BodyReader>>()
        .unwrap_or_default();
    let ReadBody {
        bytes: body,
        reserved,
    } = match reader.read(body).await {
        Ok(read) => read,
        Err(refusal) => return *refusal,
    };
    let request = Request::from_parts(head, Body::from(body.clone()));
    // The library keeps the body until the call is answered.
    let response = hold_until_sent(next.run(request).await, reserved);
    // The media type was right, so the library means the body.
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE
        && let Err(malformed) = parse(&body)
    {
        return malformed_reply(StatusCode::BAD_REQUEST, &malformed);
    }
    if accepts.events || !is_stream(&response) {
        return response;
    }
    let method = EnvelopeScanner::scan(&body).method.value;
    drop(body);
    match method.as_deref() {
        // Its stream has no last message.
        Some(b"\"subscriptions/listen\"") => not_acceptable(),
        _ => last_message(response).await,
    }
}

/// Whether the media type is JSON, and one that a web page can't send without a preflight.
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

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(EVENTS.as_bytes()))
}

/// The answer in a stream of messages, for a client that accepts no stream.
async fn last_message(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let mut events = SseStream::from_bytes_stream(body.into_data_stream());
    while let Some(Ok(event)) = events.next().await {
        let message = event.data.unwrap_or_default();
        let found = EnvelopeScanner::scan(message.as_bytes());
        if found.method.times == 0 && found.result.times + found.error.times > 0 {
            let headers = &mut head.headers;
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            headers.remove(header::TRANSFER_ENCODING);
            return Response::from_parts(head, Body::from(message));
        }
    }
    let why = "the call ended without an answer, since its session was closed\n";
    (StatusCode::BAD_GATEWAY, why).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_several_media_types_and_plain_text_is_none() {
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
        // Types that a web page can send without a preflight.
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
