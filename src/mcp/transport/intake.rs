//! Taking in the bodies of requests: each of a bounded length, in bounded time, and all of them together within
//! bounds, until their answers are given.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;

use crate::mcp::transport::LONGEST_MESSAGE;
use crate::mcp::transport::malformed::Malformed;
use crate::mcp::transport::post::refused;
use crate::mcp::transport::scan::Scan;

/// What is counted at once, in bytes.
const UNIT: usize = 1024;

/// The bounds of what comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long the next piece of a body may take, and room for it.
    pub(crate) piece_within: Duration,
    /// How long a whole body may take.
    pub(crate) whole_within: Duration,
    /// How many bytes of all requests together may be under way.
    pub(crate) bytes: usize,
}

impl Default for Bounds {
    /// The longest message has the time that it takes at 2 Mbit/s, and two of them have room.
    fn default() -> Self {
        Self {
            piece_within: Duration::from_secs(20),
            whole_within: Duration::from_secs(300),
            bytes: 2 * LONGEST_MESSAGE,
        }
    }
}

/// Where bodies are taken in.
#[derive(Debug)]
pub(crate) struct Intake {
    bounds: Bounds,
    room: Arc<Semaphore>,
}

impl Default for Intake {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

/// A body, and the room it takes.
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

type Refused = Box<Response>;

fn refuse(status: StatusCode, why: &str) -> Refused {
    Box::new((status, format!("{why}\n")).into_response())
}

impl Intake {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            room: Arc::new(Semaphore::new(bounds.bytes / UNIT)),
        }
    }

    /// The whole body, if it is not too long and comes in time.
    pub(crate) async fn take(&self, body: Body) -> Result<Taken, Refused> {
        let all = tokio::time::timeout(self.bounds.whole_within, self.collect(body));
        all.await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn collect(&self, body: Body) -> Result<Taken, Refused> {
        let mut pieces = body.into_data_stream();
        let mut whole = Vec::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        loop {
            let piece = tokio::time::timeout(self.bounds.piece_within, pieces.next()).await;
            let piece = match piece.map_err(|_| self.too_slow())? {
                None => break,
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    let why = format!("the body broke off: {error}");
                    return Err(refuse(StatusCode::BAD_REQUEST, &why));
                }
            };
            if whole.len() + piece.len() > LONGEST_MESSAGE {
                let mut scan = Scan::default();
                scan.feed(&whole);
                scan.feed(&piece);
                let malformed = Malformed::too_long(scan.found());
                return Err(Box::new(refused(StatusCode::PAYLOAD_TOO_LARGE, &malformed)));
            }
            let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let needed = (whole.len() + piece.len())
                .div_ceil(UNIT)
                .saturating_sub(held);
            if needed > 0 {
                let more = self.more(needed).await?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Taken {
            bytes: whole.into(),
            room,
        })
    }

    async fn more(&self, units: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let more = self.room.clone().acquire_many_owned(units);
        match tokio::time::timeout(self.bounds.piece_within, more).await {
            Ok(Ok(more)) => Ok(more),
            _ => Err(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the messages under way take all the room there is: send this one again later",
            )),
        }
    }

    fn too_slow(&self) -> Refused {
        let why = format!(
            "the body came too slowly: each piece is waited for {} s, the whole {} s",
            self.bounds.piece_within.as_secs(),
            self.bounds.whole_within.as_secs()
        );
        refuse(StatusCode::REQUEST_TIMEOUT, &why)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn intake(bytes: usize) -> Intake {
        Intake::new(Bounds {
            piece_within: Duration::from_secs(1),
            whole_within: Duration::from_secs(3),
            bytes,
        })
    }

    /// A piece each so many milliseconds.
    fn dripping(every: u64, pieces: usize) -> Body {
        let ticks = tokio_stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(every)).await;
            Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 1000]))
        });
        Body::from_stream(ticks)
    }

    async fn status(intake: &Intake, body: Body) -> u16 {
        match intake.take(body).await {
            Ok(_) => 200,
            Err(refused) => refused.status().as_u16(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_so_much_time() {
        let intake = intake(2 * LONGEST_MESSAGE);
        assert_eq!(status(&intake, dripping(900, 3)).await, 200);
        assert_eq!(status(&intake, dripping(1100, 1)).await, 408, "a piece");
        assert_eq!(status(&intake, dripping(900, 4)).await, 408, "the whole");
        assert_eq!(status(&intake, dripping(0, 70_000)).await, 413);
        let free = intake.room.available_permits();
        assert_eq!(free * UNIT, 2 * LONGEST_MESSAGE, "nothing is held");
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_held_until_the_answer_is_given() {
        let intake = intake(4 * UNIT);
        let first = intake
            .take(dripping(0, 3))
            .await
            .unwrap_or_else(|_| panic!("there is room"));
        assert_eq!(first.bytes.len(), 3000);
        assert_eq!(status(&intake, dripping(0, 2)).await, 503);
        assert_eq!(status(&intake, dripping(0, 1)).await, 200);
        drop(first);
        assert_eq!(status(&intake, dripping(0, 4)).await, 200);
    }
}
