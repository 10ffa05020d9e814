//! The server's answer, as the guest gets it: with values hidden, or as the beginning of a tunnel.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version, response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::body::{Body, BodyError, Download, hide};
use super::exchange::{Exchange, Failure, Upgrade};
use super::report::Account;
use super::{head, tunnel};
use crate::network::secrets::Used;
use crate::network::secrets::mask::{Fit, Mask, Patterns};

/// The longest body, in bytes, that is read as a whole to hide values in it: its length may change then.
const WHOLE: u64 = 64 << 10;

/// A body that values are to be hidden in.
struct Hidden {
    body: Incoming,
    patterns: Patterns,
    /// Whether the answer is one that has a body.
    has_body: bool,
}

impl Exchange {
    /// Hands the server's answer on.
    pub(super) async fn respond(
        &self,
        response: Response<Incoming>,
        method: &Method,
        used: &Used,
        patterns: Option<Patterns>,
        account: &Account,
    ) -> Result<Response<Body>, Failure> {
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::UNAUTHORIZED {
            used.refused().await;
        }
        let plain = |name: HeaderName, word: &str| {
            head.headers
                .get_all(name)
                .iter()
                .all(|value| value.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
        };
        let (framed, encoded) = (
            plain(TRANSFER_ENCODING, "chunked"),
            !plain(CONTENT_ENCODING, "identity"),
        );
        if !framed || (encoded && !used.is_empty()) {
            let why = "the server compresses its answer, although it was asked not to: a secret in it would not be found";
            return Err(self.failed(account, StatusCode::BAD_GATEWAY, why.to_owned()));
        }
        head::strip(&mut head.headers);
        head.extensions = http::Extensions::new();
        head.version = Version::default();
        let Some(patterns) = patterns else {
            let body = Download::new(body, account.clone());
            return Ok(Response::from_parts(head, body.boxed_unsync()));
        };
        hide(&mut head.headers, &patterns);
        let hidden = Hidden {
            body,
            patterns,
            has_body: *method != Method::HEAD && head.status != StatusCode::NOT_MODIFIED,
        };
        let body = self.hidden(&mut head, hidden, account).await?;
        Ok(Response::from_parts(head, body))
    }

    /// The body with values hidden; a short one is read as a whole, so that its length may be stated anew.
    async fn hidden(
        &self,
        head: &mut response::Parts,
        of: Hidden,
        account: &Account,
    ) -> Result<Body, Failure> {
        let length = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let short = length.is_some_and(|length| length <= WHOLE)
            && of.has_body
            && head.status != StatusCode::PARTIAL_CONTENT;
        let fit = match length {
            Some(_) if !short => Fit::Length,
            _ => Fit::Exact,
        };
        let (quiet, account) = (self.limits.quiet, account.clone());
        let masked = Download::masked(of.body, of.patterns, fit, quiet, account).boxed_unsync();
        if !short {
            return Ok(masked);
        }
        let whole = masked.collect().await.map_err(Failure::Broken)?;
        let trailers = whole.trailers().cloned();
        let whole = whole.to_bytes();
        head.headers.insert(CONTENT_LENGTH, whole.len().into());
        let trailers = std::future::ready(trailers.map(Ok));
        Ok(whole_body(whole).with_trailers(trailers).boxed_unsync())
    }

    /// Goes on with another protocol.
    pub(super) fn change(
        &self,
        mut response: Response<Incoming>,
        upgrade: Option<Upgrade>,
        patterns: Option<Patterns>,
        account: &Account,
    ) -> Result<Response<Body>, Failure> {
        let agreed = |asked: &HeaderValue, told: Option<&HeaderValue>| {
            told.is_some_and(|told| told.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        };
        let Some((guest, protocol)) =
            upgrade.filter(|(_, asked)| agreed(asked, response.headers().get(UPGRADE)))
        else {
            self.ending.cancel();
            let why = "the server changes to another protocol than it was asked to".to_owned();
            return Err(self.failed(account, StatusCode::BAD_GATEWAY, why));
        };
        let server = hyper::upgrade::on(&mut response);
        let mask = patterns
            .clone()
            .map(|patterns| (Mask::new(patterns, Fit::Length), self.limits.quiet));
        let (limit, counted) = (self.limits.handshake, account.clone());
        self.tunnels.spawn(async move {
            let both = async { tokio::try_join!(guest, server) };
            let ended = match tokio::time::timeout(limit, both).await {
                Ok(Ok((guest, server))) => {
                    let carried =
                        tunnel::carry(TokioIo::new(guest), TokioIo::new(server), mask, &counted)
                            .await;
                    carried.map_err(BodyError::from)
                }
                Ok(Err(error)) => Err(error.into()),
                Err(slow) => Err(slow.into()),
            };
            if let Err(error) = ended {
                tracing::debug!(error, "a tunnel has ended");
            }
        });
        let (mut head, _) = response.into_parts();
        head::strip(&mut head.headers);
        head.extensions = http::Extensions::new();
        if let Some(patterns) = &patterns {
            hide(&mut head.headers, patterns);
        }
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
        Ok(Response::from_parts(head, whole_body(Bytes::new())))
    }
}

fn whole_body(whole: Bytes) -> Body {
    Full::new(whole)
        .map_err(|never| match never {})
        .boxed_unsync()
}
