//! Bodies of requests and answers: counted, held back until the server wants them, with secrets hidden.
//!
//! Nothing is read before the other side takes it, so a slow one slows the other down, and what waits here is one piece.

use std::error::Error;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::report::Account;
use crate::network::secrets::mask::{Fit, Mask, Patterns};

/// An error of a body.
pub(super) type BodyError = Box<dyn Error + Send + Sync>;

/// The body of an answer to the guest.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What tells a request's body to go.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// The server wants it.
    pub(super) wanted: CancellationToken,
    /// The server has answered without it.
    pub(super) answered: CancellationToken,
}

impl Gate {
    /// Waits until the server wants the body. A server that knows nothing of that says nothing, so it is not waited for
    /// any longer than `most`.
    async fn opens(self, most: Duration) {
        tokio::select! {
            biased;
            () = self.wanted.cancelled() => {}
            () = self.answered.cancelled() => std::future::pending().await,
            () = sleep(most) => {}
        }
    }
}

/// The body of a request.
pub(super) struct Upload {
    body: Incoming,
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    account: Account,
}

impl Upload {
    pub(super) fn new(body: Incoming, gate: Option<(Gate, Duration)>, account: Account) -> Self {
        let opens = |(gate, most): (Gate, Duration)| {
            Box::pin(gate.opens(most)) as Pin<Box<dyn Future<Output = ()> + Send>>
        };
        Self {
            body,
            gate: gate.map(opens),
            account,
        }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.as_mut().poll(context));
            self.gate = None;
        }
        let frame = ready!(pin!(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.account.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) struct Download {
    body: Incoming,
    mask: Option<Masking>,
    /// What comes after the data.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
    account: Account,
}

struct Masking {
    mask: Mask,
    fit: Fit,
    patterns: Patterns,
    /// When the server counts as silent, if something waits.
    silent: Pin<Box<Sleep>>,
    quiet: Duration,
}

impl Download {
    /// A body as it comes.
    pub(super) fn new(body: Incoming, account: Account) -> Self {
        Self {
            body,
            mask: None,
            trailers: None,
            ended: false,
            account,
        }
    }

    /// A body with values hidden. A server counts as silent after `quiet`.
    pub(super) fn masked(
        body: Incoming,
        patterns: Patterns,
        fit: Fit,
        quiet: Duration,
        account: Account,
    ) -> Self {
        let mask = Mask::new(patterns.clone(), fit);
        let mask = Some(Masking {
            mask,
            fit,
            patterns,
            silent: Box::pin(sleep(quiet)),
            quiet,
        });
        Self {
            body,
            mask,
            trailers: None,
            ended: false,
            account,
        }
    }

    fn data(&self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.account.received(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(Ok));
            }
            let this = &mut *self;
            let polled = pin!(&mut this.body).poll_frame(context);
            let frame = match (polled, &mut this.mask) {
                (Poll::Ready(frame), _) => frame.transpose()?,
                (Poll::Pending, Some(masking)) if masking.mask.waits() => {
                    ready!(masking.silent.as_mut().poll(context));
                    let released = masking.mask.release();
                    return self.data(released);
                }
                (Poll::Pending, _) => return Poll::Pending,
            };
            let rest = match frame.map(Frame::into_data) {
                Some(Ok(data)) => match &mut this.mask {
                    Some(masking) => {
                        masking
                            .silent
                            .as_mut()
                            .reset(Instant::now() + masking.quiet);
                        masking.mask.feed(data)
                    }
                    None => data,
                },
                after => {
                    this.ended = true;
                    this.trailers = after.and_then(Result::err).map(|frame| match &this.mask {
                        Some(masking) => frame_hidden(frame, &masking.patterns),
                        None => frame,
                    });
                    this.mask
                        .as_mut()
                        .map(|masking| masking.mask.finish())
                        .unwrap_or_default()
                }
            };
            if !rest.is_empty() {
                return self.data(rest);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.mask {
            Some(_) => self.ended && self.trailers.is_none(),
            None => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.mask {
            Some(Masking {
                fit: Fit::Exact, ..
            }) => SizeHint::default(),
            // What the mask holds back comes, too; the length counts before the first piece only.
            Some(_) | None => self.body.size_hint(),
        }
    }
}

fn frame_hidden(frame: Frame<Bytes>, patterns: &Patterns) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hide(&mut trailers, patterns);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// Hides values in headers.
pub(super) fn hide(headers: &mut HeaderMap, patterns: &Patterns) {
    let named: Vec<_> = headers
        .keys()
        .filter(|name| patterns.is_in_lowercase(name.as_str()))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Some(hidden) = patterns.hidden(value.as_bytes(), Fit::Exact) {
            // A placeholder has only letters that a header may have.
            *value = http::HeaderValue::from_maybe_shared(hidden)
                .unwrap_or_else(|_| http::HeaderValue::from_static(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_hidden_by_name_and_by_value() {
        let patterns = Patterns::new([("Secret-Value", "holder")].into_iter()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-secret-value", "1".parse().unwrap());
        headers.insert("x-a", "a Secret-Value b".parse().unwrap());
        headers.append("x-b", "Secret-Value".parse().unwrap());
        headers.append("x-b", "other".parse().unwrap());
        hide(&mut headers, &patterns);
        let mut left: Vec<&[u8]> = headers.values().map(http::HeaderValue::as_bytes).collect();
        left.sort_unstable();
        assert_eq!(left, [&b"a holder b"[..], b"holder", b"other"]);
    }
}
