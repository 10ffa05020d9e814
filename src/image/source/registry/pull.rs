//! Pulling an image: what a reference stands for now, and all its blobs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt};

use super::download::{self, Wanted};
use super::endpoint::Endpoint;
use super::{Registries, RegistryError};
use crate::image::ImageError;
use crate::image::content::{Content, MAX_JSON, Node, described};
use crate::image::platform::{Processor, choose};
use crate::image::reference::RegistryRef;
use crate::image::store::blobs::{Blobs, Digest};
use crate::image::store::free_space;
use crate::progress::{Progress, Step};

/// How many layers come in at once.
const AT_ONCE: usize = 4;

/// The most that the layers of an image may have together, compressed.
const MAX_BYTES: u64 = 64 << 30;

/// How many indexes may be nested.
const MAX_DEPTH: u32 = 3;

/// A pulled image.
#[derive(Debug)]
pub struct Pulled {
    /// What it is made of.
    pub content: Content,
    /// What the reference stands for: the digest of an index, or of the manifest itself.
    pub digest: Digest,
}

/// What a reference stands for.
struct Found {
    digest: Digest,
    manifest: Digest,
    json: Vec<u8>,
}

impl Registries {
    /// Brings an image's blobs in, of several those for `processor`. `known` is asked of a manifest before its blobs are fetched: whether the image is
    /// here already; then nothing more is done.
    pub async fn pull(
        &self,
        image: &RegistryRef,
        blobs: &Blobs,
        processor: Processor,
        known: impl Fn(&Digest) -> bool,
        progress: &Progress,
    ) -> Result<Option<Pulled>, ImageError> {
        progress.say(format!("asking {} for {image}", image.registry()));
        let endpoints = Endpoint::all(self, image, progress).await?;
        let (first, found) = resolve(&endpoints, processor, progress).await?;
        if known(&found.manifest) {
            return Ok(None);
        }
        // The one that knew the image first, then those behind it.
        let hosts: Vec<&Endpoint> = endpoints[first..].iter().collect();
        let wrong = |problem: String| ImageError::from(hosts[0].wrong(problem));
        let Node::Image(manifest) = Node::parse(&found.json).map_err(wrong)? else {
            return Err(wrong("its index leads to an index only".into()));
        };
        let (config, config_size) = described(&manifest.config).map_err(wrong)?;
        if config_size > MAX_JSON {
            return Err(wrong(format!(
                "its configuration has {config_size} bytes; at most {MAX_JSON} are taken"
            )));
        }
        let mut layers = BTreeMap::new();
        for layer in &manifest.layers {
            if layer.media_type.contains("encrypted") {
                return Err(wrong(
                    "it has encrypted layers, which are not supported".into(),
                ));
            }
            let (digest, size) = described(layer).map_err(wrong)?;
            layers.insert(digest, size);
        }
        let total = layers
            .values()
            .fold(0u64, |sum, size| sum.saturating_add(*size));
        if total > MAX_BYTES {
            return Err(wrong(format!(
                "its layers have {total} bytes; at most {MAX_BYTES} are taken"
            )));
        }
        // Unpacked they take as much again at the least.
        let missing = layers
            .iter()
            .map(|(digest, size)| blobs.missing(digest, *size));
        let missing = missing.fold(0u64, u64::saturating_add);
        free_space::check(
            &format!("pull {image}"),
            missing.saturating_add(total),
            blobs.dir(),
        )?;
        let tally = Tally::new(image, progress, &layers);
        let again = |why: String| progress.say(format!("trying again to {why}"));
        let small = Wanted {
            digest: &config,
            size: config_size,
            report: &|_| (),
            again: &again,
        };
        download::blob(&hosts, blobs, &small).await?;
        let mut fetch = Vec::new();
        for (digest, size) in &layers {
            fetch.push(layer(&hosts, blobs, digest, *size, &tally, &again).boxed());
        }
        futures_util::stream::iter(fetch)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        // Only now: a manifest among the blobs has its configuration beside it.
        blobs.put(&found.json)?;
        let content = Content::read(blobs, &found.manifest)?;
        Ok(Some(Pulled {
            content,
            digest: found.digest,
        }))
    }
}

