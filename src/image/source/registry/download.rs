//! Bringing one blob in: streamed, checked, gone on with where it broke off, tried again where that may help.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use oci_client::errors::OciDistributionError;
use tokio::sync::mpsc;

use super::RegistryError;
use super::endpoint::Endpoint;
use super::reader::Blob;
use crate::image::ImageError;
use crate::image::store::blobs::{Blobs, Digest, Partial};

/// How often a step that gets nowhere is tried again.
const RETRIES: usize = 4;

/// Pieces between the network and the disk.
const PIECES: usize = 64;

pub(super) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(8))
        .with_max_times(RETRIES)
        .with_jitter()
        .build()
}

/// A blob to bring in.
pub(super) struct Wanted<'a> {
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    /// Told how much of it is there.
    pub(super) report: &'a (dyn Fn(u64) + Sync),
    /// Told why it is tried again.
    pub(super) again: &'a (dyn Fn(String) + Sync),
}

/// Brings a blob in from the first of several hosts that gives it.
pub(super) async fn blob(
    endpoints: &[&Endpoint],
    blobs: &Blobs,
    wanted: &Wanted<'_>,
) -> Result<(), ImageError> {
    let mut last = None;
    for endpoint in endpoints {
        match from(endpoint, blobs, wanted).await {
            Ok(()) => return Ok(()),
            Err(error @ ImageError::Io { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(host = endpoint.host, digest = %wanted.digest, error = &error as &dyn std::error::Error, "could not get a blob");
                last = Some(error);
            }
        }
    }
    // There is always the registry itself.
    Err(last.unwrap_or_else(|| ImageError::WrongBlob {
        digest: wanted.digest.clone(),
        problem: "nobody was there to ask".into(),
    }))
}

async fn from(endpoint: &Endpoint, blobs: &Blobs, wanted: &Wanted<'_>) -> Result<(), ImageError> {
    let mut delays = backoff();
    let mut begun_anew = false;
    let mut reached = 0;
    loop {
        if blobs.size(wanted.digest) == Some(wanted.size) {
            (wanted.report)(wanted.size);
            return Ok(());
        }
        let (again, digest, size) = (blobs.clone(), wanted.digest.clone(), wanted.size);
        let begin = tokio::task::spawn_blocking(move || again.begin(&digest, size)).await;
        let Some(partial) = begin.map_err(ImageError::unpack)?? else {
            // Another process, or another image of ours, brings it in: theirs will do.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let there = partial.done();
        let error = match attempt(endpoint, partial, wanted).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let now = partial_size(blobs, wanted.digest);
        if now > reached {
            // It got on, if only by a piece: that is not the same failure over and over.
            (reached, delays) = (now, backoff());
        }
        match &error {
            ImageError::Registry(error) if error.is_passing() => {}
            // What was gone on with may have been wrong already.
            ImageError::WrongBlob { .. } if there > 0 && !begun_anew => begun_anew = true,
            _ => return Err(error),
        }
        let Some(delay) = delays.next() else {
            return Err(error);
        };
        (wanted.again)(error.to_string());
        tokio::time::sleep(delay).await;
    }
}

fn partial_size(blobs: &Blobs, digest: &Digest) -> u64 {
    blobs.partial_size(digest).unwrap_or(0)
}

/// One request for what is missing of a blob.
async fn attempt(
    endpoint: &Endpoint,
    mut partial: Partial,
    wanted: &Wanted<'_>,
) -> Result<(), ImageError> {
    let explain = |error| ImageError::from(endpoint.explain(error));
    let mut done = partial.done();
    (wanted.report)(done);
    if done < wanted.size {
        let mut response = match endpoint.reader.blob(wanted.digest.as_str(), done).await {
            Ok(Blob::Rest(response)) => response,
            Ok(Blob::Whole(response)) => {
                partial.restart()?;
                done = 0;
                response
            }
            Err(OciDistributionError::ServerError { code: 416, .. }) => {
                partial.restart()?;
                return Err(endpoint
                    .unreachable("it does not go on with what was broken off; beginning anew")
                    .into());
            }
            Err(error) => return Err(explain(error)),
        };
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = pieces.blocking_recv() {
                partial.write(&piece)?;
            }
            Ok::<_, ImageError>(partial)
        });
        let mut broke = None;
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    broke = Some(error);
                    break;
                }
            };
            done += piece.len() as u64;
            if sender.send(piece).await.is_err() {
                // The writer says why it stopped.
                break;
            }
            (wanted.report)(done);
        }
        drop(sender);
        partial = writer.await.map_err(ImageError::unpack)??;
        if let Some(error) = broke {
            if partial.done() < wanted.size {
                return Err(explain(OciDistributionError::RequestError(error)));
            }
        } else if partial.done() < wanted.size {
            return Err(endpoint.unreachable("its answer ended early").into());
        }
    }
    match tokio::task::spawn_blocking(move || partial.finish())
        .await
        .map_err(ImageError::unpack)?
    {
        Err(ImageError::WrongBlob { digest, problem }) => Err(ImageError::WrongBlob {
            digest,
            problem: format!("{problem} as {} gives it", endpoint.host),
        }),
        other => other,
    }
}

impl Endpoint {
    fn unreachable(&self, problem: &str) -> RegistryError {
        RegistryError::Unreachable {
            host: self.host.clone(),
            problem: problem.to_owned(),
            passing: true,
        }
    }
}
