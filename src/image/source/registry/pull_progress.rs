//! Reports the progress of a pull.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::image::digest::Digest;
use crate::image::reference::RegistryRef;
use crate::progress::{Progress, Step};

/// The progress of a pull. It is reported for each layer and for the image, at most ten times a second.
pub(super) struct PullProgress<'a> {
    image: String,
    progress: &'a Progress,
    total: u64,
    layers: Mutex<BTreeMap<&'a Digest, LayerProgress>>,
}

struct LayerProgress {
    done: u64,
    size: u64,
    reported: Option<Instant>,
}

impl<'a> PullProgress<'a> {
    pub(super) fn new(
        image: &RegistryRef,
        progress: &'a Progress,
        layers: &'a BTreeMap<Digest, u64>,
    ) -> Self {
        let begin = |(digest, size): (&'a Digest, &u64)| {
            (
                digest,
                LayerProgress {
                    done: 0,
                    size: *size,
                    reported: None,
                },
            )
        };
        Self {
            image: image.to_string(),
            progress,
            total: layers.values().sum(),
            layers: Mutex::new(layers.iter().map(begin).collect()),
        }
    }

    /// Notes that `done` bytes of a layer are there.
    pub(super) fn report(&self, digest: &Digest, done: u64) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(layer) = layers.get_mut(digest) else {
            return;
        };
        layer.done = done;
        let finished = done == layer.size;
        if !finished
            && layer
                .reported
                .is_some_and(|at| at.elapsed() < Duration::from_millis(100))
        {
            return;
        }
        layer.reported = Some(Instant::now());
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
            message: format!("layer {}", digest.short()),
            done: Some(done),
            total: Some(size),
            part: Some(digest.hex().to_owned()),
        });
        self.progress.step(whole);
    }
}
