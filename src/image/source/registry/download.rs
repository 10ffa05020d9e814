//! Downloads a blob: streamed, checked, continued after an interruption, and retried after temporary errors.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use oci_client::errors::OciDistributionError;
use reqwest::Response;
use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::image::digest::Digest;
use crate::image::source::registry::endpoint::Endpoint;
use crate::image::source::registry::error::RegistryError;
use crate::image::source::registry::reader::Blob;
use crate::image::source::registry::transfer_error::TransferError;
use crate::image::store::blob_error::BlobError;
use crate::image::store::blobs::Blobs;
use crate::image::store::partial_blob::PartialBlob;

/// How often a step without progress is retried.
const RETRIES: usize = 4;

/// The most pieces between the network and the disk.
const PIECES: usize = 64;

/// How long to wait before a partial blob is looked at again that another process writes.
const POLL: Duration = Duration::from_millis(200);

/// The delays between retries.
pub(super) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(8))
        .with_max_times(RETRIES)
        .with_jitter()
        .build()
}

/// A blob to download.
pub(super) struct Download<'a> {
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    /// Called with the bytes that are there.
    pub(super) on_progress: &'a (dyn Fn(u64) + Sync),
    /// Called with the error before a retry.
    pub(super) on_retry: &'a (dyn Fn(String) + Sync),
}

/// The part of a blob that is in the store.
enum Stored {
    Whole,
    /// The partial blob, ready to be continued.
    Partial(PartialBlob),
    /// Another process, or another download of this one, writes it.
    Busy,
}

impl Download<'_> {
    /// Downloads the blob from the first of several hosts that gives it.
    pub(super) async fn run(
        &self,
        endpoints: &[&Endpoint],
        blobs: &Blobs,
    ) -> Result<(), TransferError> {
        let mut last = None;
        for endpoint in endpoints {
            match self.run_from(endpoint, blobs).await {
                Ok(()) => return Ok(()),
                Err(error @ (TransferError::File(_) | TransferError::Blob(BlobError::File(_)))) => {
                    return Err(error);
                }
                Err(error) => {
                    let reason = &error as &dyn std::error::Error;
                    tracing::warn!(host = endpoint.host, digest = %self.digest, error = reason, "could not get a blob");
                    last = Some(error);
                }
            }
        }
        // The registry itself is always one of the hosts.
        Err(last.unwrap_or_else(|| {
            TransferError::Blob(BlobError::Wrong {
                digest: self.digest.clone(),
                problem: "there was no host to ask".into(),
            })
        }))
    }

    async fn run_from(&self, endpoint: &Endpoint, blobs: &Blobs) -> Result<(), TransferError> {
        let mut delays = backoff();
        let mut restarted = false;
        let mut reached = 0;
        loop {
            let partial = match self.stored(blobs).await? {
                Stored::Whole => {
                    (self.on_progress)(self.size);
                    return Ok(());
                }
                Stored::Busy => {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                Stored::Partial(partial) => partial,
            };
            let before = partial.done();
            let error = match self.attempt(endpoint, partial).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let now = self.partial_size(blobs).await;
            if now > reached {
                // An attempt that made progress does not count as a failure.
                (reached, delays) = (now, backoff());
            }
            match &error {
                TransferError::Registry(error) if error.is_temporary() => {}
                // The bytes of an earlier download may have been wrong.
                TransferError::Blob(BlobError::Wrong { .. }) if before > 0 && !restarted => {
                    restarted = true;
                }
                _ => return Err(error),
            }
            let Some(delay) = delays.next() else {
                return Err(error);
            };
            (self.on_retry)(error.to_string());
            tokio::time::sleep(delay).await;
        }
    }

    async fn stored(&self, blobs: &Blobs) -> Result<Stored, TransferError> {
        let (blobs, digest, size) = (blobs.clone(), self.digest.clone(), self.size);
        blocking(move || {
            if blobs.size(&digest) == Some(size) {
                return Ok(Stored::Whole);
            }
            let partial = blobs.begin(&digest, size)?;
            Ok(partial.map_or(Stored::Busy, Stored::Partial))
        })
        .await
    }

    async fn partial_size(&self, blobs: &Blobs) -> u64 {
        let (blobs, digest) = (blobs.clone(), self.digest.clone());
        blocking(move || blobs.partial_size(&digest).unwrap_or(0)).await
    }

    /// Sends one request for the missing bytes of the blob.
    async fn attempt(
        &self,
        endpoint: &Endpoint,
        mut partial: PartialBlob,
    ) -> Result<(), TransferError> {
        let mut done = partial.done();
        (self.on_progress)(done);
        if done < self.size {
            let response = match endpoint.reader.blob(self.digest.as_str(), done).await {
                Ok(Blob::Rest(response)) => response,
                Ok(Blob::Whole(response)) => {
                    partial = restart(partial).await?;
                    done = 0;
                    response
                }
                Err(OciDistributionError::ServerError { code: 416, .. }) => {
                    restart(partial).await?;
                    let problem = "it can't continue an interrupted download; starting again";
                    return Err(endpoint.interrupted(problem).into());
                }
                Err(error) => return Err(endpoint.explain(error).into()),
            };
            let (written, failed) = self.write(response, partial, done).await?;
            partial = written;
            if partial.done() < self.size {
                return Err(match failed {
                    Some(error) => endpoint
                        .explain(OciDistributionError::RequestError(error))
                        .into(),
                    None => endpoint.interrupted("its answer ended early").into(),
                });
            }
        }
        match blocking(move || partial.finish()).await {
            Err(BlobError::Wrong { digest, problem }) => Err(BlobError::Wrong {
                digest,
                problem: format!("{problem} as {} gives it", endpoint.host),
            }
            .into()),
            other => Ok(other?),
        }
    }

    /// Writes the body of a response to the partial blob. Returns that, and the error that ended the response early.
    async fn write(
        &self,
        mut response: Response,
        mut partial: PartialBlob,
        mut done: u64,
    ) -> Result<(PartialBlob, Option<reqwest::Error>), TransferError> {
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let write = blocking(move || {
            while let Some(piece) = pieces.blocking_recv() {
                partial.write(&piece)?;
            }
            Ok::<_, BlobError>(partial)
        });
        let receive = async move {
            loop {
                let piece = match response.chunk().await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                };
                done += piece.len() as u64;
                if sender.send(piece).await.is_err() {
                    // The writer stopped, and returns the error.
                    return None;
                }
                (self.on_progress)(done);
            }
        };
        let (written, failed) = tokio::join!(write, receive);
        Ok((written?, failed))
    }
}

async fn restart(mut partial: PartialBlob) -> Result<PartialBlob, TransferError> {
    blocking(move || {
        partial.restart()?;
        Ok(partial)
    })
    .await
}

impl Endpoint {
    fn interrupted(&self, problem: &str) -> RegistryError {
        RegistryError::Unreachable {
            host: self.host.clone(),
            problem: problem.to_owned(),
            temporary: true,
        }
    }
}
