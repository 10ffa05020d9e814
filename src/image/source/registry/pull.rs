//! Pulls an image: resolves its reference, and downloads its blobs.

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt, TryStreamExt};

use crate::blocking::blocking;
use crate::image::content::Content;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_JSON, Manifest, digest_and_size};
use crate::image::platform::{Processor, choose};
use crate::image::reference::RegistryRef;
use crate::image::source::registry::download::{self, Download};
use crate::image::source::registry::endpoint::Endpoint;
use crate::image::source::registry::error::RegistryError;
use crate::image::source::registry::pull_progress::PullProgress;
use crate::image::source::registry::settings::Registries;
use crate::image::source::registry::transfer_error::TransferError;
use crate::image::store::blobs::Blobs;
use crate::image::store::free_space;
use crate::progress::Progress;

/// The number of layers that are downloaded at once.
const AT_ONCE: usize = 4;

/// The most that the compressed layers of an image may have together, in bytes.
const MAX_BYTES: u64 = 64 << 30;

/// How deeply indexes may be nested.
const MAX_DEPTH: u32 = 3;

/// A pulled image.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// Its content, whose blobs are all in the store.
    pub(crate) content: Content,
    /// The digest of the index or manifest that the reference meant.
    pub(crate) digest: Digest,
}

/// The image that a reference means.
struct Resolved {
    /// The digest of the index or manifest that the reference names.
    digest: Digest,
    /// The digest of the manifest for this processor.
    manifest: Digest,
    /// The text of that manifest.
    json: Vec<u8>,
}

/// The blobs that a manifest names, with their sizes.
struct Parts {
    config: (Digest, u64),
    layers: BTreeMap<Digest, u64>,
}

impl Registries {
    /// Downloads the blobs of an image; of several variants, that for `processor`. Returns `None` without downloading if
    /// `is_here` says that the manifest is in the store.
    pub(crate) async fn pull(
        &self,
        image: &RegistryRef,
        blobs: &Blobs,
        processor: Processor,
        is_here: impl Fn(&Digest) -> bool,
        progress: &Progress,
    ) -> Result<Option<Pulled>, TransferError> {
        progress.say(format!("asking {} for {image}", image.registry()));
        let endpoints = Endpoint::all(self, image, progress).await?;
        let (first, resolved) = resolve(&endpoints, processor, progress).await?;
        if is_here(&resolved.manifest) {
            return Ok(None);
        }
        // Hosts before the first one that knew the image are not asked for its blobs.
        let hosts: Vec<&Endpoint> = endpoints[first..].iter().collect();
        let parts = Parts::of(&resolved.json).map_err(|problem| hosts[0].wrong(problem))?;
        parts.require_space(image, blobs).await?;
        parts.download(image, &hosts, blobs, progress).await?;
        let (
            blobs,
            Resolved {
                digest,
                manifest,
                json,
            },
        ) = (blobs.clone(), resolved);
        blocking(move || {
            // The manifest is written last: so its configuration is in the store whenever the manifest is.
            blobs.put(&json)?;
            let content = Content::read(&blobs, &manifest)?;
            Ok(Some(Pulled { content, digest }))
        })
        .await
    }
}

impl Parts {
    /// The blobs of a manifest. The error is a sentence: `it has …`.
    fn of(manifest: &[u8]) -> Result<Self, String> {
        let Manifest::Image(manifest) = Manifest::parse(manifest)? else {
            return Err("its index leads to an index only".into());
        };
        let config = digest_and_size(&manifest.config)?;
        if config.1 > MAX_JSON {
            return Err(format!(
                "its configuration has {} bytes; at most {MAX_JSON} are taken",
                config.1
            ));
        }
        let mut layers = BTreeMap::new();
        for layer in &manifest.layers {
            if layer.media_type.contains("encrypted") {
                return Err("it has encrypted layers, which are not supported".into());
            }
            let (digest, size) = digest_and_size(layer)?;
            layers.insert(digest, size);
        }
        let parts = Self { config, layers };
        let total = parts.layer_bytes();
        if total > MAX_BYTES {
            return Err(format!(
                "its layers have {total} bytes; at most {MAX_BYTES} are taken"
            ));
        }
        Ok(parts)
    }

