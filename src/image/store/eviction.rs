//! Making room: what may go when nobody asked for it to stay.
//!
//! Blobs that no image names go, and blobs that came in only in part. Images go by how long nobody has used them, and
//! only those that a registry can give again: what was imported or built stays until somebody removes it by name.
//! Nothing goes that a VM runs on or a snapshot stands on.

use std::collections::BTreeSet;

use crate::image::store::blobs::Blobs;
use crate::image::{ImageError, ImageInfo, ImageKey, ImageStore};

/// What the store takes on the host's disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Root disks.
    pub disks: u64,
    /// Whole blobs.
    pub blobs: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.disks + self.blobs
    }
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images, the one not used for longest first.
    pub images: Vec<ImageKey>,
    /// How many bytes are free again.
    pub bytes: u64,
    /// Whether blobs were left alone because somebody fetches some just now.
    pub fetching: bool,
}

impl ImageStore {
    /// What the store takes now.
    pub fn usage(&self) -> Result<Usage, ImageError> {
        Ok(Usage {
            disks: self.disk_bytes()?,
            blobs: self.blobs().all()?.iter().map(|(_, size)| size).sum(),
        })
    }

    /// Removes what no image needs; with `all` also every image that a registry can give again and nobody uses.
    pub fn prune(&self, all: bool) -> Result<Pruned, ImageError> {
        let before = self.usage()?.total();
        let mut pruned = Pruned::default();
        if all {
            for image in self.expendable(None)? {
                if self.evict(&image)? {
                    pruned.images.push(image.record.key);
                }
            }
        }
        self.sweep()?;
        let partial = self.remove_blobs()?;
        pruned.fetching = partial.is_none();
        pruned.bytes = before.saturating_sub(self.usage()?.total()) + partial.unwrap_or(0);
        Ok(pruned)
    }

    /// Brings the store down to `limit` bytes, as far as that goes without what is in use and without `keep`.
    pub fn make_room(&self, limit: u64, keep: &ImageKey) -> Result<Pruned, ImageError> {
        let before = self.usage()?.total();
        let mut pruned = Pruned::default();
        if before <= limit {
            return Ok(pruned);
        }
        pruned.fetching = self.remove_blobs()?.is_none();
        for image in self.expendable(Some(keep))? {
            if self.usage()?.total() <= limit {
                break;
            }
            if self.evict(&image)? {
                pruned.images.push(image.record.key);
                pruned.fetching |= self.remove_blobs()?.is_none();
            }
        }
        pruned.bytes = before.saturating_sub(self.usage()?.total());
        Ok(pruned)
    }

    /// Images that may go, the one not used for longest first.
    fn expendable(&self, keep: Option<&ImageKey>) -> Result<Vec<ImageInfo>, ImageError> {
        let mut images = self.list()?;
        images
            .retain(|image| image.record.source.is_elsewhere() && Some(&image.record.key) != keep);
        images.sort_by_key(|image| image.last_used);
        Ok(images)
    }

    /// Removes an image unless it is in use, or not what it was when it was chosen.
    fn evict(&self, image: &ImageInfo) -> Result<bool, ImageError> {
        match self.remove(&image.record.key) {
            Ok(()) => Ok(true),
            Err(ImageError::InUse { .. } | ImageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes blobs that no image names; gives what partial ones took, or nothing while somebody fetches.
    pub(crate) fn remove_blobs(&self) -> Result<Option<u64>, ImageError> {
        let Some(_alone) = self.nobody_fetches()? else {
            return Ok(None);
        };
        let records = self.records()?;
        let needed: BTreeSet<_> = records
            .iter()
            .flat_map(|record| record.content.blobs())
            .collect();
        let all = self.blobs().all()?;
        let partial = self.blobs().partial()?;
        // All is asked by now; only then anything goes.
        for (digest, _) in all {
            if !needed.contains(&digest) {
                self.blobs().remove(&digest)?;
            }
        }
        Blobs::remove_partial(partial).map(Some)
    }
}