async fn layer(
    hosts: &[&Endpoint],
    blobs: &Blobs,
    digest: &Digest,
    size: u64,
    tally: &Tally<'_>,
    again: &(dyn Fn(String) + Sync),
) -> Result<(), ImageError> {
    let report = |done| tally.report(digest, done);
    let wanted = Wanted {
        digest,
        size,
        report: &report,
        again,
    };
    download::blob(hosts, blobs, &wanted).await
}

/// What the reference stands for at the first host that knows it, and which that is.
async fn resolve(
    endpoints: &[Endpoint],
    processor: Processor,
    progress: &Progress,
) -> Result<(usize, Found), RegistryError> {
    let last = endpoints.len().saturating_sub(1);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut delays = download::backoff();
        let error = loop {
            let error = match find(endpoint, processor).await {
                Ok(found) => return Ok((index, found)),
                Err(error) => error,
            };
            // A mirror that is away is passed over, not waited for.
            match delays
                .next()
                .filter(|_| error.is_passing() && index == last)
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
            "passed over a mirror"
        );
    }
    Err(RegistryError::Settings {
        host: String::new(),
        problem: "there is no host to ask".into(),
    })
}

async fn find(endpoint: &Endpoint, processor: Processor) -> Result<Found, RegistryError> {
    let mut json = endpoint.manifest(None).await?;
    let digest = Digest::of(&json);
    let mut manifest = digest.clone();
    for _ in 0..MAX_DEPTH {
        match Node::parse(&json).map_err(|problem| endpoint.wrong(problem))? {
            Node::Image(_) => {
                return Ok(Found {
                    digest,
                    manifest,
                    json,
                });
            }
            Node::Index(index) => {
                manifest = choose(&index, processor).map_err(|problem| endpoint.wrong(problem))?;
                json = endpoint.manifest(Some(&manifest)).await?;
            }
        }
    }
    Err(endpoint.wrong("its indexes are nested too deeply".into()))
}

/// How far an image has come, told layer by layer and as a whole, ten times a second at most.
struct Tally<'a> {
    image: String,
    progress: &'a Progress,
    total: u64,
    layers: Mutex<BTreeMap<&'a Digest, LayerTally>>,
}

struct LayerTally {
    done: u64,
    size: u64,
    said: Option<Instant>,
}

impl<'a> Tally<'a> {
    fn new(image: &RegistryRef, progress: &'a Progress, layers: &'a BTreeMap<Digest, u64>) -> Self {
        let tally = |(digest, size): (&'a Digest, &u64)| {
            (
                digest,
                LayerTally {
                    done: 0,
                    size: *size,
                    said: None,
                },
            )
        };
        Self {
            image: image.to_string(),
            progress,
            total: layers.values().sum(),
            layers: Mutex::new(layers.iter().map(tally).collect()),
        }
    }

    fn report(&self, digest: &Digest, done: u64) {
        let mut layers = self
            .layers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(layer) = layers.get_mut(digest) else {
            return;
        };
        layer.done = done;
        let finished = done == layer.size;
        if !finished
            && layer
                .said
                .is_some_and(|at| at.elapsed() < Duration::from_millis(100))
        {
            return;
        }
        layer.said = Some(Instant::now());
        let size = layer.size;
        let all = layers.values().map(|layer| layer.done).sum();
        drop(layers);
        let whole = Step {
            message: format!("pulling {}", self.image),
            done: Some(all),
            total: Some(self.total),
            part: None,
        };
        self.progress.step(Step {
            message: format!("layer {}", &digest.hex()[..12]),
            done: Some(done),
            total: Some(size),
            part: Some(digest.hex().to_owned()),
        });
        self.progress.step(whole);
    }
}
