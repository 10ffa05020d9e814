//! Requests to a provider, and the events that come back. All that comes has a bound.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use sse_stream::SseStream;

use super::failure::{Failure, Kind};
use super::settings::Provider;

/// The most that is read of a failure's body, in bytes.
const MAX_FAILURE: usize = 64 << 10;
/// The longest line of a stream, in bytes.
const MAX_LINE: usize = 4 << 20;
/// The longest stream, in bytes.
const MAX_STREAM: usize = 64 << 20;
/// The longest list of models, in bytes.
const MAX_LIST: usize = 8 << 20;
/// How long a list of models may take.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For an answer to begin.
    pub(super) beginning: Duration,
    /// For the next bytes of an answer.
    pub(super) silence: Duration,
}

/// A client. It follows no redirects: they would take the key elsewhere.
pub(super) fn client() -> Result<Client, String> {
    crate::web::client()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(20))
        .build()
        .map_err(|error| in_words(&error))
}

/// How a provider is reached.
pub(super) struct Access<'a> {
    pub(super) name: &'a str,
    pub(super) provider: &'a Provider,
    pub(super) client: Client,
    /// What every request has: the key, for example.
    pub(super) headers: HeaderMap,
    /// What no error may show.
    pub(super) secrets: Vec<String>,
}

impl Access<'_> {
    /// Makes a request, and hands on the data of each event until `take` says that nothing more is needed, or the stream
    /// ends.
    pub(super) async fn events(
        &self,
        model: &str,
        body: &Value,
        patience: Patience,
        mut take: impl FnMut(&str) -> Result<bool, Failure> + Send,
    ) -> Result<(), Failure> {
        let url = self.provider.protocol.address(&self.provider.url, model);
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .body(body.to_string());
        let sent = tokio::time::timeout(patience.beginning, self.send(request)).await;
        let response = sent.map_err(|_| {
            let seconds = patience.beginning.as_secs();
            Failure::passing(format!("it did not begin to answer within {seconds} s"))
        })??;
        let bytes = bounded(response, patience.silence);
        let mut events = std::pin::pin!(SseStream::from_bytes_stream(bytes));
        while let Some(event) = events.next().await {
            let event = event.map_err(broken)?;
            if let Some(data) = event.data
                && !take(&data)?
            {
                break;
            }
        }
        Ok(())
    }

    /// Asks for the list of models.
    pub(super) async fn list(&self) -> Result<Value, Failure> {
        let url = self.provider.protocol.listing(&self.provider.url);
        let request = self.client.get(url).timeout(LIST_DEADLINE);
        let body = read(self.send(request).await?, MAX_LIST).await;
        serde_json::from_slice(&body).map_err(|_| Failure::last("it answers with no list"))
    }

    /// The answer to a request that was accepted.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let sent = request.headers(self.headers.clone()).send().await;
        let response = sent.map_err(|error| unsent(&error, self.provider.is_local()))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_success() {
            return Ok(response);
        }
        if let Some(to) = headers.get(LOCATION)
            && status.is_redirection()
        {
            let to = String::from_utf8_lossy(to.as_bytes());
            let why = format!("it redirects to {to}; set its `url` to where it is");
            return Err(Failure::last(why));
        }
        // A body that never ends says nothing more.
        let body = read(response, MAX_FAILURE);
        let body = tokio::time::timeout(Duration::from_secs(20), body).await;
        let body = body.unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        Err(Failure::of_status(status, &headers, &body))
    }
}

/// The beginning of a body.
async fn read(mut response: Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece[..piece.len().min(most - body.len())]);
        if body.len() == most {
            break;
        }
    }
    body
}

/// The bytes of a stream, which ends with an error when it or one of its lines is too long, or when nothing comes.
fn bounded(
    response: Response,
    silence: Duration,
) -> impl Stream<Item = Result<bytes::Bytes, Failure>> {
    let (mut line, mut all) = (0_usize, 0_usize);
    let bytes = stream::unfold(response, move |mut response| async move {
        let piece = match tokio::time::timeout(silence, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece?),
            Ok(Err(error)) => Err(Failure::passing(in_words(&error))),
            Err(_) => {
                let why = format!("nothing came for {} s", silence.as_secs());
                Err(Failure::passing(why))
            }
        };
        Some((piece, response))
    });
    bytes.and_then(move |piece| {
        all = all.saturating_add(piece.len());
        line = match memchr::memrchr(b'\n', &piece) {
            Some(at) => piece.len() - at,
            None => line.saturating_add(piece.len()),
        };
        let fits = line <= MAX_LINE && all <= MAX_STREAM;
        let too_long = || Failure::last("its answer is too long");
        std::future::ready(fits.then_some(piece).ok_or_else(too_long))
    })
}

/// Why a stream ended before its end.
fn broken(error: sse_stream::Error) -> Failure {
    match error {
        sse_stream::Error::Body(inner) => match inner.downcast() {
            Ok(failure) => *failure,
            Err(_) => Failure::passing("the connection broke"),
        },
        _ => Failure::last("it sends what is no stream of events; is its address right?"),
    }
}

/// An error and its causes.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
}

/// What it means that a request could not be sent.
fn unsent(error: &reqwest::Error, local: bool) -> Failure {
    let why = in_words(error);
    let refused = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::ConnectionRefused;
    if local && causes(error).any(|cause| cause.downcast_ref().is_some_and(refused)) {
        return Failure::new(Kind::NotThere, format!("{why}; does it run?"));
    }
    // Waiting makes no certificate good.
    let untrusted = |cause: &rustls::Error| matches!(cause, rustls::Error::InvalidCertificate(_));
    let is_untrusted = causes(error).any(|cause| cause.downcast_ref().is_some_and(untrusted));
    match is_untrusted || error.is_builder() {
        true => Failure::last(why),
        false => Failure::passing(why),
    }
}

/// An error with its causes. The address is left out: it may hold a password.
fn in_words(error: &reqwest::Error) -> String {
    let words = match () {
        () if error.is_timeout() => "it takes too long to answer",
        () if error.is_connect() => "it can't be connected",
        () => "the connection broke",
    };
    match causes(error).skip(1).last() {
        Some(last) => format!("{words}: {last}"),
        None => words.to_owned(),
    }
}
