//! Parts of HTTP answers.

use axum::body::{Body, HttpBody};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;

use super::malformed::Malformed;

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

/// A refusal with one line of text.
pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}

/// The answer to a malformed message.
pub(super) fn malformed_reply(status: StatusCode, malformed: &Malformed) -> Response {
    let media_type = [(header::CONTENT_TYPE, JSON)];
    (status, media_type, malformed.answer()).into_response()
}

/// Keeps `held` until the whole answer is sent: the body of a stream ends long after its head.
pub(super) fn hold_until_sent<T: Send + 'static>(mut answer: Response, held: T) -> Response {
    // The body becomes a stream below, which no longer tells its length.
    let length = answer.body().size_hint().exact();
    if let Some(length) = length.filter(|length| *length > 0) {
        answer
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _held = &held;
            piece
        }))
    })
}
