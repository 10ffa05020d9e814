//! Reads the bodies of requests: each bounded in length and time, and all of them together bounded in memory until their
//! answers are sent.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;

use super::envelope::EnvelopeScanner;
use super::malformed::{MAX_MESSAGE, Malformed};
use super::reply::{self, malformed_reply};

/// The unit in which memory is counted, in bytes.
const UNIT: usize = 1024;

/// The limits of bodies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// How long the next piece of a body may take, and how long it may wait for memory.
    pub(crate) piece_timeout: Duration,
    /// How long a whole body may take.
    pub(crate) body_timeout: Duration,
    /// How many bytes the bodies of all requests in progress may take together.
    pub(crate) bytes: usize,
}

impl Default for BodyLimits {
    /// The longest message may come at 2 Mbit/s, and there is memory for two of them.
    fn default() -> Self {
        Self {
            piece_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(300),
            bytes: 2 * MAX_MESSAGE,
        }
    }
}

/// Reads bodies within the limits.
#[derive(Debug)]
pub(crate) struct BodyReader {
    limits: BodyLimits,
    memory: Arc<Semaphore>,
}

impl Default for BodyReader {
    fn default() -> Self {
        Self::new(BodyLimits::default())
    }
}

/// A body, and the memory that is reserved for it.
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    pub(crate) reserved: Option<OwnedSemaphorePermit>,
}

type Refused = Box<Response>;

fn refuse(status: StatusCode, why: &str) -> Refused {
    Box::new(reply::refuse(status, why))
}

impl BodyReader {
    pub(crate) fn new(limits: BodyLimits) -> Self {
        Self {
            limits,
            memory: Arc::new(Semaphore::new(limits.bytes / UNIT)),
        }
    }

    /// Reads a whole body, if it is not too long and comes in time.
    pub(crate) async fn read(&self, body: Body) -> Result<ReadBody, Refused> {
        let all = tokio::time::timeout(self.limits.body_timeout, self.collect(body));
        all.await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn collect(&self, body: Body) -> Result<ReadBody, Refused> {
        let mut pieces = body.into_data_stream();
        let mut whole = Vec::new();
        let mut reserved: Option<OwnedSemaphorePermit> = None;
        loop {
            let piece = tokio::time::timeout(self.limits.piece_timeout, pieces.next()).await;
            let piece = match piece.map_err(|_| self.too_slow())? {
                None => break,
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    let why = format!("the body broke off: {error}");
                    return Err(refuse(StatusCode::BAD_REQUEST, &why));
                }
            };
            if whole.len() + piece.len() > MAX_MESSAGE {
                let mut scan = EnvelopeScanner::default();
                scan.feed(&whole);
                scan.feed(&piece);
                let malformed = Malformed::too_long(scan.envelope());
                return Err(Box::new(malformed_reply(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &malformed,
                )));
            }
            let held = reserved
                .as_ref()
                .map_or(0, OwnedSemaphorePermit::num_permits);
            let needed = (whole.len() + piece.len())
                .div_ceil(UNIT)
                .saturating_sub(held);
            if needed > 0 {
                let more = self.reserve(needed).await?;
                match &mut reserved {
                    Some(reserved) => reserved.merge(more),
                    None => reserved = Some(more),
                }
            }
            whole.extend_from_slice(&piece);
        }
        Ok(ReadBody {
            bytes: whole.into(),
            reserved,
        })
    }

    async fn reserve(&self, units: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let more = self.memory.clone().acquire_many_owned(units);
        match tokio::time::timeout(self.limits.piece_timeout, more).await {
            Ok(Ok(more)) => Ok(more),
            _ => Err(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the messages in progress take all the memory that is allowed: send this one again later",
            )),
        }
    }

    fn too_slow(&self) -> Refused {
        let why = format!(
            "the body came too slowly: the timeout is {} s for each piece and {} s for the whole",
            self.limits.piece_timeout.as_secs(),
            self.limits.body_timeout.as_secs()
        );
        refuse(StatusCode::REQUEST_TIMEOUT, &why)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn reader(bytes: usize) -> BodyReader {
        BodyReader::new(BodyLimits {
            piece_timeout: Duration::from_secs(1),
            body_timeout: Duration::from_secs(3),
            bytes,
        })
    }

    /// A body of pieces, one every so many milliseconds.
    fn dripping(every: u64, pieces: usize) -> Body {
        let ticks = tokio_stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(every)).await;
            Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 1000]))
        });
        Body::from_stream(ticks)
    }

    async fn status(reader: &BodyReader, body: Body) -> u16 {
        match reader.read(body).await {
            Ok(_) => 200,
            Err(refused) => refused.status().as_u16(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_or_long_body_is_refused() {
        let reader = reader(2 * MAX_MESSAGE);
        assert_eq!(status(&reader, dripping(900, 3)).await, 200);
        assert_eq!(status(&reader, dripping(1100, 1)).await, 408, "a piece");
        assert_eq!(status(&reader, dripping(900, 4)).await, 408, "the whole");
        assert_eq!(status(&reader, dripping(0, 70_000)).await, 413);
        let free = reader.memory.available_permits();
        assert_eq!(free * UNIT, 2 * MAX_MESSAGE, "nothing is held");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_reserved_until_the_answer_is_sent() {
        let reader = reader(4 * UNIT);
        let first = reader
            .read(dripping(0, 3))
            .await
            .unwrap_or_else(|_| panic!("there is memory"));
        assert_eq!(first.bytes.len(), 3000);
        assert_eq!(status(&reader, dripping(0, 2)).await, 503);
        assert_eq!(status(&reader, dripping(0, 1)).await, 200);
        drop(first);
        assert_eq!(status(&reader, dripping(0, 4)).await, 200);
    }
}