    fn layer_bytes(&self) -> u64 {
        self.layers
            .values()
            .fold(0u64, |sum, size| sum.saturating_add(*size))
    }

    /// Checks the free space for the missing layers and for the disk, which takes at least as much as all layers.
    async fn require_space(&self, image: &RegistryRef, blobs: &Blobs) -> Result<(), TransferError> {
        let (doing, blobs) = (format!("pull {image}"), blobs.clone());
        let (layers, total) = (self.layers.clone(), self.layer_bytes());
        blocking(move || {
            let missing = layers
                .iter()
                .map(|(digest, size)| blobs.missing(digest, *size));
            let missing = missing.fold(0u64, u64::saturating_add);
            free_space::require(&doing, missing.saturating_add(total), blobs.dir())?;
            Ok(())
        })
        .await
    }

    async fn download(
        &self,
        image: &RegistryRef,
        hosts: &[&Endpoint],
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<(), TransferError> {
        let pull = PullProgress::new(image, progress, &self.layers);
        let on_retry = |why: String| progress.say(format!("trying again to {why}"));
        let config = Download {
            digest: &self.config.0,
            size: self.config.1,
            on_progress: &|_| (),
            on_retry: &on_retry,
        };
        config.run(hosts, blobs).await?;
        let mut downloads = Vec::new();
        for (digest, size) in &self.layers {
            let (pull, on_retry) = (&pull, &on_retry);
            let download = async move {
                let layer = Download {
                    digest,
                    size: *size,
                    on_progress: &|done| pull.report(digest, done),
                    on_retry,
                };
                layer.run(hosts, blobs).await
            };
            downloads.push(download.boxed());
        }
        futures_util::stream::iter(downloads)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }
}

/// Resolves the reference at the first host that knows it. Returns the index of that host, too.
async fn resolve(
    endpoints: &[Endpoint],
    processor: Processor,
    progress: &Progress,
) -> Result<(usize, Resolved), RegistryError> {
    let last = endpoints.len().saturating_sub(1);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut delays = download::backoff();
        let error = loop {
            let error = match resolve_at(endpoint, processor).await {
                Ok(resolved) => return Ok((index, resolved)),
                Err(error) => error,
            };
            // A mirror that fails is skipped at once; only the registry itself is asked again.
            match delays
                .next()
                .filter(|_| error.is_temporary() && index == last)
            {
                Some(delay) => {
                    progress.say(format!("trying again to {error}"));
                    tokio::time::sleep(delay).await;
                }
                None => break error,
            }
        };
        if index == last {
            return Err(error);
        }
        tracing::warn!(
            host = endpoint.host,
            error = &error as &dyn std::error::Error,
            "skipped a mirror"
        );
    }
    Err(RegistryError::Settings {
        host: String::new(),
        problem: "there is no host to ask".into(),
    })
}

async fn resolve_at(endpoint: &Endpoint, processor: Processor) -> Result<Resolved, RegistryError> {
    let mut json = endpoint.manifest(None).await?;
    let digest = Digest::of(&json);
    let mut manifest = digest.clone();
    for _ in 0..MAX_DEPTH {
        match Manifest::parse(&json).map_err(|problem| endpoint.wrong(problem))? {
            Manifest::Image(_) => {
                return Ok(Resolved {
                    digest,
                    manifest,
                    json,
                });
            }
            Manifest::Index(index) => {
                manifest = choose(&index, processor).map_err(|problem| endpoint.wrong(problem))?;
                json = endpoint.manifest(Some(&manifest)).await?;
            }
        }
    }
    Err(endpoint.wrong("its indexes are nested too deeply".into()))
}
